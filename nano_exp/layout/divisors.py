"""Divisors and multiples of whole numbers."""

from __future__ import annotations

import math


def divisor(number: int, near: int) -> int:
    """The largest divisor of a number that is not over `near`; at least 1."""
    small = range(1, math.isqrt(min(max(number, 1), 10**10)) + 1)
    pairs = ((size, number // size) for size in small if number % size == 0)
    return max((size for pair in pairs for size in pair if size <= near), default=1)


def next_multiple(number: int, of: int) -> int:
    """The smallest multiple of `of` that is not below a number."""
    return -(-number // of) * of
