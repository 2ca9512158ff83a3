"""The trials of a search: the runs of its name whose points it could have drawn, and what each has come to.

The store alone decides. A run is a trial where the search's own command, with the run's values on the searched axes,
composes to the very config that the run has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader

from nano_exp.advice import mistakes
from nano_exp.compose.freeze import Frozen, freeze_all
from nano_exp.errors import UserError, nearest
from nano_exp.launch.search_space import COMPLETE, FAIL, PRUNED, RUNNING, Space, Told
from nano_exp.planner import auto
from nano_exp.store import metrics_file, runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Run
from nano_exp.store.state import State
from nano_exp.study import book
from nano_exp.study.halving import Halving

#: States in which somebody executes the run, or is to, or nobody can tell.
UNDER_WAY = (*state.ACTIVE, "unknown")


@dataclass
class Trial:
    """One run of a search.

    Parameters
    ----------
    params: its values on the searched axes
    attrs: what the sampler noted when it drew them
    before: it is of an earlier command, which this one goes on with
    now: its state when it was last looked at
    goes_on: it was promoted from the rung at which its last attempt ended
    told: what Optuna is told of it, and why
    sent_after: how many attempts it had when this search last sent it
    """

    dir: Path
    params: Mapping[str, Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    before: bool = False
    now: State = field(default_factory=partial(State, "new"))
    goes_on: bool = False
    told: Told | None = None
    why: str = ""
    sent_after: int | None = None
    broken: str = ""

    @property
    def id(self) -> str:
        return self.dir.name

    @property
    def is_over(self) -> bool:
        """Whether nobody executes it, or is to."""
        return not self.goes_on and self.now.kind not in UNDER_WAY

    def look(self, lookup: QueueLookup, rules: Halving | None, metric: str) -> bool:
        """Read the store again. Returns whether it has come to something else."""
        before, run = (self.told, self.is_over), runs.load(self.dir)
        self.now = lookup.state(run)
        self.goes_on = book.is_promoted(run, runs.attempts(self.dir))
        if self.broken and self.now.kind not in ("pending", "unstarted"):
            self.broken = ""  # another has executed it
        now = State("failed", self.broken) if self.broken else self.now
        kind, value, steps, self.why = outcome(run, now, self.goes_on, rules, metric)
        self.told = Told(self.params, kind, value, steps, self.attrs)
        return (self.told, self.is_over) != before


def outcome(
    run: Run, now: State, goes_on: bool, rules: Halving | None, metric: str
) -> tuple[str, float | None, dict[int, float], str]:
    """What a run is to Optuna: state, value, value by the step of each rung, and why.

    A run that has passed a rung counts as pruned there until it is done.
    """
    rungs = rules.rungs if rules is not None else ()
    reached = {rungs[rung]: value for rung, value in book.reached(run).items() if rung < len(rungs)}
    steps = {step: value for step, value in sorted(reached.items()) if math.isfinite(value)}
    if now.kind == "done":
        value, problem = last_value(run.dir, metric)
        return (FAIL if value is None else COMPLETE), value, steps, problem
    if now.kind == "ended early":
        value, problem = last_value(run.dir, metric)
        return (FAIL if value is None else PRUNED), value, steps, problem or now.why
    if goes_on or now.kind == "paused" or now.kind in UNDER_WAY:
        if steps:
            return PRUNED, steps[max(steps)], steps, now.why
        return (PRUNED if now.kind == "paused" and not goes_on else RUNNING), None, steps, now.why
    return FAIL, None, steps, f"{now.kind}" + (f": {now.why}" if now.why else "")


def last_value(run_dir: Path, metric: str) -> tuple[float | None, str]:
    """A run's last value of a metric, or why there is none."""
    rows = metrics_file.read(run_dir)
    ends = metrics_file.first_and_last(rows, metric)
    if ends is not None and math.isfinite(ends[1]):
        return ends[1], ""
    if ends is not None or any(metric in metrics_file.nonfinite_names(row) for row in rows):
        return None, f"its last {metric} is not finite"
    logged = sorted({key for row in rows for key in row})
    near = nearest(metric, logged) or logged[:5]
    return None, f"has no {metric} in its metrics (it has {', '.join(near)}, ...): sweep.metric=..."


def stored(loader: ConfigLoader, folder: Path, results: Path, name: str, space: Space) -> list[Trial]:
    """The runs of a name that are trials of a search, in the order of their making; of fresh starts the newest."""
    newest: dict[str, tuple[Run, dict[str, Any]]] = {}
    for run_dir in runs.folders(results / name):
        run = runs.load(run_dir, events=False)
        params = space.params(run.overrides)
        base = run.id.partition("-")[0]
        if params is not None and (base not in newest or run.created >= newest[base][0].created):
            newest[base] = run, params
    known = sorted(newest.values(), key=lambda pair: (pair[0].created, pair[0].id))
    composed = _frozen(loader, [space.words(params) for _, params in known], folder)
    return [
        Trial(run.dir, params, before=True)
        for (run, params), frozen in zip(known, composed, strict=True)
        if frozen is not None and frozen.digest == run.record.get("digest")
    ]


def _frozen(loader: ConfigLoader, points: Sequence[list[str]], folder: Path) -> list[Frozen | None]:
    try:
        with mistakes.explained(loader):
            return list(freeze_all(auto.compose_points(loader, points), folder))
    except UserError:
        if len(points) == 1:
            return [None]
        return [one for point in points for one in _frozen(loader, [point], folder)]
