"""Points by one metric at equal cost: which is best, and how sure that is. Pure, but for the metrics that runs read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nano_exp.errors import UserError, choice, nearest
from nano_exp.results import certainty
from nano_exp.results.certainty import Difference, Interval
from nano_exp.results.curves import COSTS, NAMES, Series, metric_name
from nano_exp.results.model import Point, Results, Run
from nano_exp.study.halving import less_is_better

#: A value that is measured at every step is noisy: this part of its values, the last ones, is averaged.
LAST_PART = 10


@dataclass(frozen=True)
class Measured:
    """One run up to the budget.

    Parameters
    ----------
    final: the mean of the last tenth of its values up to there (at least one)
    best: the best mean of so many values in a row
    step: of the last value
    cost: what the run had taken by that step, in the budget's unit; None where nothing says
    counts: whether it reached the budget, or is done, and was finite there: others are not compared
    """

    run: Run
    final: float
    best: float
    step: int
    cost: float | None
    counts: bool


@dataclass(frozen=True)
class Standing:
    """One point in the ranking.

    Parameters
    ----------
    measured: its runs that count
    short: its runs that do not: they have not come so far, or measured nothing
    interval: of the mean of `final` over seeds; None with one seed
    behind: how sure it is that the first point is better; None for the first, and where nothing tells
    """

    point: Point
    measured: tuple[Measured, ...]
    short: tuple[Run, ...]
    interval: Interval | None
    behind: Difference | None = None

    @property
    def mean(self) -> float:
        return fmean(one.final for one in self.measured)

    @property
    def best(self) -> float:
        return fmean(one.best for one in self.measured)

    @property
    def gpu_hours(self) -> float | None:
        """Of all its runs so far, those that do not count included."""
        spent = [run.cost.gpu_hours for run in self.point.runs if run.cost.gpu_hours is not None]
        return math.fsum(spent) if spent else None

    @property
    def seconds(self) -> float:
        return math.fsum(run.cost.seconds for run in self.point.runs)


@dataclass(frozen=True)
class Ranking:
    """Points, the best first.

    Parameters
    ----------
    metric: its own name
    at: a key of COSTS
    budget: of each run, in its unit
    given: whether the budget was asked for; else it is what the compared runs have in common
    unranked: points none of whose runs came so far
    """

    results: Results
    metric: str
    at: str
    budget: float
    given: bool
    highest: bool
    standings: tuple[Standing, ...]
    unranked: tuple[Point, ...]

    @property
    def ahead(self) -> Difference | None:
        """The first point over the second one."""
        return self.standings[1].behind if len(self.standings) > 1 else None

    @property
    def nonfinite(self) -> dict[str, int]:
        """Run -> how many of its values of the metric were NaN or infinite, and are left out."""
        counted = {run.id: len(run.metrics.series(self.metric).nonfinite) for run in self.results.runs}
        return {run: count for run, count in counted.items() if count}

    @property
    def damaged(self) -> dict[str, int]:
        """Run -> lines of its metrics.jsonl that cannot be read, and are left out."""
        return {run.id: run.metrics.damaged for run in self.results.runs if run.metrics.damaged}


def rank(results: Results, by: str = "reward", at: str = "steps", lowest: bool | None = None) -> Ranking:
    """Rank the points.

    Parameters
    ----------
    by: a metric: a word of NAMES, its own name, or the end of it
    at: steps, tokens, gpu-hours or time: as much as all compared runs have; or so much: `gpu-hours=50`
    lowest: whether less is better; None: as the metric's name says

    Raises
    ------
    UserError: no such metric, no such cost, or nothing is known of it
    """
    metric = metric_name(by, results.metric_names)
    word, asked = _cost(at)
    series = {run.dir: run.metrics.series(metric) for run in results.runs}
    costs = {run.dir: run.metrics.until(word) for run in results.runs}
    logged = {place: sorted({*one.steps, *one.nonfinite} & costs[place].keys()) for place, one in series.items()}
    compared = [run for run in results.runs if any(step in costs[run.dir] for step in series[run.dir].steps)]
    if not compared:
        raise _nothing(results, metric, word, any(len(one) for one in series.values()))
    highest = not (less_is_better(metric) if lowest is None else lowest)
    budget = asked if asked is not None else _common(compared, logged, costs)
    standings, unranked = [], []
    for point in results.points:
        found = [_measured(run, series[run.dir], costs[run.dir], budget, highest) for run in point.runs]
        counted = tuple(one for one in found if one is not None and one.counts)
        short = tuple(run for run, one in zip(point.runs, found, strict=True) if one is None or not one.counts)
        if counted:
            standings.append(Standing(point, counted, short, certainty.interval([one.final for one in counted])))
        else:
            unranked.append(point)
    standings.sort(key=lambda one: one.mean, reverse=highest)
    return Ranking(
        results, metric, word, budget, asked is not None, highest, _behind(standings, highest), tuple(unranked)
    )


def _behind(standings: Sequence[Standing], highest: bool) -> tuple[Standing, ...]:
    if not standings:
        return ()
    first = standings[0]
    sign = 1.0 if highest else -1.0
    best = [sign * one.final for one in first.measured]
    rest = [
        Standing(
            s.point, s.measured, s.short, s.interval, certainty.difference(best, [sign * m.final for m in s.measured])
        )
        for s in standings[1:]
    ]
    return (first, *rest)


def _cost(at: str) -> tuple[str, float | None]:
    """`gpu-hours=50` -> the word and the number."""
    word, equals, number = at.partition("=")
    if word not in COSTS:
        raise UserError(
            f"--at {at}", f"equal amounts of one of {', '.join(COSTS)}", choice("--at ", nearest(word, COSTS), COSTS)
        )
    if not equals:
        return word, None
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not 0 < amount < math.inf:
        raise UserError(
            f"--at {at}", f"{number!r} is no amount of {COSTS[word]} above 0", f"--at {word}=100, or --at {word}"
        )
    return word, amount


def _nothing(results: Results, metric: str, at: str, measured: bool) -> UserError:
    states = sorted({run.state for run in results.runs})
    if not measured:
        return UserError(
            f"no run of {' '.join(results.names)} has a finite {metric}",
            f"their states: {', '.join(states)}",
            f"nano-exp status {' '.join(results.names)}",
        )
    why = "no Slurm allocation says how many GPUs they had" if at == "gpu-hours" else "their rows do not say"
    return UserError(f"--at {at}: nothing is known of it for these runs", why, "--at time or --at steps")


def _common(compared: Sequence[Run], logged: Mapping[Path, list[int]], costs: Mapping[Path, dict[int, float]]) -> float:
    """What all runs that are done have taken at their last value; where none is done, those that go on; else all."""
    far = {run.dir: max(costs[run.dir][step] for step in logged[run.dir]) for run in compared}
    for states in (("done",), ("running", "pending", "stopped", "unknown")):
        of_state = [far[run.dir] for run in compared if run.state in states]
        if of_state:
            return min(of_state)
    return min(far.values())


def _measured(run: Run, whole: Series, costs: dict[int, float], budget: float, highest: bool) -> Measured | None:
    """What a run had at the budget; None where it had no value by then."""
    within = [step for step in whole.steps if costs.get(step, math.inf) <= budget * (1 + 1e-9)]
    if not within:
        return None
    cut = whole.up_to(max(within))
    window = math.ceil(len(cut) / LAST_PART)
    means = [fmean(cut.values[i : i + window]) for i in range(len(cut) - window + 1)]
    reached = run.state == "done" or max(costs.values(), default=0.0) >= budget * (1 - 1e-9)
    broken = [step for step in whole.nonfinite if step > cut.steps[-1] and costs.get(step, math.inf) <= budget]
    best = max(means) if highest else min(means)
    return Measured(run, means[-1], best, cut.steps[-1], costs.get(cut.steps[-1]), reached and not broken)


def short_name(metric: str) -> str:
    """The word that stands for a metric in tables: reward, validation, ...; else the last part of its name."""
    words = {name: word for word, name in NAMES.items()}
    return words.get(metric, metric.rpartition("/")[2])
