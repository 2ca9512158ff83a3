"""How sure a mean over seeds is, and a difference of two. scipy computes; without it nothing is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

#: Of an interval.
LEVEL = 0.95
#: From so many seeds on intervals are bootstrapped: of fewer values a bootstrap's are much too narrow.
BOOTSTRAP_FROM = 10
#: What to type where scipy is missing.
INSTALL = "pip install 'nano-exp[results]'"


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval of a mean; method is `t` (Student's) or `bootstrap` (BCa)."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """One mean minus another's, by Welch's t test.

    Parameters
    ----------
    low, high: 95% confidence interval
    p: the chance that seeds alone bring at least this difference, were both the same (one-sided)
    seeds: how many of each
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, int]

    @property
    def verdict(self) -> str:
        if self.p < 0.01:
            return "better"
        if self.p < 0.05:
            return "better, most likely"
        return "not told apart by these seeds" if self.p > 0.2 else "perhaps better: more seeds would tell"


def there() -> bool:
    """Whether scipy is installed."""
    import importlib.util

    return importlib.util.find_spec("scipy") is not None


def interval(values: Sequence[float]) -> Interval | None:
    """Of the mean of some seeds' values; None for fewer than two, and without scipy."""
    if len(values) < 2 or not there():
        return None
    if len(values) >= BOOTSTRAP_FROM and variance(values) > 0:
        return _bootstrap(values)
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * math.sqrt(variance(values) / len(values))
    return Interval(fmean(values) - half, fmean(values) + half, "t")


def _bootstrap(values: Sequence[float]) -> Interval:
    import numpy
    from scipy.stats import bootstrap

    data = (numpy.asarray(values),)
    found = bootstrap(data, numpy.mean, confidence_level=LEVEL, rng=numpy.random.default_rng(0)).confidence_interval
    return Interval(float(found.low), float(found.high), "bootstrap")


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """How sure it is that the first mean is the greater one; None with fewer than two seeds of one, without scipy, and
    where neither varies."""
    if min(len(first), len(second)) < 2 or not there():
        return None
    from scipy.special import stdtr, stdtrit

    parts = [variance(values) / len(values) for values in (first, second)]
    error = math.sqrt(sum(parts))
    if not error:
        return None
    # Welch-Satterthwaite's degrees of freedom
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
    mean = fmean(first) - fmean(second)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Difference(mean, mean - half, mean + half, float(stdtr(freedom, -mean / error)), (len(first), len(second)))
