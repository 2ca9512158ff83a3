"""Three-point numbers: low, expected, high."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

GIB = 2**30


class Range(NamedTuple):
    """Nobody's guess is below `low` or above `high`; `expected` is the planner's own."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> Range:
        """Each of the three times a factor that is not negative."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    def by(self, other: Range) -> Range:
        """The product of two ranges of numbers that are not negative."""
        return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)

    def plus(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


def exactly(value: float) -> Range:
    return Range(value, value, value)


ZERO = exactly(0.0)


def total(ranges: Iterable[Range]) -> Range:
    """The sum, end by end: terms may err together."""
    low = expected = high = 0.0
    for one in ranges:
        low, expected, high = low + one.low, expected + one.expected, high + one.high
    return Range(low, expected, high)


def largest(*ranges: Range) -> Range:
    """Of memory that is used in turn: the maximum, end by end."""
    return Range(max(r.low for r in ranges), max(r.expected for r in ranges), max(r.high for r in ranges))
