"""The end of an attempt of a study: who goes on from the rungs now, and jobs for those that do.

The run itself goes on here, in its allocation. Another that paused before gets a job of its own: its task of its
launch's array, sent again. Where that task has several runs (`pack=N`) and is alive, it takes a slot there instead.
Whatever is left undone (a kill, a controller that is away, no room within `parallel`), the next attempt of the study
that ends does, or the same launch typed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nano_exp import environment, files, slurm
from nano_exp.errors import UserError
from nano_exp.job import throttle
from nano_exp.job.course import Course
from nano_exp.job.ending import Ending
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.study import book
from nano_exp.study.halving import Halving
from nano_exp.text import Say

#: How long a controller that does not answer is asked, seconds, and how often.
TRIES_S = 600.0
POLL_S = 5.0


def is_paused(run: runs.Run, course: Course) -> bool:
    """Whether a run has reached a rung and was not promoted from it."""
    tried = runs.attempts(run.dir)
    end = (tried[-1].end or {}) if tried else {}
    return course.rungs is not None and end.get("kind") == "paused" and course.level <= int(end.get("rung") or 0)


def facts(run: runs.Run, course: Course, attempt: int) -> dict[str, Any]:
    """What the end at a rung says of it; the rung is written down first, as an event."""
    assert course.rungs is not None
    fresh = runs.load(run.dir)
    book.reach(fresh, course.rungs, course.level, attempt)
    value = book.reached(runs.load(run.dir)).get(course.level)
    step = course.rungs.rungs[course.level]
    known = None if value is None or value != value else value
    shown = "not measured" if known is None else f"{known:.4g}"
    why = f"rung {course.level + 1} of {len(course.rungs.rungs)}, step {step}: {course.rungs.metric} {shown}"
    return {"rung": course.level, "value": known, "why": why}


def settle(run_dir: Path, rules: Halving, ahead: Ending) -> bool:
    """Decide who goes on, and send them. Returns whether this run does, here."""
    run, here = runs.load(run_dir), False
    try:
        with book.lock(run.results, run.name) as held:
            if not held:
                ahead.say("the study has no lock: another decides")
            told = book.promote(run.results, run.name, rules) if held else []
            here = _goes_on_here(run_dir, ahead)
            if here:
                _ask_for(run_dir)  # else another end would send it a job
        for one in told:
            ahead.say(f"goes on from step {rules.rungs[one.rung]}: point {one.point}, {one.why(rules)}")
        _send_all(run, rules, None if here else ahead.owner.job, run_dir if here else None, ahead)
    except (UserError, files.Damaged, OSError, KeyError, TypeError, ValueError) as error:
        ahead.say(f"the study was not told of this end: {type(error).__name__}: {error}")
    return here


def _goes_on_here(run_dir: Path, ahead: Ending) -> bool:
    """Where it was promoted, and no other attempt has asked for a job for it already."""
    run, tried = runs.load(run_dir), runs.attempts(run_dir)
    return book.is_promoted(run, tried) and not _asked_for(run, tried[-1].number) and not ahead.stop.signal


def _asked_for(run: runs.Run, attempts: int) -> bool:
    sent = run.last("submit")
    return sent is not None and sent.data.get("after_attempt") == attempts


def _ask_for(run_dir: Path) -> state.Submission | None:
    """Write down that a run is to be executed once more, where its last submission had it; None where it had none."""
    run, tried = runs.load(run_dir), runs.attempts(run_dir)
    sent = run.last("submit")
    known = state.as_submission(sent) if sent is not None else None
    if sent is not None and known is not None:
        state.submit_again(run_dir, sent, after_attempt=tried[-1].number if tried else 0)
    return known


def _send_all(run: runs.Run, rules: Halving, leaving: str | None, here: Path | None, ahead: Ending) -> None:
    """Jobs for the runs that were promoted and have none."""

    def ask() -> None:
        with book.lock(run.results, run.name) as held:
            if held:
                send(run, rules, leaving, here, ahead.say)

    until_answered(ask, "promoted runs have no job yet", ahead, once=here is not None)


def until_answered(ask: Callable[[], None], undone: str, ahead: Ending, once: bool = False) -> None:
    """Ask Slurm for something until it answers or the allocation ends.

    Parameters
    ----------
    undone: what is said where it does not answer for too long
    """
    give_up = min(time.time() + TRIES_S, ahead.until or float("inf"))
    while True:
        try:
            return ask()
        except (slurm.NoAnswer, slurm.Unclear) as error:
            if time.time() + POLL_S > give_up or ahead.stop.signal or once:
                return ahead.say(f"{undone}: {error}")
            ahead.say(f"Slurm does not answer ({error}); asking again")
            time.sleep(POLL_S)


def send(run: runs.Run, rules: Halving, leaving: str | None, here: Path | None, say: Say) -> None:
    """Jobs for the runs of a run's study that were promoted and have none. Under the study's lock.

    Parameters
    ----------
    leaving: the Slurm job that is about to end
    here: the folder of the run that goes on in it

    Raises
    ------
    NoAnswer or Unclear: Slurm's words in it
    """
    lookup, beside = QueueLookup(), _packed(run) if leaving or here else None
    for other, _ in book.members(run.results, run.name, rules):
        tried = runs.attempts(other.dir)
        if other.dir == here or not book.is_promoted(other, tried):
            continue
        if _asked_for(other, tried[-1].number):  # and whoever did may have been killed before sbatch
            now = lookup.state(other)
            if lookup.error:
                raise slurm.NoAnswer(lookup.error)
            if now.kind != "unstarted":
                continue
        if takes_a_slot(other, beside, say) or _waits_in_its_job(other, lookup, say):
            continue
        if not _send_one(other, leaving, say):
            return


def _packed(run: runs.Run) -> state.Submission | None:
    """The submission by which a run that ends just now shares its job with others; None where it has its own."""
    sent = state.submission(run)
    return sent if sent is not None and sent.packed else None


def takes_a_slot(other: runs.Run, beside: state.Submission | None, say: Say) -> bool:
    """Have the job of `beside` execute a run of the same launch once more, which it does where a slot is free."""
    sent = other.last("submit")
    known = state.as_submission(sent) if sent is not None else None
    if sent is None or known is None or beside is None or (known.launch, known.array) != (beside.launch, beside.array):
        return False
    state.submit_again(other.dir, sent, after_attempt=runs.attempts(other.dir)[-1].number, task=beside.task)
    say(f"{other.id} goes on in this job, where a slot is free")
    return True


def _waits_in_its_job(other: runs.Run, lookup: QueueLookup, say: Say) -> bool:
    """Whether a job that has several runs, and is in the queue, executes this one once more. Raises NoAnswer."""
    known = _packed(other)
    if known is None:
        return False
    _ask_for(other.dir)
    now = lookup.state(runs.load(other.dir))
    if lookup.error:
        raise slurm.NoAnswer(lookup.error)
    if now.kind not in state.ACTIVE:
        return False
    say(f"{other.id} goes on in job {now.job}, where a slot is free")
    return True


def _send_one(other: runs.Run, leaving: str | None, say: Say) -> bool:
    """Send a run's task of its array once more. Returns whether there was room for it. Raises NoAnswer or Unclear."""
    sent = other.last("submit")
    known = state.as_submission(sent) if sent is not None else None
    if known is None or known.local is not None:  # its launcher starts it
        _ask_for(other.dir)
        return True
    launch_dir = runs.launch_dir(other.results, known.launch)
    manifest = files.read_json(launch_dir / "manifest.json")
    if not throttle.make_room(launch_dir, manifest, leaving, say):
        say(f"{other.id} goes on when parallel={manifest['terms']['parallel']} has room for it")
        return False
    _ask_for(other.dir)
    task = [] if known.task is None else [f"--array={known.task}"]
    script = launch_dir / f"array-{known.array}.sbatch"
    try:
        job = slurm.sbatch(script, "--dependency=", *task, carry=environment.carried(os.environ))
    except slurm.Refused as error:
        if slurm.out_of_reach(error.found):
            raise slurm.NoAnswer(error.found) from error
        runs.record_event(other.dir, "refused", launch=known.launch, why=error.found)
        say(f"{other.id} does not go on yet: {error.found}")
        return True
    if known.task is None:
        runs.record_job(other.results, known.launch, known.array, job)
    say(f"{other.id} goes on as job {known.job(job)}")
    return True
