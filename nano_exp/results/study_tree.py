"""A study as its rungs: which points reached each, which went on and why, and what that saved."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.results.model import Results, Run
from nano_exp.results.obstacles import Obstacle, obstacles
from nano_exp.study import book, halving
from nano_exp.study.halving import Halving, Member
from nano_exp.text import duration

#: Of a point that goes on.
ON, SOME_ON = "goes on", "go on"
STEP_TIME = "timing/train/total_step_time"


@dataclass(frozen=True)
class Branch:
    """A point at a rung.

    Parameters
    ----------
    value: its seeds' mean; None while seeds are still to come
    fate: goes on, paused, or what its runs do
    why: of one that went on
    """

    label: str
    runs: tuple[str, ...]
    value: float | None
    fate: str
    why: str = ""

    @property
    def goes_on(self) -> bool:
        """Some of its runs at least."""
        return self.fate.endswith((ON, SOME_ON))


@dataclass(frozen=True)
class Tree:
    """A study.

    Parameters
    ----------
    rungs: step -> the points there, the best first; the last step is the runs' end
    in_the_way: its runs that do not go on by themselves: what is compared waits for some of them
    trained, full: steps of its runs so far, and of a grid of all of them
    spent_s, saved_s: seconds of training, and those that paused runs have left at their own pace
    more_to_come: a search adds points
    """

    name: str
    rules: Halving
    rungs: tuple[tuple[int, tuple[Branch, ...]], ...]
    in_the_way: tuple[Obstacle, ...]
    trained: int
    full: int
    spent_s: float
    saved_s: float
    more_to_come: bool = False

    @property
    def part(self) -> float:
        """Of the full grid's steps that are trained."""
        return self.trained / self.full if self.full else 0.0


def look(results: Results, name: str) -> Tree:
    """Raises UserError where the name has no study."""
    store = results.runs[0].dir.parent.parent
    rules = book.read(store, name)
    pairs = book.members(store, name, rules) if rules is not None else []
    if rules is None or not pairs:
        raise _no_study(store, name, results)
    by_id = {run.id: run for run in results.runs if run.name == name}
    labels = {run.id: point.label for point in results.points for run in point.runs if run.name == name}
    known = [(by_id[run.id], member) for run, member in pairs if run.id in by_id]
    whys = {
        (run.id, event.data.get("rung")): str(event.data.get("why") or "")
        for run, _ in pairs
        for event in run.events
        if event.kind == "promote"
    }
    most = max((run.line.max_steps or 0 for run, _ in known), default=0)
    steps = [*rules.rungs, most]
    rungs = tuple((step, _rung(known, rules, rung, labels, whys)) for rung, step in enumerate(steps))
    times = [run.metrics.series(STEP_TIME).values for run, _ in known]
    paused = [(run, took) for (run, _), took in zip(known, times, strict=True) if run.state == "paused" and took]
    saved = math.fsum((most - run.line.step) * math.fsum(took) / len(took) for run, took in paused)
    trained = sum(run.line.step for run, _ in known)
    blocking = tuple(one for one in obstacles(run for run, _ in known) if one.state != "pending" or one.next)
    spent, more = math.fsum(map(math.fsum, times)), book.is_open(store, name)
    return Tree(name, rules, rungs, blocking, trained, most * len(known), spent, saved, more)


def _no_study(store: Path, name: str, results: Results) -> UserError:
    """For a run's id, a name that was launched without rungs, or one all of whose runs were removed."""
    own = [one for one in book.names(store) if one in results.names]
    others = [f"nano-exp study {one}" for one in own or book.names(store)[:3]]
    if own and name not in own:
        return UserError(f"{name} is no study", f"it is a run of {', '.join(own)}", " or ".join(others))
    launch = "its launch again with 'halving.rungs=[STEP,STEP]'"
    return UserError(f"{name} is no study", "none of its runs was launched with rungs", "; or ".join([*others, launch]))


def every(results: Results) -> list[Tree]:
    """The studies among the names of these runs."""
    trees = []
    for name in results.names:
        with contextlib.suppress(UserError, Damaged):
            trees.append(look(results, name))
    return trees


def _rung(
    known: Sequence[tuple[Run, Member]], rules: Halving, rung: int, labels: dict[str, str], whys: dict[Any, str]
) -> tuple[Branch, ...]:
    here = [(run, member) for run, member in known if member.level >= rung]
    ranked, _ = halving.ranked([member for _, member in here], rung, rules.higher_is_better)
    order = [point for point, _ in ranked]
    order += [member.point for _, member in here if member.point not in order]
    values, branches = dict(ranked), []
    for point in dict.fromkeys(order):
        own = [(run, member) for run, member in here if member.point == point]
        on = [run for run, member in own if member.level > rung]
        states = ", ".join(dict.fromkeys(run.state for run, _ in own))
        value = values.get(point)
        branches.append(
            Branch(
                labels[own[0][0].id],
                tuple(run.id for run, _ in own),
                None if value is None or math.isinf(value) else value,
                states if not on else ON if len(on) == len(own) else f"{len(on)} of {len(own)} {SOME_ON}",
                next((whys[run.id, rung] for run in on if (run.id, rung) in whys), ""),
            )
        )
    return tuple(branches)


def words(tree: Tree) -> str:
    """For people."""
    counts = {len(branch.runs) for _, branches in tree.rungs for branch in branches}
    same = f", {counts.pop()} seeds a point" if len(counts) == 1 and counts != {1} else ""
    lines = [f"{tree.name}: {tree.rules}{same}"]
    wide = max((len(branch.fate) for _, branches in tree.rungs for branch in branches), default=0)
    if tree.more_to_come:
        lines.append("its search has not asked for all of its points yet: the same command goes on with it")
    for rung, (step, branches) in enumerate(tree.rungs):
        on = sum(branch.goes_on for branch in branches)
        end = rung == len(tree.rungs) - 1
        reached = sum(branch.value is not None for branch in branches)
        count = f"{len(branches)} point{'s' if len(branches) != 1 else ''}"
        lines.append(f"step {step}: {count}" + ("" if end else f", {reached} reached it, {on} went on"))
        for branch in branches:
            value = "" if end else "-" if branch.value is None else f"{branch.value:.4g}"
            seeds = f" ({len(branch.runs)} seeds)" if len(branch.runs) > 1 and not same else ""
            lines.append(f"  {value:8}{branch.fate:{wide}}  {branch.label}{seeds}")
    return "\n".join([*lines, trained(tree), saved(tree), *(f"in the way: {one}" for one in tree.in_the_way)])


def trained(tree: Tree) -> str:
    return f"trained {tree.trained:,} of the {tree.full:,} steps of the full grid ({tree.part:.0%})"


def saved(tree: Tree) -> str:
    return f"training took {duration(tree.spent_s)}; pausing saved {duration(tree.saved_s)}, at the runs' own pace"


def totals(tree: Tree) -> dict[str, Any]:
    """What it trained and saved, for scripts: steps, seconds."""
    return {key: getattr(tree, key) for key in ("name", "trained", "full", "spent_s", "saved_s")}


def as_json(tree: Tree) -> str:
    """For scripts."""
    rungs = [{"step": step, "points": [vars(branch) for branch in branches]} for step, branches in tree.rungs]
    in_the_way = [one.as_dict() for one in tree.in_the_way]
    whole = {**vars(tree), "rules": tree.rules.as_dict(), "rungs": rungs, "in_the_way": in_the_way}
    return json.dumps(whole, indent=1)
