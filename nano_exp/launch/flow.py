"""One launch, from composed points to submitted runs: freeze, check, plan, show, submit, and wait where asked to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import credentials, environment, preflight, slurm
from nano_exp.compose import sweep
from nano_exp.compose.compose import Point
from nano_exp.compose.family import Sibling, freeze_all
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.index import progress
from nano_exp.launch import convergence, dependency, gather, large, local, show, spending, submit, terms
from nano_exp.launch.terms import Terms
from nano_exp.preflight import baseline, fixes, shared_caches
from nano_exp.preflight import wording as preflight_show
from nano_exp.store import axes, runs, state
from nano_exp.store.run_config import SWITCHES
from nano_exp.terminal import progress_line


@dataclass(frozen=True)
class Launched:
    """What a launch found and did.

    Parameters
    ----------
    plan: its rows are the points that were not skipped, equal ones once
    code: what the process exits with: 0 all well, 1 a waited-for run failed, 3 something asked for was not submitted,
        130 Ctrl-C while waiting
    """

    plan: convergence.Plan
    code: int = 0


@dataclass(frozen=True)
class Wish:
    """What is asked for: the frozen configs, and what is common to all of them."""

    wanted: list[Frozen]
    switches: dict[str, bool]
    where: str
    results: Path
    env_file: Path | None
    terms: Terms

    @property
    def swept(self) -> list[str]:
        """The keys that differ among the points."""
        given = [axes.typed(frozen.overrides) for frozen in self.wanted]
        points = axes.points(given, lambda index, key: axes.at(self.wanted[index].config, {}, key))
        return list(points[0])

    def plan(self) -> convergence.Plan:
        return convergence.make(self.wanted, self.switches["fresh"], convergence.Asked())


def read(
    points: Sequence[Point | Sibling],
    parameters: dict[str, Any],
    folder: Path,
    constraints: Sequence[sweep.Constraint] = (),
) -> Wish:
    """Freeze the points, say which are skipped, and refuse those that do not belong in one launch."""
    env_file = read_environment(environment.find(folder))  # first: its values are refused in what follows
    credentials.refuse({"hydra.launcher": parameters}, "the launch")  # they stand in the batch script
    wanted, skipped = sweep.split(freeze_all(points, folder), constraints)
    switches = {key: _switch(wanted, key) for key in SWITCHES}
    where = str(wanted[0].config["slurm"]["where"])
    show.skipped(skipped, wanted)
    show.notes([note for point in points for note in point.notes])
    _require_one(wanted)
    _require_place(where)
    asked = terms.read(wanted, points[0].overrides)
    terms.require(asked, where, switches["submit"])
    return Wish(wanted, switches, where, Path(wanted[0].config["run"]["results"]), env_file, asked)


def launch(
    points: Sequence[Point | Sibling],
    parameters: dict[str, Any],
    folder: Path,
    constraints: Sequence[sweep.Constraint] = (),
) -> Launched:
    """Launch points.

    Parameters
    ----------
    parameters: hydra.launcher's
    folder: the launch folder, against which relative paths are made absolute
    constraints: points that break one are shown and skipped

    Raises
    ------
    UserError: nothing was submitted, or Slurm refused
    """
    wish = read(points, parameters, folder, constraints)
    where, results, send = wish.where, wish.results, wish.switches["submit"]
    if wish.switches["dry_run"]:
        report = look(wish.wanted, parameters, submitting=False)
        made = dry_run(wish, parameters, report.start)
        refuse(report)
        return Launched(made)
    _require_sendable(wish)
    if where == "slurm" and send:
        slurm.require()
    report = check(wish.wanted, parameters, submitting=send)
    agreed = _agreed(wish, report, parameters)
    with submit.lock(results):
        made = wish.plan()
        if agreed is None or made.to_submit != agreed.to_submit:
            _announce(made, wish, report.start, parameters)
        code = code_of(made)
        spending.settle(results, [row.frozen.name for row in made.rows], wish.terms.budget)
        ready = (
            dispatch(made.to_submit, where, parameters, results, wish.env_file, send, wish.terms, swept=wish.swept)
            if made.to_submit
            else None
        )
    active = made.of(*state.ACTIVE)
    if ready is not None and where == "local":
        parallel = wish.terms.parallel or int(wish.wanted[0].config["slurm"]["parallel_local"])
        return Launched(made, run_here(ready, parallel) or code)
    if ready is None:
        done = made.of("done") if where == "local" else []
        show.results([row.dir for row in done])
        if len(done) < len(made.rows):
            show.nothing_to_do(made)
    if wish.switches["wait"] and (made.to_submit or active):
        code = wait_for([*made.to_submit, *active]) or code
    return Launched(made, code)


def _announce(made: convergence.Plan, wish: Wish, start: str, parameters: Mapping[str, Any]) -> None:
    """The plan, what it costs and when it would start."""
    if wish.switches["show_yaml"]:
        show.engine_yaml(made)
    show.plan(made)
    show.expected(made, start, parameters)
    if made.to_submit:
        names = [row.frozen.name for row in made.to_submit]
        for line in spending.require(wish.results, names, wish.terms.budget):
            print(f"  {line}")


def _agreed(wish: Wish, report: preflight.Report, parameters: Mapping[str, Any]) -> convergence.Plan | None:
    """The plan of a large launch, once the user has said yes to it; None where nobody has to be asked.

    Before the results are locked: the answer may take a while, and others launch into them too.

    Raises
    ------
    UserError: no yes
    """
    if wish.switches["yes"] or not wish.switches["submit"]:
        return None
    if not large.is_large(len(wish.wanted), report.cost.gpu_hours):
        return None
    made = wish.plan()
    said = large.words(made.to_submit, parameters)
    if not said:  # most of it is done already
        return None
    _announce(made, wish, report.start, parameters)
    large.ask(said)
    return made


def _switch(wanted: Sequence[Frozen], key: str) -> bool:
    """A switch of the whole launch. `no` and `off` are words to Hydra, not false, so only real booleans are taken."""
    values = [frozen.config.get(key, False) for frozen in wanted]
    if any(not isinstance(v, bool) or v != values[0] for v in values):
        raise UserError(
            f"{key}={values[0]!r}", "it must be true or false, for the whole launch", f"{key}=true or {key}=false"
        )
    return bool(values[0])


def read_environment(path: Path | None) -> Path | None:
    """Check a launch's env.yaml before anything is done, and say what it gives. Raises UserError."""
    if path is not None:
        names = environment.read(path)
        print(f"environment: {environment.said(path, names, [name for name in names if name in os.environ])}")
    return path


def dispatch(
    rows: Sequence[convergence.Row],
    where: str,
    parameters: dict[str, Any],
    results: Path,
    env_file: Path | None,
    send: bool = True,
    asked: Terms | None = None,
    behind: Sequence[str] = (),
    swept: Sequence[str] = (),
) -> submit.Launch:
    """Record the intent for these rows and, where there is Slurm, submit them. The results folder is locked.

    Parameters
    ----------
    send: False leaves sbatch to the user, and shows what to type
    behind: Slurm jobs that have to end first, however they do
    swept: the keys that differ among the launch's points, those that are not submitted included
    """
    ready = arranged(rows, where, results, asked, behind, send)
    ready.axes = swept
    ready.by_hand = not send
    if not send:
        _require_shares(ready)
    try:
        submit.prepare(ready, where, parameters, sys.argv[1:], env_file)
        if not send:
            show.by_hand(ready)
        elif where == "slurm":
            try:
                submit.send(ready)
            finally:  # of several arrays the first ones may be queued when a later one is refused
                show.submitted(ready)
    except KeyboardInterrupt:
        show.cut_off(ready)
        raise
    if send and where == "slurm":
        for line in dependency.renew(results, [runs.load(row.dir) for row in rows], convergence.Asked()):
            print(f"  {line}")
    return ready


def arranged(
    rows: Sequence[convergence.Row],
    where: str,
    results: Path,
    asked: Terms | None,
    behind: Sequence[str] = (),
    send: bool = True,
) -> submit.Launch:
    """The arrays of a launch, and what they wait for. Raises UserError where that will never come."""
    limit = submit.array_limit(len(rows)) if where == "slurm" else len(rows)
    several = where == "slurm" and send and len(rows) > 1
    cold = several and any(shared_caches.cold([row.config for row in rows], os.environ))
    settled = terms.settled(asked or Terms(), cold)
    ready = submit.arrange(rows, submit.new_id(), results, settled, limit)
    found = dependency.after(ready.terms.after, results, convergence.Asked())
    ready.after = dependency.After((*found.terms, *(f"afterany:{job}" for job in behind)), found.waits)
    return ready


def _require_shares(ready: submit.Launch) -> None:
    """Without job numbers no array can be made to wait for another, so each one needs a share of `parallel`."""
    count = len(ready.arrays)
    if any(array.behind is not None for array in ready.arrays):
        raise UserError(
            f"parallel={ready.terms.parallel} with submit=false, and {count} job arrays",
            "each array has a throttle of its own, at least 1, and nothing makes one wait for another",
            f"parallel={count} or more, or leave it out and send them one after another",
        )


def check(
    wanted: Sequence[Frozen], parameters: Mapping[str, Any], submitting: bool, inside: bool = False
) -> preflight.Report:
    """`look`, and then `refuse`."""
    report = look(wanted, parameters, submitting, inside)
    refuse(report)
    return report


def look(
    wanted: Sequence[Frozen], parameters: Mapping[str, Any], submitting: bool, inside: bool = False
) -> preflight.Report:
    """Preflight over every point; what does not stop the launch is shown.

    Parameters
    ----------
    inside: the allocation is there already, so Slurm is not asked about one

    Raises
    ------
    UserError: Slurm does not answer, something was to be submitted, and preflight finds no error besides
    """
    ignore = preflight.ignored(wanted)
    facts = gather.facts(wanted, parameters, submitting, inside)
    found = preflight.examine(wanted, facts, ignore)
    theirs = baseline.of(wanted, found, facts)
    report = fixes.true_fixes(found, wanted, facts, Path.cwd(), theirs)
    if said := preflight_show.warnings(report, theirs):
        print(said, file=sys.stderr)
    answers = facts.answers
    if submitting and not report.errors and answers is not None and answers.available and answers.none:
        raise UserError(
            f"Slurm does not answer: {'; '.join(answers.silent)}",
            "the controller is down or out of reach; nothing was queued",
            "the same command later; `scontrol ping` says whether it is up",
            code=4,
        )
    if report.tokens and wanted[0].config["slurm"]["where"] == "slurm":
        print("\n".join(report.tokens))
    if report.caches and wanted[0].config["slurm"]["where"] == "slurm":
        print("\n".join(report.caches))
    return report


def refuse(report: preflight.Report) -> None:
    """Raises UserError: all errors of all points."""
    if report.errors:
        raise preflight_show.Refusal(report)


def _require_one(wanted: Sequence[Frozen]) -> None:
    """A launch has one results folder and one place; both come from the first point, so they must agree."""
    for section, key in (("run", "results"), ("slurm", "where")):
        values = {str(frozen.config[section][key]) for frozen in wanted}
        if len(values) > 1:
            raise UserError(
                f"points of one launch have {section}.{key}: {', '.join(sorted(values))}",
                "one launch goes to one place" if key == "where" else "one launch writes to one results folder",
                "two launches, or the same value for all points (cluster=local does not mix with Slurm's)",
            )


def _require_place(where: str) -> None:
    if where not in ("slurm", "local"):
        raise UserError(
            f"slurm.where={where}", "runs go to `slurm` or stay `local`", "cluster=local, or a cluster of Slurm's"
        )


def _require_sendable(wish: Wish) -> None:
    """submit=false leaves sbatch to the user, so there has to be something to send and nothing to wait for."""
    if wish.switches["submit"]:
        return
    if wish.where == "local":
        raise UserError(
            "submit=false with slurm.where=local",
            "runs on this machine are not sent with sbatch",
            "leave submit=false out, or choose a cluster= of Slurm's",
        )
    if wish.switches["wait"]:
        raise UserError(
            "submit=false with wait=true", "nothing is submitted that could be waited for", "leave one of the two out"
        )


def code_of(made: convergence.Plan) -> int:
    """The exit code that a plan alone asks for."""
    return 3 if made.of("changed", "damaged") else 0


def dry_run(wish: Wish, parameters: dict[str, Any], start: str = "") -> convergence.Plan:
    """Show what a launch would do: batch scripts, and at the end the plan. Writes nothing.

    Parameters
    ----------
    start: when Slurm would start the runs, in words
    """
    made, send = wish.plan(), wish.switches["submit"]
    if wish.where == "slurm":
        ready = arranged(made.to_submit, wish.where, wish.results, wish.terms, send=send)
        show.scripts(ready, parameters)
        if ready.canary is not None:
            print(f"canary: two steps of {ready.canary.rows[0].id} come first (canary=false does without)")
    _announce(made, wish, start, parameters)
    more = "" if wish.switches["show_yaml"] else " (show_yaml=true shows the engine's YAML too)"
    print(f"\ndry run: nothing was submitted and nothing was written{more}")
    return made


def run_here(ready: submit.Launch, parallel: int) -> int:
    """Execute on this machine, show what was learned, and return the exit code."""
    began = time.monotonic()
    rows = [row for array in ready.arrays for row in array.rows]
    try:
        ends = local.execute(ready, max(1, parallel))
    except local.Interrupted:
        show.interrupted([row.dir for row in rows])
        return 130
    show.results([row.dir for row in rows], time.monotonic() - began)
    return 1 if any(end != "done" for end in ends.values()) else 0


def wait_for(rows: Sequence[convergence.Row], poll_s: float = 5.0) -> int:
    """Wait until no run of a Slurm launch is active any more, with a live line. Ctrl-C stops waiting, not the runs.

    Returns the exit code.
    """
    live = progress_line.Live(every_s=60.0)
    try:
        while True:
            asked = convergence.Asked()
            states = {row.id: asked.state(runs.load(row.dir)).kind for row in rows}
            active = [row for row in rows if states[row.id] in ("pending", "running", "unknown")]
            if not active:
                break
            samples = [(row.id, progress.sample(row.dir), _steps(row)) for row in active]
            waiting = "" if asked.error == "" else f"  (Slurm does not answer: {asked.error})"
            live.show(progress_line.many(samples, len(rows) - len(active), len(rows)) + waiting)
            time.sleep(poll_s)
    except KeyboardInterrupt:
        live.say("Ctrl-C: no longer waiting; the jobs go on. nano-exp status shows them")
        return 130
    live.clear()
    show.results([row.dir for row in rows])
    return 1 if any(kind != "done" for kind in states.values()) else 0


def _steps(row: convergence.Row) -> int:
    return int(row.config["grpo"]["max_num_steps"])
