"""How a name stands: done of total, the best point, what is left, and what stands in the way."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

from nano_exp import text
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.report.table import hours
from nano_exp.results import spent, study_tree
from nano_exp.results.curves import NAMES
from nano_exp.results.model import Results, Run
from nano_exp.results.obstacles import Obstacle, obstacles
from nano_exp.results.ranking import Ranking, rank, short_name
from nano_exp.results.ranking_table import number
from nano_exp.results.spent import Cost
from nano_exp.results.study_tree import Tree
from nano_exp.store import budget
from nano_exp.store.spells import newest_checkpoint
from nano_exp.store.state import ENDED_WELL
from nano_exp.terminal import grid

#: States in which a run goes on by itself.
GOES_ON = ("running", "pending")
#: Steps whose times say how quick a run is now.
NEWEST_STEPS = 20


@dataclass(frozen=True)
class Left:
    """What one run that is not done still needs.

    Parameters
    ----------
    steps: to max_num_steps
    seconds: at the pace of its own newest steps, or the median of its name's; None where no step was measured
    """

    run: Run
    steps: int
    seconds: float | None
    gpus: int | None

    @property
    def gpu_hours(self) -> float | None:
        return None if self.seconds is None or self.gpus is None else self.seconds * self.gpus / 3600


@dataclass(frozen=True)
class Outlook:
    """A summary of one name or several.

    Parameters
    ----------
    counts: state -> how many runs
    left: of each run that is to train on
    studies: those among the names
    ranking: None where nothing was measured, with `unranked` in words
    """

    results: Results
    counts: dict[str, int]
    cost: Cost
    left: tuple[Left, ...]
    obstacles: tuple[Obstacle, ...]
    ranking: Ranking | None
    unranked: str
    studies: tuple[Tree, ...] = ()

    @property
    def gpu_hours_left(self) -> float | None:
        known = [one.gpu_hours for one in self.left if one.gpu_hours is not None]
        return math.fsum(known) if known else None

    @property
    def running(self) -> int:
        return self.counts.get("running", 0)

    @property
    def seconds_left(self) -> float | None:
        """Until those that go on are done, as many at once as now; None where none runs, or nothing tells."""
        known = [one.seconds for one in self.left if one.seconds is not None and one.run.state in GOES_ON]
        return max(max(known), math.fsum(known) / self.running) if known and self.running else None


def look(results: Results, by: str = "reward") -> Outlook:
    """Raises UserError for a metric that there is not."""
    paces = {run.dir: p for run in results.runs if (p := pace(run)) is not None}
    usual = median(paces.values()) if paces else None
    left = tuple(_left(run, paces.get(run.dir, usual)) for run in results.runs if run.state not in ENDED_WELL)
    ranking, unranked = None, ""
    try:
        ranking = rank(results, by)
    except UserError as error:
        if results.metric_names and not error.found.startswith("no run"):
            raise
        unranked = error.found
    counts = dict(Counter(run.state for run in results.runs).most_common())
    cost = spent.total(run.cost for run in results.runs)
    studies = tuple(study_tree.every(results))
    return Outlook(results, counts, cost, left, obstacles(results.runs), ranking, unranked, studies)


def pace(run: Run) -> float | None:
    """Seconds a step of a run takes now, checkpoints and validation included; None before two steps of one attempt."""
    began = run.spells[-1].began if run.spells else 0.0
    steps = set(run.metrics.series(NAMES["reward"]).steps)
    newest = [(s, t) for s, t in run.metrics.times if s in steps]
    own = [(s, t) for s, t in newest if t >= began] if len(newest) > 1 else []
    for window in (own[-NEWEST_STEPS:], newest[-NEWEST_STEPS:]):
        if len(window) > 1 and window[-1][1] > window[0][1]:
            return (window[-1][1] - window[0][1]) / (window[-1][0] - window[0][0])
    return None


def _left(run: Run, step_s: float | None) -> Left:
    total = run.line.max_steps or 0
    kept = run.metrics.last_step if run.state in ("running", "done") else newest_checkpoint(run.spells)
    steps = max(0, total - kept)
    gpus = next((spell.gpus for spell in reversed(run.spells) if spell.gpus is not None), None)
    return Left(run, steps, None if step_s is None else steps * step_s, gpus)


# --- in words -------------------------------------------------------------------------------------------------------


def words(made: Outlook, width: int | None = None) -> str:
    """A line each; wrapped to the terminal's width."""
    results = made.results
    total = len(results.runs)
    states = ", ".join(f"{count} {state}" for state, count in made.counts.items())
    lines = [("runs", f"{made.counts.get('done', 0)} of {total} done ({states})"), ("best", _best(made))]
    lines += [("spent", _spent(made.cost)), *(("budget", said) for said in budgets(results))]
    lines += [("study", f"{study_tree.trained(one)}; {study_tree.saved(one)}") for one in made.studies]
    if made.left:
        lines.append(("left", _left_words(made)))
    for obstacle in made.obstacles:
        lines.append(("in the way" if obstacle is made.obstacles[0] else "", str(obstacle)))
    if results.slurm_error:
        lines.append(("slurm", f"does not answer ({results.slurm_error}): some states are unknown"))
    held = " ".join(f"{key}={value}" for key, value in results.held.items())
    head = f"{' '.join(results.names)}" + (f": {held}" if held else "")
    return "\n".join([head, *(line for label, said in lines for line in _lines(label, said, width))])


def budgets(results: Results) -> list[str]:
    """What each name with a budget has of it, in words; a file that is damaged says so."""
    found = []
    for name, store in dict.fromkeys((run.name, run.dir.parent.parent) for run in results.runs):
        try:
            one = budget.look(store, name)
        except Damaged as error:
            found.append(
                f"{error}: no attempt of {name} starts before it is typed again, nano-exp retry {name} budget=N"
            )
            continue
        if one is not None:
            spent_all = " (spent: no attempt starts)" if one.is_spent else ""
            found.append(f"{one}{spent_all}")
    return found


def cost_table(results: Results, width: int | None = None) -> str:
    """What each run took, those that wasted most first; GPU-hours, or machine time where no GPUs are known."""
    found = sorted(results.runs, key=lambda run: -run.cost.wasted)
    costs = [run.cost for run in found]
    on_gpus = any(cost.gpu_hours is not None for cost in costs)

    def said(cost: Cost, word: str) -> str:
        if on_gpus:
            amount = getattr(cost, f"{word}_gpu_hours")
            return hours(amount) if amount else "-"
        return text.duration(getattr(cost, word)) if getattr(cost, word) else "-"

    columns = {
        "run": [run.id for run in found],
        "state": [run.state for run in found],
        "attempts": [str(len(run.spells)) for run in found],
        "GPU-h" if on_gpus else "time": [hours(c.gpu_hours) if on_gpus else text.duration(c.seconds) for c in costs],
        "useful": [said(cost, "useful") for cost in costs],
        "failed": [said(cost, "failed") for cost in costs],
        "again": [said(cost, "repeated") for cost in costs],
        "set-up": [said(cost, "requeued") for cost in costs],
    }
    if any(cost.energy_j is not None for cost in costs):
        columns["kWh"] = ["-" if c.energy_j is None else f"{c.energy_j / 3.6e6:.1f}" for c in costs]
    points = [run.line.point for run in found]
    made = grid.grid(columns, points, width, ("attempts", "state"), before="attempts")
    return grid.text(made, [""] * len(found)) + f"\n\nin all: {_spent(spent.total(costs))}"


def _lines(label: str, said: str, width: int | None) -> list[str]:
    first = f"  {label:12}"
    if not width:
        return [first + said]
    return textwrap.wrap(
        said, max(width, 40), initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )


def _best(made: Outlook) -> str:
    ranking = made.ranking
    if ranking is None or not ranking.standings:
        return f"nothing to rank: {made.unranked}" if made.unranked else "no point came so far"
    first = ranking.standings[0]
    said = f"{first.point.label}: {short_name(ranking.metric)} {number(first.mean)}"
    seeds = len(first.measured)
    if first.interval is not None:
        said += f" ({number(first.interval.low)} to {number(first.interval.high)}: 95%, {seeds} seeds)"
    else:
        said += f" ({seeds} seed{'s' * (seeds != 1)})"
    said += f" at {ranking.budget:,.0f} steps"
    if ranking.ahead is not None:
        second = ranking.standings[1]
        said += f"; {ranking.ahead.verdict} than {second.point.label}" if ranking.ahead.p <= 0.05 else ""
        said += f"; from {second.point.label} {ranking.ahead.verdict}" if ranking.ahead.p > 0.05 else ""
    return said


def _spent(cost: Cost) -> str:
    """9.6 GPU-hours, 8.7 useful, 0.9 wasted: 0.5 failed, 0.4 trained again; 12.3 MJ; by Slurm's accounting."""
    if cost.gpu_hours is None:
        parts = [("failed", cost.failed), ("trained again", cost.repeated), ("set up again", cost.requeued)]
        lost = ", ".join(f"{text.duration(seconds)} {what}" for what, seconds in parts if seconds >= 0.5)
        return f"{text.duration(cost.seconds)} of machine time" + (
            f", of it wasted: {lost}" if lost else ", none wasted"
        )
    named = [
        ("failed", cost.failed_gpu_hours),
        ("trained again", cost.repeated_gpu_hours),
        ("set up again", cost.requeued_gpu_hours),
    ]
    lost = ", ".join(f"{hours(amount)} {what}" for what, amount in named if amount > 0)
    said = f"{hours(cost.gpu_hours)} GPU-hours, {hours(cost.useful_gpu_hours)} useful"
    said += f", {hours(cost.wasted_gpu_hours)} wasted ({lost})" if lost else ", none wasted"
    if cost.energy_j is not None:
        said += f"; {cost.energy_j / 3.6e6:,.1f} kWh"
    return said + ("" if cost.source == "files" else "; by Slurm's accounting")


def _left_words(made: Outlook) -> str:
    steps = sum(one.steps for one in made.left)
    said = f"{len(made.left)} run{'s' * (len(made.left) != 1)}, {steps:,} steps"
    unknown = [one for one in made.left if one.seconds is None]
    if unknown and len(unknown) == len(made.left):
        return f"{said}; no step has been measured yet"
    if made.gpu_hours_left is not None:
        said += f", about {hours(made.gpu_hours_left)} GPU-hours at the pace of the newest steps"
    if made.seconds_left is not None:
        said += f"; {text.duration(made.seconds_left)} for those that go on, {made.running} at once"
    elif not any(one.run.state in GOES_ON for one in made.left):
        longest = max((one.seconds for one in made.left if one.seconds is not None), default=None)
        said += f"; the longest {text.duration(longest)}; none of them goes on by itself" if longest is not None else ""
    return said


def as_json(made: Outlook) -> str:
    """The same as one object; seconds, GPU-hours, joules."""
    ranking = made.ranking
    best: dict[str, Any] | None = None
    if ranking is not None and ranking.standings:
        first = ranking.standings[0]
        best = {
            "axes": dict(first.point.axes),
            "metric": ranking.metric,
            "mean": first.mean,
            "low": first.interval.low if first.interval else None,
            "high": first.interval.high if first.interval else None,
            "seeds": len(first.measured),
            "p_over_second": ranking.ahead.p if ranking.ahead else None,
        }
    cost = made.cost
    per_run = {run.id: _plain(run.cost) for run in made.results.runs}
    whole = {
        "names": list(made.results.names),
        "runs": len(made.results.runs),
        "states": made.counts,
        "best": best,
        "spent": _plain(cost),
        "spent_by_run": per_run,
        "studies": [study_tree.totals(one) for one in made.studies],
        "budgets": budgets(made.results),
        "left": {
            "runs": len(made.left),
            "steps": sum(one.steps for one in made.left),
            "gpu_hours": made.gpu_hours_left,
            "seconds": made.seconds_left,
        },
        "in_the_way": [obstacle.as_dict() for obstacle in made.obstacles],
        "slurm_error": made.results.slurm_error or None,
    }
    return json.dumps(whole, indent=1)


def _plain(cost: Cost) -> dict[str, Any]:
    return {**vars(cost), "useful_gpu_hours": cost.useful_gpu_hours, "wasted_gpu_hours": cost.wasted_gpu_hours}
