"""Progress while somebody waits: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from nano_exp.text import duration

if TYPE_CHECKING:
    from nano_exp.index.progress import Sample


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
    if now.phase:
        parts.append(now.phase)
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
def waiting(line: str, after_s: float = 1.0) -> Iterator[None]:
    """Say on a terminal what is waited for, once it takes longer than `after_s` seconds."""
    live = Live()
    timer = threading.Timer(after_s, live.show, [line]) if live.tty else None
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


@contextmanager
def counting(doing: str, total: int, every_s: float = 0.5) -> Iterator[Callable[[], None]]:
    """Say on a terminal how many of many are done: `checking 3400/10000`. Gives what is called after each."""
    live, done, last = Live(), 0, time.monotonic()

    def one_more() -> None:
        nonlocal done, last
        done += 1
        if live.tty and time.monotonic() - last > every_s:
            live.show(f"{doing} {done}/{total}")
            last = time.monotonic()

    try:
        yield one_more
    finally:
        live.clear()


def many(samples: Sequence[tuple[str, Sample, int]], done: int, total: int) -> str:
    """One line for several runs: how many are done, and each running one's step and reward."""
    parts = [f"{done}/{total} ended"]
    for run_id, now, max_steps in samples[:4]:
        reward = f" reward {now.reward:.2f}" if now.reward is not None else ""
        where = f" ({now.phase})" if now.phase else ""
        parts.append(f"{run_id} {now.step}/{max_steps}{reward}{where}")
    if len(samples) > 4:
        parts.append(f"and {len(samples) - 4} more")
    return "  ".join(parts)
