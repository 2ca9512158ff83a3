"""Progress of runs while somebody waits: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nano_exp import files, runs


@dataclass(frozen=True)
class Sample:
    """Where a run stands, from its newest metrics.

    Parameters
    ----------
    rate: steps per second over the newest rows; None before there are two
    saying: before the first step, the newest line of the engine's output (warm start, loading, ...)
    nonfinite: the last step's metrics that were NaN or infinite
    """

    step: int = 0
    reward: float | None = None
    accuracy: float | None = None
    rate: float | None = None
    saying: str = ""
    nonfinite: tuple[str, ...] = ()


@dataclass(frozen=True)
class Newest:
    """The newest values in metrics.jsonl: the last step's reward, and the last validation's accuracy, if any.

    Parameters
    ----------
    nonfinite: the last step's metrics that were NaN or infinite
    """

    step: int = 0
    reward: float | None = None
    accuracy: float | None = None
    nonfinite: tuple[str, ...] = ()


def newest(run_dir: Path) -> Newest:
    """From the end of metrics.jsonl, as far back as it takes: validation is rare and rows are long."""
    step = reward = accuracy = None
    for lines in _ever_more_lines(run_dir / runs.METRICS):
        step, reward = _last(lines, "train/reward", _is_there), _last(lines, "train/reward")
        accuracy = _last(lines, "validation/accuracy")
        if reward and accuracy:
            break
    if step is None:
        return Newest(accuracy=_value(accuracy, "validation/accuracy"))
    names = runs.nonfinite_names(step)
    return Newest(step["step"], _value(reward, "train/reward"), _value(accuracy, "validation/accuracy"), names)


def _ever_more_lines(path: Path) -> Iterator[list[bytes]]:
    """The last lines of a file: those in its last 16 KiB, then in 16 times as much, until it is the whole file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            window = 16 * 1024
            while size:
                file.seek(max(0, size - window))
                yield file.read(min(size, window)).split(b"\n")
                if window >= size:
                    return
                window *= 16
    except OSError:
        return


Row = Mapping[str, Any]


def _value(row: Row | None, key: str) -> float | None:
    return runs.number(row.get(key)) if row else None


def _is_number(row: Row, key: str) -> bool:
    return _value(row, key) is not None


def _is_there(row: Row, key: str) -> bool:
    """Null counts: the step is done although its reward was not finite."""
    return key in row and (row[key] is None or _is_number(row, key))


def _last(lines: Sequence[bytes], key: str, wanted: Callable[[Row, str], bool] = _is_number) -> Row | None:
    """The last row with a number, or with what is wanted, under this key."""
    word = f'"{key}"'.encode()
    for line in reversed(lines):
        if word in line and (row := runs.metrics_row(line)) is not None and wanted(row, key):
            return row
    return None


def sample(run_dir: Path) -> Sample:
    """Where a run stands, and how quickly it goes on, by the last rows of metrics.jsonl."""
    now = newest(run_dir)
    if not now.step:
        return Sample(0, None, now.accuracy, None, _newest_line(run_dir))
    rows = runs.read_metrics(run_dir, tail_bytes=64 * 1024)
    window = [r for r in rows if _is_there(r, "train/reward")][-20:]
    rate = None
    if len(window) > 1 and _time(window[-1]) > _time(window[0]):
        rate = (window[-1]["step"] - window[0]["step"]) / (_time(window[-1]) - _time(window[0]))
    return Sample(now.step, now.reward, now.accuracy, rate, nonfinite=now.nonfinite)


def _newest_line(run_dir: Path) -> str:
    lines = files.tail(run_dir / "attempts" / "latest" / "stdout.log", window=4096).split("\n")[:-1]
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _time(row: Mapping[str, Any]) -> float:
    return runs.number(row.get("time")) or 0.0


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 12 min, 2 d 3 h: two units at most."""
    total = max(0, round(seconds))
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 3)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n) or "0 s"


def text(run_id: str, now: Sample, max_steps: int) -> str:
    """`r1a2b  step 40/120  reward 0.61  validation 0.55  4.1 steps/s  20 s left`, as far as known."""
    if now.step == 0:
        return f"{run_id}  {now.saying or 'starting ...'}"
    parts = [run_id, f"step {now.step}/{max_steps}"]
    if now.reward is not None:
        parts.append(f"reward {now.reward:.3f}")
    if now.accuracy is not None:
        parts.append(f"validation {now.accuracy:.3f}")
    if now.nonfinite:
        parts.append(f"{now.nonfinite[0]} is not finite")
    if now.rate:
        parts.append(f"{now.rate:.1f} steps/s" if now.rate >= 0.1 else f"{duration(1 / now.rate)} a step")
        parts.append(f"{duration((max_steps - now.step) / now.rate)} left")
    return "  ".join(parts)


class Live:
    """A line that is written over on a terminal, and repeated every `every_s` seconds in a log."""

    def __init__(self, out: TextIO | None = None, every_s: float = 15.0) -> None:
        self.out = out or sys.stderr
        self.every_s = every_s
        self.tty = self.out.isatty()
        self._last = 0.0
        self._shown = ""

    def show(self, line: str) -> None:
        now = time.monotonic()
        if self.tty:
            width = shutil.get_terminal_size((100, 24)).columns - 1
            self.out.write("\r\x1b[2K" + line[:width])
            self.out.flush()
        elif line != self._shown and (now - self._last >= self.every_s or not self._shown):
            self.out.write(line + "\n")
            self.out.flush()
            self._last = now
        self._shown = line

    def clear(self) -> None:
        if self.tty and self._shown:
            self.out.write("\r\x1b[2K")
            self.out.flush()
        self._shown = ""

    def say(self, line: str) -> None:
        """A lasting line above the live one."""
        self.clear()
        self.out.write(line + "\n")
        self.out.flush()


@contextmanager
def waiting(said: str, after_s: float = 1.0) -> Iterator[None]:
    """Say on a terminal what is waited for, once it takes longer than `after_s` seconds."""
    live = Live()
    timer = threading.Timer(after_s, live.show, [said]) if live.tty else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
            timer.join()
            live.clear()


def many(samples: Sequence[tuple[str, Sample, int]], done: int, total: int) -> str:
    """One line for several runs: how many are done, and each running one's step and reward."""
    parts = [f"{done}/{total} ended"]
    for run_id, now, max_steps in samples[:4]:
        reward = f" reward {now.reward:.2f}" if now.reward is not None else ""
        parts.append(f"{run_id} {now.step}/{max_steps}{reward}")
    if len(samples) > 4:
        parts.append(f"and {len(samples) - 4} more")
    return "  ".join(parts)
