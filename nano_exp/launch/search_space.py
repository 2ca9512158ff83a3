"""What a search looks through: the swept overrides as Optuna's distributions, and trials as Optuna has them.

Optuna's own study is made anew from the store each time that a point is asked for, so that it cannot differ from it.
Only its sampler lasts as long as the search.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hydra.core.override_parser.types import Override, Transformer

from nano_exp.errors import UserError
from nano_exp.store import axes
from nano_exp.store.run_config import SWITCHES, TERMS

#: Optuna's states of a trial.
RUNNING, COMPLETE, PRUNED, FAIL = "RUNNING", "COMPLETE", "PRUNED", "FAIL"


@dataclass(frozen=True)
class Told:
    """What Optuna is told of a point.

    Parameters
    ----------
    state: RUNNING, COMPLETE, PRUNED or FAIL
    value: the metric, of a complete or pruned trial
    steps: step -> the metric's value at that rung
    attrs: what the sampler noted when it drew the point
    """

    params: Mapping[str, Any]
    state: str
    value: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """The overrides of a search.

    Parameters
    ----------
    axes: key as it was typed -> Optuna's distribution
    fixed: the overrides that all points have
    """

    axes: Mapping[str, Any]
    fixed: tuple[str, ...]

    @property
    def size(self) -> int | None:
        """How many points there are; None: no end of them."""
        counts = [len(_listed(one)) if _is_listed(one) else None for one in self.axes.values()]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def words(self, params: Mapping[str, Any]) -> list[str]:
        """A point's overrides."""
        return [*self.fixed, *(f"{key}={_word(value)}" for key, value in params.items())]

    def params(self, overrides: Sequence[str]) -> dict[str, Any] | None:
        """The values that a run was launched with; None where it lacks one, or has one that is not searched."""
        found: dict[str, Any] = {}
        for key, distribution in self.axes.items():
            texts = [word.partition("=")[2] for word in overrides if word.partition("=")[0] == key]
            value = _read(distribution, texts[-1]) if texts else None
            if value is None:
                return None
            found[key] = value[0]
        return found

    def corners(self) -> list[dict[str, Any]]:
        """The first and the last value of each axis."""
        ends = {key: _listed(one) if _is_listed(one) else (one.low, one.high) for key, one in self.axes.items()}
        return [{key: values[place] for key, values in ends.items()} for place in (0, -1)]


def read(overrides: Iterable[Override]) -> Space:
    """The space of a command's overrides, the last word on each swept key.

    Raises
    ------
    UserError: nothing is swept, or something that cannot be searched
    """
    every = list(overrides)
    swept = {one.key_or_group: one for one in every if one.is_sweep_override()}
    if not swept:
        raise UserError(
            "hydra/sweeper=optuna without anything to search",
            "each point would be the same run",
            "'optimizer.lr=tag(log,interval(1e-7,1e-5))' or 'grpo.num_generations_per_prompt=choice(8,16)' beside it",
        )
    for key, override in swept.items():
        if key in (*SWITCHES, *TERMS) or key.split(".")[0] in ("run", "hydra", "sweep", "sweeps", "stop", "halving"):
            raise UserError(
                str(override.input_line), "it holds for a whole search, and its points differ in it", f"{key}=..."
            )
    fixed = [str(one.input_line) for one in every if one.key_or_group not in swept]
    return Space({one.get_key_element(): distribution(one) for one in swept.values()}, tuple(fixed))


def distribution(override: Override) -> Any:
    """Optuna's for a choice, a range (its stop is not in it) or an interval.

    Raises
    ------
    UserError: another kind of sweep, or bounds that cannot be
    """
    from optuna import distributions as optuna

    key, value = override.get_key_element(), cast(Any, override.value())
    fix = f"{key}=choice(a,b), {key}=range(1,10), {key}=interval(0.1,0.9) or {key}=tag(log,interval(1e-7,1e-5))"
    try:
        if override.is_choice_sweep():
            return optuna.CategoricalDistribution(cast(Any, list(override.sweep_iterator(Transformer.encode))))
        if override.is_range_sweep():
            numbers: Any = list(override.sweep_iterator())
            return optuna.CategoricalDistribution(numbers) if value.shuffle else _range(optuna, numbers)
        if override.is_interval_sweep():
            low, high, log = value.start, value.end, "log" in value.tags
            if low >= high:
                fix = f"{key}=" + (f"tag(log,interval({high},{low}))" if log else f"interval({high},{low})")
                raise ValueError(f"{low} is not below {high}")
            if isinstance(low, int) and isinstance(high, int):
                kind = optuna.IntLogUniformDistribution if log else optuna.IntUniformDistribution
                return kind(low, high)
            return (optuna.LogUniformDistribution if log else optuna.UniformDistribution)(float(low), float(high))
    except (TypeError, ValueError) as error:
        raise UserError(str(override.input_line), f"it cannot be searched: {error}", fix) from error
    raise UserError(str(override.input_line), "a search has no sweep of this kind", fix)


def _range(optuna: Any, values: Sequence[Any]) -> Any:
    if not values:
        raise ValueError("it gives no value at all")
    if len(values) == 1:
        return optuna.CategoricalDistribution(list(values))
    step = values[1] - values[0]
    low, high = min(values), max(values)
    if all(isinstance(one, int) for one in values):
        return optuna.IntUniformDistribution(low, high, step=abs(step))
    return optuna.CategoricalDistribution([float(one) for one in values])


def _is_listed(one: Any) -> bool:
    return hasattr(one, "choices") or isinstance(getattr(one, "step", None), int)


def _listed(one: Any) -> Sequence[Any]:
    """The values of a distribution that has so many."""
    return list(one.choices) if hasattr(one, "choices") else list(range(one.low, one.high + 1, one.step))


def _word(value: Any) -> str:
    return axes.as_typed(value) if value is None or isinstance(value, bool) else str(value)


def _read(one: Any, text: str) -> tuple[Any] | None:
    """A value of a distribution from an override's text, in a tuple since it may be None; None where it has not that
    value."""
    if hasattr(one, "choices"):
        return next(((choice,) for choice in one.choices if _word(choice) == text), None)
    try:
        value = int(text) if isinstance(one.low, int) else float(text)
    except ValueError:
        return None
    return (value,) if one.low <= value <= one.high and one._contains(one.to_internal_repr(value)) else None


def sampler(given: Any, space: Space) -> Any:
    """A sampler ready to draw; Optuna's grid has to know its points first. Raises UserError."""
    if not isinstance(given, functools.partial):
        return given
    unlisted = [key for key, one in space.axes.items() if not _is_listed(one)]
    if unlisted:
        raise UserError(
            f"hydra/sweeper/sampler=grid with an interval for {', '.join(unlisted)}",
            "a grid has a list of values on each axis",
            f"{unlisted[0]}=choice(a,b,c), or hydra/sweeper/sampler=tpe",
        )
    return given({key: _listed(one) for key, one in space.axes.items()})


def study(drawer: Any, direction: str, space: Space, told: Iterable[Told]) -> Any:
    """An Optuna study in memory that knows these points.

    Parameters
    ----------
    drawer: the sampler
    direction: maximize or minimize
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # add_trial, in 2.10
    made = optuna.create_study(sampler=drawer, direction=direction)
    for one in told:
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState[one.state],
            value=one.value,
            params=dict(one.params),
            distributions=dict(space.axes),
            intermediate_values=dict(one.steps),
            system_attrs=dict(one.attrs),
        )
        made.add_trial(trial)
    return made


def ask(made: Any, space: Space) -> tuple[dict[str, Any], dict[str, Any]]:
    """The next point's parameters, and what the sampler noted of it."""
    made.ask(dict(space.axes))
    drawn = made.get_trials(deepcopy=False)[-1]
    return dict(drawn.params), dict(drawn.system_attrs)


def count(key: str, value: Any) -> int:
    """hydra.sweeper's n_trials or n_jobs. Raises UserError."""
    if type(value) is int and value >= 1:
        return value
    what, typed = "trials" if key == "n_trials" else "runs at once", f"hydra.sweeper.{key}"
    raise UserError(f"{typed}={value}", f"it must be a number of {what}, at least 1", f"{typed}=4")
