"""One launch, from composed points to submitted runs: freeze, check, plan, show, submit, and wait where asked to."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nano_exp import preflight, slurm
from nano_exp.compose import origins, sweep
from nano_exp.compose.freeze import Freezable, Frozen
from nano_exp.errors import UserError
from nano_exp.launch import (
    after_training,
    convergence,
    dependency,
    gather,
    job_arrays,
    large,
    launch_request,
    packing,
    show,
    spending,
    staging,
    study_terms,
    submit,
    terms,
    waiting,
)
from nano_exp.launch.launch_request import Request
from nano_exp.launch.terms import Terms
from nano_exp.preflight import baseline, fixes, shared_caches
from nano_exp.preflight import wording as preflight_show
from nano_exp.store import runs, state


@dataclass(frozen=True)
class Launched:
    """What a launch found and did.

    Parameters
    ----------
    plan: its rows are the points that were not skipped, equal ones once
    code: what the process exits with: 0 all well, 1 a waited-for run failed, 3 something asked for was not submitted,
        130 Ctrl-C while waiting
    ready: of a search's point, what was dispatched
    """

    plan: convergence.Plan
    code: int = 0
    ready: job_arrays.Launch | None = None


def launch(
    points: Sequence[Freezable],
    parameters: dict[str, Any],
    folder: Path,
    constraints: Sequence[sweep.Constraint] = (),
    of_search: bool = False,
) -> Launched:
    """Launch points.

    Parameters
    ----------
    parameters: hydra.launcher's
    folder: the launch folder, against which relative paths are made absolute
    constraints: points that break one are shown and skipped
    of_search: nothing is asked, waited for or started on this machine, and the study stays as it is: that is the
        search's to do

    Raises
    ------
    UserError: nothing was submitted, or Slurm refused
    """
    request = launch_request.read(points, parameters, folder, constraints)
    if request.switches["dry_run"]:
        report = look(request.frozen_configs, parameters, submitting=False)
        plan = dry_run(request, parameters, report.start)
        refuse(report)
        return Launched(plan)
    if of_search:
        recorded = record(prepare(request, parameters, ask=False), settle=False)
        return Launched(recorded.plan, code_of(recorded.plan), recorded.ready)
    return finish(record(prepare(request, parameters)))


@dataclass(frozen=True)
class Prepared:
    """A launch that was checked, and agreed to where it is a large one.

    Parameters
    ----------
    agreed: the plan that the user said yes to; None where nobody had to be asked
    """

    request: Request
    parameters: dict[str, Any]
    report: preflight.Report
    agreed: convergence.Plan | None


@dataclass(frozen=True)
class Recorded:
    """A launch whose runs are in the store, and in the queue where there is Slurm.

    Parameters
    ----------
    ready: what was submitted; None where there was nothing to submit
    """

    request: Request
    plan: convergence.Plan
    ready: job_arrays.Launch | None


def prepare(request: Request, parameters: dict[str, Any], ask: bool = True) -> Prepared:
    """Check a launch. Writes nothing.

    Parameters
    ----------
    ask: about a large one

    Raises
    ------
    UserError: it cannot be sent, preflight finds errors, or the user does not agree
    """
    send = request.switches["submit"]
    launch_request.require_sendable(request)
    if request.where == "slurm" and send:
        slurm.require()
    report = check(request.frozen_configs, parameters, submitting=send)
    return Prepared(request, parameters, report, _agreed(request, report, parameters) if ask else None)


def record(prepared: Prepared, settle: bool = True) -> Recorded:
    """Show the plan, write its runs, and submit them where there is Slurm.

    Parameters
    ----------
    settle: whether the study's rungs are written down, and those go on that now may

    Raises
    ------
    UserError: nothing was submitted, or Slurm refused
    """
    request, report, agreed = prepared.request, prepared.report, prepared.agreed
    where, results, send = request.where, request.results, request.switches["submit"]
    with submit.lock(results):
        if settle:
            study_terms.settle(results, [frozen.name for frozen in request.frozen_configs], request.terms)
        plan = request.plan()
        if agreed is None or plan.to_submit != agreed.to_submit:
            _announce(plan, request, report.start, prepared.parameters)
        spending.settle(results, [row.frozen.name for row in plan.rows], request.terms.budget)
        ready = (
            dispatch(
                plan.to_submit,
                where,
                prepared.parameters,
                results,
                request.env_file,
                send,
                request.terms,
                swept=request.swept,
                warnings=preflight_show.warning_records(report),
            )
            if plan.to_submit
            else None
        )
        if where == "slurm" and send:
            _print(after_training.send_lacking(plan.of("done"), request.terms.after_training))
    return Recorded(request, plan, ready)


def finish(recorded: Recorded) -> Launched:
    """Execute a launch here where there is no Slurm, or wait for it where that is asked for."""
    request, plan, ready = recorded.request, recorded.plan, recorded.ready
    where, code = request.where, code_of(plan)
    active = plan.of(*state.ACTIVE)
    if ready is not None and where == "local":
        parallel = packing.at_once(request.terms) or int(request.frozen_configs[0].config["slurm"]["parallel_local"])
        ended = waiting.run_here(ready, parallel)
        if ended != 130:  # of those that were done before
            code = after_training.here([row.dir for row in plan.of("done")], request.terms.after_training) or code
        return Launched(plan, ended or code)
    if ready is None:
        done = plan.of("done") if where == "local" else []
        show.results([row.dir for row in done])
        if len(done) < len(plan.rows):
            show.nothing_to_do(plan)
    if where == "local":
        code = after_training.here([row.dir for row in plan.of("done")], request.terms.after_training) or code
    if request.switches["wait"] and (plan.to_submit or active):
        code = waiting.wait_for([*plan.to_submit, *active]) or code
    return Launched(plan, code)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}")


def _announce(plan: convergence.Plan, request: Request, start: str, parameters: Mapping[str, Any]) -> None:
    """The plan, what it costs and when it would start."""
    if request.switches["show_yaml"]:
        show.engine_yaml(plan)
    show.plan(plan)
    waits = request.terms.after or dependency.sources_of(row.config for row in plan.to_submit)
    show.expected(plan, "" if waits else start, parameters, request.terms)
    if plan.to_submit:
        names = [row.frozen.name for row in plan.to_submit]
        for line in spending.require(request.results, names, request.terms.budget):
            print(f"  {line}")


def _agreed(request: Request, report: preflight.Report, parameters: Mapping[str, Any]) -> convergence.Plan | None:
    """The plan of a large launch, once the user has said yes to it; None where nobody has to be asked.

    Before the results are locked: the answer may take a while, and others launch into them too.

    Raises
    ------
    UserError: no yes
    """
    if request.switches["yes"] or not request.switches["submit"]:
        return None
    if not request.terms.pack and not large.is_large(len(request.frozen_configs), report.cost.gpu_hours):
        return None  # what is packed costs otherwise
    plan = request.plan()
    size = large.words(plan.to_submit, parameters, request.terms)
    if not size:  # most of it is done already
        return None
    _announce(plan, request, report.start, parameters)
    large.ask(size)
    return plan


def dispatch(
    rows: Sequence[convergence.Row],
    where: str,
    parameters: dict[str, Any],
    results: Path,
    env_file: Path | None,
    send: bool = True,
    requested: Terms | None = None,
    behind: Sequence[str] = (),
    swept: Sequence[str] = (),
    warnings: Sequence[Mapping[str, Any]] = (),
) -> job_arrays.Launch:
    """Record the intent for these rows and, where there is Slurm, submit them. The results folder is locked.

    Parameters
    ----------
    send: False leaves sbatch to the user, and shows what to type
    behind: Slurm jobs that have to end first, however they do
    swept: the keys that differ among the launch's points, those that are not submitted included
    warnings: what preflight warned of
    """
    ready = arranged(rows, where, results, requested, behind, send)
    ready.axes, ready.warnings = swept, warnings
    ready.by_hand = not send
    if not send:
        _require_shares(ready)
    try:
        staging.prepare(ready, where, parameters, sys.argv[1:], env_file)
        if not send:
            show.by_hand(ready)
        elif where == "slurm":
            try:
                submit.send(ready)
            finally:  # of several arrays the first ones may be queued when a later one is refused
                show.submitted(ready)
            _print(after_training.send(ready))
    except KeyboardInterrupt:
        show.cut_off(ready)
        raise
    if send and where == "slurm":
        for line in dependency.renew(results, [runs.Run(row.dir) for row in rows], convergence.QueueLookup()):
            print(f"  {line}")
    return ready


def arranged(
    rows: Sequence[convergence.Row],
    where: str,
    results: Path,
    requested: Terms | None,
    behind: Sequence[str] = (),
    send: bool = True,
) -> job_arrays.Launch:
    """The arrays of a launch, and what they wait for. Raises UserError where that will never come."""
    limit = job_arrays.array_limit(len(rows)) if where == "slurm" else len(rows)
    several = where == "slurm" and send and len(rows) > 1
    cold = several and any(shared_caches.cold(convergence.configs_of(rows), os.environ))
    settled = terms.settled(requested or Terms(), cold)
    ready = job_arrays.arrange(rows, job_arrays.new_id(), results, settled, limit)
    if where == "local":  # these runs are the launcher's own processes, with parts of this machine (local.py)
        for array in ready.arrays:
            array.pack = None
    sources = dependency.sources_of(row.config for row in rows) if where == "slurm" else []
    sources = [source for source in sources if source not in origins.planned()]  # of a chain, and not sent yet
    after = dependency.after(ready.terms.after, results, convergence.QueueLookup(), sources)
    ready.after = replace(after, terms=(*after.terms, *(f"afterany:{job}" for job in behind)))
    return ready


def _require_shares(ready: job_arrays.Launch) -> None:
    """Without job numbers no array can be made to wait for another, so each one needs a share of `parallel`."""
    count = len(ready.arrays)
    if any(array.behind is not None for array in ready.arrays):
        raise UserError(
            f"parallel={ready.terms.parallel} with submit=false, and {count} job arrays",
            "each array has a throttle of its own, at least 1, and nothing makes one wait for another",
            f"parallel={count} or more, or leave it out and send them one after another",
        )


def check(
    frozen_configs: Sequence[Frozen], parameters: Mapping[str, Any], submitting: bool, inside: bool = False
) -> preflight.Report:
    """`look`, and then `refuse`."""
    report = look(frozen_configs, parameters, submitting, inside)
    refuse(report)
    return report


def look(
    frozen_configs: Sequence[Frozen], parameters: Mapping[str, Any], submitting: bool, inside: bool = False
) -> preflight.Report:
    """Preflight over every point; what does not stop the launch is shown.

    Parameters
    ----------
    inside: the allocation is there already, so Slurm is not asked about one

    Raises
    ------
    UserError: Slurm does not answer, something was to be submitted, and preflight finds no error besides
    """
    ignore = preflight.ignored(frozen_configs)
    facts = gather.facts(frozen_configs, parameters, submitting, inside)
    findings = preflight.examine(frozen_configs, facts, ignore)
    theirs = baseline.of(frozen_configs, findings, facts)
    report = fixes.true_fixes(findings, frozen_configs, facts, Path.cwd(), theirs)
    if warnings := preflight_show.warnings(report, theirs):
        print(warnings, file=sys.stderr)
    answers = facts.answers
    if submitting and not report.errors and answers is not None and answers.available and answers.none:
        raise UserError(
            f"Slurm does not answer: {'; '.join(answers.silent)}",
            "the controller is down or out of reach; nothing was queued",
            "the same command later; `scontrol ping` says whether it is up",
            code=4,
        )
    if report.tokens and frozen_configs[0].config["slurm"]["where"] == "slurm":
        print("\n".join(report.tokens))
    if report.caches and frozen_configs[0].config["slurm"]["where"] == "slurm":
        print("\n".join(report.caches))
    return report


def refuse(report: preflight.Report) -> None:
    """Raises UserError: all errors of all points."""
    if report.errors:
        raise preflight_show.Refusal(report)


def code_of(plan: convergence.Plan) -> int:
    """The exit code that a plan alone asks for."""
    return 3 if plan.of("changed", "damaged") else 0


def dry_run(request: Request, parameters: dict[str, Any], start: str = "") -> convergence.Plan:
    """Show what a launch would do: batch scripts, and at the end the plan. Writes nothing.

    Parameters
    ----------
    start: when Slurm would start the runs, in words
    """
    plan, send = request.plan(), request.switches["submit"]
    if request.where == "slurm":
        ready = arranged(plan.to_submit, request.where, request.results, request.terms, send=send)
        show.scripts(ready, parameters)
        if ready.canary is not None:
            print(f"canary: two steps of {ready.canary.rows[0].id} come first (canary=false does without)")
    _announce(plan, request, start, parameters)
    more = "" if request.switches["show_yaml"] else " (show_yaml=true shows the engine's YAML too)"
    print(f"\ndry run: nothing was submitted and nothing was written{more}")
    return plan
