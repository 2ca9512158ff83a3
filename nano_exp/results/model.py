"""Results as data: runs, and the points that they are repeats of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nano_exp.report.status import Line
from nano_exp.results import spent
from nano_exp.results.curves import Metrics
from nano_exp.results.spent import Cost
from nano_exp.store import axes
from nano_exp.store.axes import Value
from nano_exp.store.spells import Spell


@dataclass(frozen=True)
class Run:
    """One run.

    Parameters
    ----------
    line: what status says of it: state, why, step, max_steps, cause, remedy, next, damaged, ...
    axes: its value on each axis, without the seed; typed or not
    seed: its value of the seed's key; None where that is no axis
    spells: its attempts with their times and GPUs
    """

    line: Line
    axes: Mapping[str, Value]
    seed: Value
    spells: tuple[Spell, ...]

    @property
    def name(self) -> str:
        return self.line.name

    @property
    def id(self) -> str:
        return self.line.run

    @property
    def dir(self) -> Path:
        return Path(self.line.dir)

    @property
    def state(self) -> str:
        return self.line.state

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics.read(self.dir, self.spells)

    @cached_property
    def cost(self) -> Cost:
        """What it took so far. Reads its metrics, which tell what was trained twice."""
        return spent.of_spells(self.spells, self.metrics.times)


@dataclass(frozen=True)
class Point:
    """The runs of one name that differ in their seed alone.

    Parameters
    ----------
    axes: the value on each axis, in the axes' order
    """

    name: str
    axes: Mapping[str, Value]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[Value, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def rung(self) -> Mapping[str, Value] | None:
        """Of a study: how many of its rungs it reached and from how many it went on, as status has it of its run that
        came farthest; None where none was launched with rungs."""
        known = [run.line.rung for run in self.runs if run.line.rung is not None]
        return max(known, key=lambda rung: (int(rung["passed"] or 0), int(rung["reached"] or 0)), default=None)

    @property
    def label(self) -> str:
        """`lr=1e-06 num_generations_per_prompt=8`; the name where there are no axes."""
        named = axes.names(list(self.axes))
        return " ".join(f"{named[key]}={axes.as_typed(value)}" for key, value in self.axes.items()) or self.name


@dataclass(frozen=True)
class Results:
    """Runs of one or several names, in sweep order.

    Parameters
    ----------
    asked: the words that chose them
    axes: the keys in which the points differ, in the order in which they were first typed, without the seed's
    seed_key: the key that repeats a point
    held: what was typed for every run with one value
    slurm_error: why Slurm did not answer; states that depend on it are `unknown`
    """

    asked: tuple[str, ...]
    runs: tuple[Run, ...]
    points: tuple[Point, ...]
    axes: tuple[str, ...]
    seed_key: str
    held: Mapping[str, Value] = field(default_factory=dict)
    slurm_error: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.name for run in self.runs))

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """Of all runs. Reads all metrics."""
        return tuple(sorted({name for run in self.runs for name in run.metrics.names}))
