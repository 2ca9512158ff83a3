"""Successive halving without a controller (ASHA): which points of a sweep go on from a rung. Pure.

Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, algorithm 2: a point goes on when it is among
the best part of those that have reached its rung, whatever is still to come. Here a point is its seeds' mean, and where
nothing is to come to a rung, its best point goes on in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nano_exp.store import runs
from nano_exp.text import as_typed

VALIDATION = "validation/"
#: Words in the last part of a metric's name of which less is better.
LESS_IS_BETTER = ("loss", "kl", "error", "time", "truncated")


@dataclass(frozen=True)
class Halving:
    """A study's rungs.

    Parameters
    ----------
    rungs: steps at which points are compared, ascending
    keep: this part of those that reached a rung goes on
    metric: what they are compared by: a run's last value of it up to the rung
    """

    rungs: tuple[int, ...]
    keep: float = 0.34
    metric: str = "validation/accuracy"
    higher_is_better: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "rungs": list(self.rungs)}

    def __str__(self) -> str:
        return f"halving.rungs=[{','.join(map(str, self.rungs))}] halving.keep={self.keep:g} by {self.metric}"


def of(section: Any) -> Halving | None:
    """From a config's or a manifest's `halving`; None where it has no rungs. Raises KeyError, TypeError, ValueError."""
    if not isinstance(section, Mapping) or not section.get("rungs"):
        return None
    rungs = tuple(int(step) for step in section["rungs"])
    return Halving(rungs, float(section["keep"]), str(section["metric"]), bool(section["higher_is_better"]))


@dataclass(frozen=True)
class Member:
    """One run of a study.

    Parameters
    ----------
    point: what it is a repeat of
    level: how many rungs it was promoted from: it trains to the rung of this number, or to its end
    values: rung -> what was measured there; of a run that ended before, its last value
    out: it goes no further by itself: failed, cancelled, or ended by a rule
    """

    run: str
    point: str
    level: int
    values: Mapping[int, float]
    out: bool = False


@dataclass(frozen=True)
class Promotion:
    """A point that goes on from a rung: its place among those that reached it, of which `goes_on` go on."""

    point: str
    rung: int
    value: float
    place: int
    reached: int
    goes_on: int

    def why(self, halving: Halving) -> str:
        where = f"{self.place} of {self.reached} that reached step {halving.rungs[self.rung]}"
        return f"{halving.metric} {as_typed(round(self.value, 6))}, {where}"


def ranked(members: Iterable[Member], rung: int, higher_is_better: bool = True) -> tuple[list[tuple[str, float]], bool]:
    """The points that have reached a rung with their values, the best first; and whether more may come to it.

    A value that is not a number is the worst. Of equal points the one that stands first in `members` is before.
    """
    points: dict[str, list[Member]] = {}
    for member in members:
        if member.level >= rung:
            points.setdefault(member.point, []).append(member)
    values, more = {}, False
    for point, seeds in points.items():
        waits = [one for one in seeds if rung not in one.values and not one.out]
        measured = [one.values[rung] for one in seeds if rung in one.values]
        more = more or bool(waits)
        if measured and not waits:
            mean = fmean(measured)
            values[point] = (mean if higher_is_better else -mean) if not math.isnan(mean) else -math.inf
    order = sorted(values, key=lambda point: -values[point])
    return [(point, values[point] if higher_is_better else -values[point]) for point in order], more


def decide(members: Sequence[Member], halving: Halving, more_to_come: bool = False) -> list[Promotion]:
    """Who goes on now and has not yet been told so, from the lowest rung on.

    Parameters
    ----------
    more_to_come: a search adds points
    """
    promotions: list[Promotion] = []
    more_below = more_to_come
    for rung in range(len(halving.rungs)):
        reached, more = ranked(members, rung, halving.higher_is_better)
        more_below = more_below or more
        goes_on = math.floor(halving.keep * len(reached) + 1e-9)
        if reached and not more_below:
            goes_on = max(1, goes_on)
        # Of a point that went on a run may be left: a seed that came later, or all but the one that a user promoted.
        left = {one.point for one in members if one.level == rung and not one.out}
        for place, (point, value) in enumerate(reached[:goes_on], 1):
            if point in left:
                promotions.append(Promotion(point, rung, value, place, len(reached), goes_on))
        more_below = more_below or bool(promotions)  # what was just promoted comes to the next rung
    return promotions


def less_is_better(metric: str) -> bool:
    """As its name says."""
    last = metric.rpartition("/")[2].lower()
    return metric.startswith("timing/") or any(word in last.split("_") for word in LESS_IS_BETTER)


def target(halving: Halving | None, level: int, max_steps: int) -> int:
    """The step to which an attempt trains."""
    rungs = halving.rungs if halving is not None else ()
    return min(rungs[level], max_steps) if level < len(rungs) else max_steps


def value_at(rows: Iterable[Mapping[str, Any]], metric: str, step: int) -> float:
    """A metric's last value up to a step; nan where it has none, or was not finite there."""
    value = math.nan
    for row in rows:
        if row["step"] <= step and metric in row:
            known = runs.number(row[metric])
            value = known if known is not None and math.isfinite(known) else math.nan
    return value


def least_steps(points: int, halving: Halving, max_steps: int) -> int:
    """Steps of a study of so many points of one run each, where at each rung only its part goes on."""
    steps, count, before = 0, points, 0
    for step in (*halving.rungs, max_steps):
        steps += count * (step - before)
        count, before = max(1, math.floor(halving.keep * count + 1e-9)), step
    return steps


def steps_of(members: Iterable[Member], halving: Halving, max_steps: int) -> tuple[int, int]:
    """Steps that a study's runs train to as it stands, and those of the full grid."""
    runs_of = list(members)
    return sum(target(halving, one.level, max_steps) for one in runs_of), max_steps * len(runs_of)
