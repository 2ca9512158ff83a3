"""Progress of runs while somebody waits: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.store import metrics_file, phase, runs
from nano_exp.text import FROM_WORKER, NOISE, duration, plain


@dataclass(frozen=True)
class Sample:
    """Where a run stands, from its newest metrics.

    Parameters
    ----------
    rate: steps per second over the newest rows; None before there are two
    saying: before the first step, the phase that the attempt is in and since when, and the newest line of the engine's
        own output (warm start, loading, ...), without colours and without what its workers print
    phase: where the attempt is, in words; empty while it trains, and where nothing says
    nonfinite: the last step's metrics that were NaN or infinite
    """

    step: int = 0
    reward: float | None = None
    accuracy: float | None = None
    rate: float | None = None
    saying: str = ""
    phase: str = ""
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
    names = metrics_file.nonfinite_names(step)
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


def _last(lines: Sequence[bytes], key: str, accepts: Callable[[Row, str], bool] = _is_number) -> Row | None:
    """The last row with a number, or with what is wanted, under this key."""
    word = f'"{key}"'.encode()
    for line in reversed(lines):
        if word in line and (row := metrics_file.row_of(line)) is not None and accepts(row, key):
            return row
    return None


def sample(run_dir: Path) -> Sample:
    """Where a run stands, and how quickly it goes on, by the last rows of metrics.jsonl."""
    now = newest(run_dir)
    latest = run_dir / "attempts" / "latest"
    here = None if (latest / "end.json").exists() else phase.read(latest)
    if not now.step:
        since = f"{here.label}, {duration(time.time() - here.since)}" if here else ""
        saying = "  ".join(filter(None, [since, _newest_line(run_dir)]))
        return Sample(0, None, now.accuracy, None, saying, here.label if here else "")
    rows = metrics_file.read(run_dir, tail_bytes=64 * 1024)
    window = [r for r in rows if _is_there(r, "train/reward")][-20:]
    rate = None
    if len(window) > 1 and _time(window[-1]) > _time(window[0]):
        rate = (window[-1]["step"] - window[0]["step"]) / (_time(window[-1]) - _time(window[0]))
    label = here.label if here and here.phase != "step" else ""
    return Sample(now.step, now.reward, now.accuracy, rate, phase=label, nonfinite=now.nonfinite)


def _newest_line(run_dir: Path) -> str:
    """The newest of the engine's own lines: neither a worker's nor noise."""
    window = 16 * 1024
    text = files.tail(run_dir / "attempts" / "latest" / "stdout.log", window=window)
    # What the window cuts is neither shown nor taken for the engine's: it may be the end of a worker's line.
    lines = text.split("\n")[len(text.encode()) >= window : -1]
    said = (plain(line).strip() for line in reversed(lines))
    return next((line for line in said if line and not FROM_WORKER.match(line) and not NOISE.search(line)), "")


def _time(row: Mapping[str, Any]) -> float:
    return runs.number(row.get("time")) or 0.0
