"""Sparklines of rewards: a run's learning in a few characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from nano_exp.store import metrics_file, runs

BARS = "▁▂▃▄▅▆▇█"
#: For terminals without UTF-8.
ASCII_BARS = "_.:-=+*#"
#: A reward beyond this is no reward, and sums of such numbers are no numbers.
MOST = 1e100


@dataclass(frozen=True)
class Sparks:
    """Sparklines of several runs.

    Parameters
    ----------
    lines: one for each run, empty where it has no values
    low, high: what the lowest and the highest bar stand for, in all of them
    """

    lines: list[str]
    low: float = 0.0
    high: float = 0.0


def sparks(rows: Sequence[Sequence[float]], width: int, bars: str = BARS) -> Sparks:
    """Each row as at most `width` characters, each the mean of its share of the values, all on one scale."""
    means = [_means(values, width) for values in rows]
    every = [mean for row in means for mean in row]
    if not every:
        return Sparks(["" for _ in rows])
    low, high = min(every), max(every)
    return Sparks(["".join(bars[_height(m, low, high, len(bars))] for m in row) for row in means], low, high)


def _means(values: Sequence[float], width: int) -> list[float]:
    finite = [v for v in values if abs(v) < MOST]
    count = min(width, len(finite))
    if count < 1:
        return []
    edges = [len(finite) * i // count for i in range(count + 1)]
    return [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]


def _height(mean: float, low: float, high: float, count: int) -> int:
    return round((mean - low) / (high - low) * (count - 1)) if high > low else count // 2


@dataclass
class Rewards:
    """The rewards of one run's steps so far; each call of `read` looks only at what was added."""

    path: Path
    values: list[float] = field(default_factory=list)
    _offset: int = 0
    _inode: int = 0

    def read(self) -> list[float]:
        """All rewards, first step to last; empty where there are none yet."""
        try:
            with self.path.open("rb") as file:
                inode = self.path.stat().st_ino
                size = file.seek(0, 2)
                if inode != self._inode or size < self._offset:  # rows were cut off: the steps run again
                    self.values, self._offset, self._inode = [], 0, inode
                file.seek(self._offset)
                whole, newline, _ = file.read(size - self._offset).rpartition(b"\n")
        except OSError:
            return self.values
        self._offset += len(whole) + len(newline)
        for line in whole.split(b"\n"):
            if b'"train/reward"' in line:
                row = metrics_file.row_of(line)
                value = runs.number(row.get("train/reward")) if row else None
                if value is not None:
                    self.values.append(value)
        return self.values
