"""Rules that end a run which is lost: each a pure function of its curve, with the words that end it.

A rule is a key of the launch's `stop` section. Its value is the rule's limit; null turns it off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from nano_exp.store import metrics_file, runs

#: The section's keys that are no rules: steps before which none ends a run, and over how many steps means are taken.
AFTER, WINDOW = "after", "window"
REWARD = "train/reward"
KL = "train/kl_penalty"
ENTROPY = "train/approx_entropy"
MIXED = "train/baseline_reward/pct_mixed"
ADVANTAGES = ("train/advantages/min", "train/advantages/max")
FINITE = ("train/loss", "train/grad_norm")
TRUNCATED = "train/truncation_rate"
VALIDATION = "validation/accuracy"
STEP_TIME = "timing/train/total_step_time"


@dataclass(frozen=True)
class Curve:
    """A run so far.

    Parameters
    ----------
    rows: one a step, first to last
    gpus: it trains on so many
    others: point -> the curves of its seeds; other points of the same name
    """

    rows: Sequence[Mapping[str, Any]]
    gpus: int = 1
    others: Mapping[str, Sequence[Curve]] = field(default_factory=dict)

    def values(self, name: str) -> list[float]:
        """A metric's values in the order of steps; what was not finite is nan, a step without it is left out."""
        return [_value(row, name) for row in self.rows if name in row]

    def validations(self) -> list[tuple[float, float]]:
        """(GPU-seconds of training until then, accuracy) of each validation."""
        pairs, spent = [], 0.0
        for row in self.rows:
            took = _value(row, STEP_TIME)
            spent += 0.0 if math.isnan(took) else took * self.gpus
            if VALIDATION in row:
                pairs.append((spent, _value(row, VALIDATION)))
        return pairs


@dataclass(frozen=True)
class Verdict:
    """Why a run is ended: the rule with its limit, the step, and what was measured, in words."""

    rule: str
    limit: float
    step: int
    why: str

    def __str__(self) -> str:
        return f"stop.{self.rule}={self.limit:g} at step {self.step}: {self.why}"


def _value(row: Mapping[str, Any], name: str) -> float:
    value = runs.number(row.get(name))
    return value if value is not None and math.isfinite(value) else math.nan


def reward_collapse(curve: Curve, limit: float, window: int) -> str:
    """The mean reward of the last steps is below this part of the best mean of as many steps."""
    means = list(_means(curve.values(REWARD), window))
    best = max(means, default=0.0)
    if best <= 0 or means[-1] >= limit * best:
        return ""
    return f"mean reward {means[-1]:.3g} over {window} steps, after {best:.3g}"


def kl_above(curve: Curve, limit: float, window: int) -> str:
    """The mean KL to the reference policy over the last steps is above this."""
    return _bound(curve, KL, window, lambda mean: mean > limit)


def entropy_below(curve: Curve, limit: float, window: int) -> str:
    """The mean entropy over the last steps is below this."""
    return _bound(curve, ENTROPY, window, lambda mean: mean < limit)


def entropy_above(curve: Curve, limit: float, window: int) -> str:
    """The mean entropy over the last steps is above this."""
    return _bound(curve, ENTROPY, window, lambda mean: mean > limit)


def mixed_below(curve: Curve, limit: float, window: int) -> str:
    """Fewer per cent than this of the groups of generations had different rewards, over the last steps."""
    return _bound(curve, MIXED, window, lambda mean: mean < limit)


def flat_steps(curve: Curve, limit: float, window: int) -> str:
    """So many steps in a row had no variance within any group: all advantages were 0."""
    flat = [low == high == 0 for low, high in zip(*map(curve.values, ADVANTAGES), strict=False)]
    return _in_a_row(flat, limit, "all advantages were 0")


def nonfinite_steps(curve: Curve, limit: float, window: int) -> str:
    """So many steps in a row had a loss or a gradient norm that is not finite."""
    broken = [
        any(name in row and math.isnan(_value(row, name)) for name in FINITE)
        for row in curve.rows
        if any(name in row for name in FINITE)
    ]
    return _in_a_row(broken, limit, "loss or gradient norm was not finite")


def truncated_steps(curve: Curve, limit: float, window: int) -> str:
    """So many steps in a row had every answer cut off at its longest length."""
    return _in_a_row([value >= 1 for value in curve.values(TRUNCATED)], limit, "every answer was truncated")


def behind(curve: Curve, limit: float, window: int) -> str:
    """So many validations in a row were below all seeds of one other point (two or more) at the same GPU-seconds."""
    below, words = [], ""
    for cost, value in curve.validations():
        lows = [(low, len(seeds)) for seeds in curve.others.values() if (low := _low(seeds, cost)) is not None]
        low, seeds = max(lows, default=(-math.inf, 0))
        below.append(value < low)
        words = f"accuracy {value:.3g} was below {low:.3g}, the least of another point's {seeds} seeds at that cost"
    return _in_a_row(below, limit, words, "validations")


def _low(seeds: Sequence[Curve], cost: float) -> float | None:
    """The least of a point's seeds' newest validations at a cost; None with fewer than two that came so far."""
    values = []
    for seed in seeds:
        pairs = seed.validations()
        if pairs and pairs[-1][0] >= cost and (before := [value for spent, value in pairs if spent <= cost]):
            values.append(before[-1])
    return min(values) if len(values) > 1 and not any(map(math.isnan, values)) else None


def _means(values: Sequence[float], window: int) -> Iterator[float]:
    for end in range(window, len(values) + 1):
        mean = fmean(values[end - window : end])
        if not math.isnan(mean):
            yield mean


def _bound(curve: Curve, name: str, window: int, outside: Callable[[float], bool]) -> str:
    values = curve.values(name)[-window:]
    mean = fmean(values) if len(values) == window else math.nan
    return f"mean {name} {mean:.3g} over {window} steps" if not math.isnan(mean) and outside(mean) else ""


def _in_a_row(hits: Sequence[bool], limit: float, words: str, unit: str = "steps") -> str:
    count = int(limit)
    return f"{words}, {count} {unit} in a row" if len(hits) >= count and all(hits[-count:]) else ""


#: A rule's key in `stop` -> the rule.
RULES: dict[str, Callable[[Curve, float, int], str]] = {
    rule.__name__: rule
    for rule in (
        *(reward_collapse, kl_above, entropy_below, entropy_above, mixed_below),
        *(flat_steps, nonfinite_steps, truncated_steps, behind),
    )
}


def on(stop: Mapping[str, Any]) -> dict[str, float]:
    """The rules that a `stop` section turns on, with their limits."""
    return {name: limit for name in RULES if (limit := runs.number(stop.get(name))) is not None}


def judge(curve: Curve, stop: Mapping[str, Any]) -> Verdict | None:
    """The first rule that ends the run at its newest step; None where it goes on."""
    steps = [row["step"] for row in curve.rows if REWARD in row]
    newest = max(steps, default=0)
    if newest < int(stop.get(AFTER) or 0):
        return None
    for name, limit in on(stop).items():
        if why := RULES[name](curve, limit, int(stop.get(WINDOW) or 1)):
            return Verdict(name, limit, newest, why)
    return None


def lifts(end: Mapping[str, Any], stop: Mapping[str, Any]) -> bool:
    """Whether a launch with this `stop` section goes on with a run that a rule ended: without that rule, or with
    another limit for it."""
    return on(stop).get(str(end.get("rule"))) != end.get("limit")


def merged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one step as one row, in the order of steps."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        one = by_step.setdefault(row["step"], {})
        broken = [*metrics_file.nonfinite_names(one), *metrics_file.nonfinite_names(row)]
        one.update(row)
        if broken:
            one["nonfinite"] = broken
    return [by_step[step] for step in sorted(by_step)]
