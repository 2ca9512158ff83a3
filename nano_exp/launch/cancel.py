"""End active runs: scancel for those of Slurm, SIGTERM for those of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from nano_exp import slurm, text
from nano_exp.errors import UserError
from nano_exp.launch import convergence, history
from nano_exp.store import axes, predecessors, runs, state
from nano_exp.store.runs import Run
from nano_exp.store.state import State
from nano_exp.terminal import grid
from nano_exp.text import short_title

#: How many lines of one kind are shown before it is said how many more there are.
MOST = 10


def cancel(selected_runs: Sequence[Run], yes: bool, confirm: Callable[[str], bool]) -> int:
    """End active runs: scancel for Slurm's, SIGTERM for those of this machine. Says what it stopped.

    Parameters
    ----------
    yes: do not ask, also for several runs
    confirm: asks the user a question; False where there is nobody to ask
    """
    active = [(run, now) for run, now in history.states(selected_runs) if now.kind in state.ACTIVE]
    if not active:
        print(f"nothing to cancel: none of {len(selected_runs)} run{'s' if len(selected_runs) != 1 else ''} is active")
        return 0
    _show_active(active)
    for line in _left_behind([run for run, _ in active]):
        print(f"  {line}")
    if len(active) > 1 and not yes and not confirm(f"cancel these {len(active)} runs?"):
        raise UserError(
            f"cancelling {len(active)} active runs was not confirmed",
            "several runs are cancelled only after a yes",
            "the same command with --yes",
            code=2,
        )
    slurm_jobs = _whole_jobs(active)
    if slurm_jobs:
        slurm.scancel(slurm_jobs)
    for run, now in active:
        if ":" in now.job:
            _end_local(run, now)
        runs.record_event(run.dir, "cancel", job=now.job)
    canaries = _canaries([run for run, _ in active])
    if canaries:
        slurm.scancel(canaries)
    print(f"cancelled {len(active)} run{'s' if len(active) != 1 else ''}; the same launch, or nano-exp retry, goes on")
    return 0


def _whole_jobs(active: Sequence[tuple[Run, State]]) -> list[str]:
    """The Slurm jobs to cancel: not those that execute other runs too (`pack=N`), which heed the run's own event."""
    stopped = {run.dir for run, _ in active}
    jobs = []
    for run, now in active:
        sent = state.submission(run)
        shared = sent is not None and sent.packed and not _neighbours(run, sent, now.job) <= stopped
        if ":" not in now.job and not shared:
            jobs.append(now.job)
    return list(dict.fromkeys(jobs))


def _neighbours(run: Run, sent: state.Submission, job: str) -> set[Path]:
    """The active runs of a job that has several."""
    folders = [folder for folder in history.run_dirs(history.manifest(run.results, sent.launch)) if folder.is_dir()]
    states = history.states([runs.load(folder) for folder in folders])
    return {one.dir for one, now in states if now.kind in state.ACTIVE and now.job == job}


def _left_behind(stopped: Sequence[Run]) -> list[str]:
    """Who waits for these to end, and what becomes of that: a line each."""
    names = {f"{run.name}/{run.id}" for run in stopped}
    dependants = [
        one
        for one in predecessors.dependants(stopped[0].results, stopped)
        if f"{one.run.name}/{one.run.id}" not in names
    ]
    lookup = convergence.QueueLookup()
    lookup.include(one.run for one in dependants)
    lines: list[str] = []
    for one in dependants:
        now = lookup.state(one.run)
        if now.kind == "pending":
            vain = any(wait.how == "afterok" and wait.run in names for wait in one.waits)
            then = "it does not start before they are done" if vain else "it starts when they have ended"
            lines.append(f"{one.run.name}/{one.run.id} (pending, job {now.job}) comes after them: {then}")
    return [*lines[:MOST], *([f"... and {len(lines) - MOST} more"] if len(lines) > MOST else [])]


def _show_active(active: Sequence[tuple[Run, State]]) -> None:
    columns = {
        "name": [run.name for run, _ in active],
        "run": [run.id for run, _ in active],
        "state": [now.kind for _, now in active],
        "job": [now.job for _, now in active],
    }
    points = axes.points([axes.typed(run.overrides) for run, _ in active], lambda i, key: active[i][0].value(key))
    titles = [short_title(run.overrides) if len(active) == 1 else "" for run, _ in active]
    print(grid.text(grid.grid(columns, points, text.terminal_width(), ("name",), indent="  "), titles))


def _canaries(cancelled: Sequence[Run]) -> list[str]:
    """The canaries that nothing waits for any more: no run of their launches is left to start. Ended ones too."""
    jobs = []
    for results, launched in {(run.results, history.last_launch(run)) for run in cancelled}:
        job = runs.canary_job(results, launched)
        manifest = history.manifest(results, launched) if job else {}
        if manifest and not any(_waits(folder, launched) for folder in history.run_dirs(manifest)):
            jobs.append(job)
    return jobs


def _waits(run_dir: Path, launched: str) -> bool:
    """Whether a run of this launch is still to start; not one that was refused, or that another launch has by now."""
    run = runs.load(run_dir)
    sent, newest = state.submission(run), run.last("submit", "cancel")
    return sent is not None and sent.launch == launched and newest is not None and newest.kind == "submit"


def _end_local(run: Run, now: State) -> None:
    """SIGTERM to the attempt of this machine, which ends its engine whole; its launcher goes on with the next run."""
    host, _, pid = now.job.rpartition(":")
    if host != os.uname().nodename:
        raise UserError(
            f"{run.id} runs on {host}", "a local run can only be ended on its own host", f"log in to {host}"
        )
    if now.kind == "pending":
        raise UserError(
            f"{run.id} waits for its turn in the launcher {now.job}",
            "that launcher holds it, and would start it",
            f"end the launcher: Ctrl-C there, or kill -INT {pid}",
        )
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(int(pid), signal.SIGTERM)
