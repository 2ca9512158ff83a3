"""After an attempt: what the signal meant that ended it, and having Slurm start the run again where it should go on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nano_exp import slurm
from nano_exp.errors import UserError
from nano_exp.job.child import Stop
from nano_exp.slurm import restart_policy
from nano_exp.store import runs
from nano_exp.store.runs import Attempt, Owner
from nano_exp.text import Say

#: How long a controller that does not answer is asked, seconds, and how often.
TRIES_S = 600.0
POLL_S = 5.0


def what_it_meant(
    stop: Stop, owner: Owner, until: float | None, timeout_s: float = slurm.TIMEOUT_S
) -> restart_policy.Stopped:
    """What the signal that came meant, as far as Slurm tells.

    Without one: what Slurm is ending the job for. A step of it is ended before the attempt is told, at times.
    """
    if owner.job is None:
        return ""
    try:
        known = slurm.control(owner.job, timeout_s)
    except slurm.NoAnswer:
        known = None
    meant = restart_policy.meaning(known, owner.restart, until, time.time())
    return meant if stop.signal or meant != "cancelled" else ""


def go_on(
    run_dir: Path,
    end: dict[str, Any],
    stopped: restart_policy.Stopped,
    owner: Owner,
    stop: Stop,
    until: float | None,
    section: dict[str, Any],
    say: Say,
    packed: bool = False,
) -> bool:
    """Have Slurm start this attempt's job again where the run should go on. Returns whether it will.

    Parameters
    ----------
    stopped: what the signal meant that had come by the attempt's end
    stop: a scancel that comes meanwhile is heeded
    packed: the job has other runs too: what is recorded here has `pack` go on
    """
    decision = _decision(run_dir, end, stopped, section)
    if not decision.by:
        if decision.why:
            say(f"not started again: {decision.why}")
            runs.record_event(run_dir, "note", text=f"not started again: {decision.why}")
        return False
    _record(run_dir, end, decision, say)
    if decision.by == "slurm" or packed:
        return True
    heeded = bool(end.get("signal"))  # it was asked for already what that signal meant
    failed = ask_slurm(owner, decision.avoid, until, say, lambda: bool(stop.signal) and not heeded)
    if failed:
        word = f"{run_dir.parent.name}/{run_dir.name}"
        say(f"could not be started again: {failed}; nano-exp retry {word} does it")
        runs.record_event(run_dir, "note", attempt=end["attempt"], text=f"could not be started again: {failed}")
    return not failed


def at_once(
    run_dir: Path,
    end: dict[str, Any],
    stopped: restart_policy.Stopped,
    owner: Owner,
    section: dict[str, Any],
    timeout_s: float,
    say: Say,
    packed: bool = False,
) -> bool:
    """Have Slurm start the job again where Slurm is ending it and will not, before the engine has ended.

    SIGKILL may come first. What fails here is tried again at the attempt's end (`go_on`). Returns whether it was asked.

    Parameters
    ----------
    packed: the job has other runs too: what is recorded here has `pack` ask Slurm
    """
    if owner.job is None or stopped not in ("time_limit", "preempted"):
        return False
    decision = _decision(run_dir, end, stopped, section)
    if decision.by != "attempt":
        return False
    _record(run_dir, end, decision, say)
    if packed:
        return True
    try:
        slurm.requeue(owner.job, timeout_s)
    except (slurm.NoAnswer, UserError) as error:
        say(f"not yet: {error}")
        return False
    return True


def _decision(
    run_dir: Path, end: dict[str, Any], stopped: restart_policy.Stopped, section: dict[str, Any]
) -> restart_policy.Decision:
    run = runs.load(run_dir)
    sent = run.last("submit")
    of_this = int(end["attempt"]) - int(sent.data.get("after_attempt") or 0 if sent else 0)
    tried = [replace(a, end=end) if a.number == end["attempt"] else a for a in runs.attempts(run_dir)]
    limits, stalls = restart_policy.Limits.of(section), same_stalls(tried)
    return restart_policy.decide(end, stopped, saved_steps(run, tried), limits, of_this, stalls)


def same_stalls(tried: list[Attempt]) -> int:
    """How many of the last attempts in a row were ended for a stall in the same phase."""
    phases = [attempt.end.get("stalled") if attempt.end else None for attempt in reversed(tried)]
    alike = itertools.takewhile(lambda phase: phase is not None and phase == phases[0], phases)
    return sum(1 for _ in alike)


def here(run_dir: Path, end: dict[str, Any], section: dict[str, Any], say: Say) -> bool:
    """Whether a run without Slurm goes on at once, after a stall, in the same process."""
    if not end.get("stalled"):
        return False
    decision = _decision(run_dir, end, "", section)
    if decision.by:
        _record(run_dir, end, decision, say)
    elif decision.why:
        say(f"not started again: {decision.why}")
        runs.record_event(run_dir, "note", text=f"not started again: {decision.why}")
    return bool(decision.by)


def _record(run_dir: Path, end: dict[str, Any], decision: restart_policy.Decision, say: Say) -> None:
    runs.record_event(
        run_dir, "requeue", attempt=end["attempt"], by=decision.by, why=decision.why, avoid=decision.avoid
    )
    avoid = f", without {decision.avoid}" if decision.avoid else ""
    say(decision.why if decision.by == "slurm" else f"starting again{avoid}: {decision.why}")


def ask_slurm(owner: Owner, avoid: str, until: float | None, say: Say, signalled: Callable[[], bool]) -> str:
    """Ask Slurm until it answers or the allocation ends. Returns what went wrong, or nothing.

    Parameters
    ----------
    signalled: whether a signal has come since the attempt's end
    """
    job = str(owner.job)
    give_up = min(time.time() + TRIES_S, until or float("inf"))
    while True:
        try:
            known = _control(job, needed=bool(avoid))
            if known is not None:
                if signalled() and restart_policy.meaning(known, owner.restart, None, time.time()) == "cancelled":
                    return "it was cancelled meanwhile"
                if known.restarts > owner.restart:
                    # Slurm did it by itself (this node was cut off), or took an earlier request whose answer was lost:
                    # asking once more would end the attempt that executes the run by now.
                    say("Slurm has started it again already")
                    return ""
            excluded = _without(known, avoid, say) if known is not None and avoid else ""
            slurm.requeue(job)
            break
        except slurm.NoAnswer as error:
            if time.time() + POLL_S > give_up:
                return str(error)
            say(f"Slurm does not answer ({error}); asking again")
            time.sleep(POLL_S)
        except UserError as error:
            return f"{error.found}: {error.why}"
    if excluded and (problem := slurm.exclude(job, excluded)):
        say(f"{avoid} is not left out: {problem}")
    return ""


def _control(job: str, needed: bool) -> slurm.Control | None:
    """The job as slurmctld has it; None where it does not answer, unless it is `needed`: then raises NoAnswer."""
    try:
        return slurm.control(job)
    except slurm.NoAnswer:
        if needed:
            raise
        return None


def _without(known: slurm.Control, node: str, say: Say) -> str:
    """Asked before the job ends: one that is being ended has fewer nodes by the moment."""
    try:
        return slurm.without(known, node)
    except UserError as error:
        say(f"{node} is not left out: {error.found}; {error.why}")
        return ""


def saved_steps(run: runs.Run, tried: list[Attempt]) -> list[int | None]:
    """How many new steps each attempt saved, oldest first; None where nothing tells."""
    begins = {int(e.data["attempt"]): e.data.get("resumes_from") for e in run.events if e.kind == "engine"}
    steps: list[int | None] = []
    for attempt in tried:
        first = begins.get(attempt.number)
        last = attempt.end.get("last_step") if attempt.end else begins.get(attempt.number + 1)
        if attempt.end is not None and first is None:
            steps.append(0)  # it ended before its engine began
        else:
            steps.append(last - first if isinstance(last, int) and isinstance(first, int) else None)
    return steps
