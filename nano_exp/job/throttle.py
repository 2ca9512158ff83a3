"""Handing on shares of `parallel=N`: at the end of an attempt, what finished arrays no longer use goes to the others.

What each array may run is looked up in Slurm's queue, one process at a time by a lock in the launch's folder, and told
to Slurm with `scontrol update ArrayTaskThrottle`. Nothing is remembered in between: whoever dies on the way leaves a
sum that is too small, never one that is too large, and the next attempt that ends mends it.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp import slurm
from nano_exp.slurm import arrays
from nano_exp.store import runs
from nano_exp.text import Say

#: How long an attempt that has ended waits for another one that does the same, seconds.
PATIENCE_S = 10.0


def hand_on(launch_dir: Path, manifest: Mapping[str, Any], say: Say, leaving: str | None = None) -> None:
    """Divide a launch's `parallel` anew among its arrays; says what it changed.

    Parameters
    ----------
    leaving: the Slurm job that is about to end: where a run of a study had it alone, its share is free
    """
    terms = manifest.get("terms") or {}
    parallel = terms.get("parallel")
    if terms.get("pack"):  # the number of allocations keeps it
        return
    alone = len(manifest["arrays"]) < 2 and not terms.get("halving")  # a study's runs go on in other jobs besides
    if parallel is None or alone or manifest.get("by_hand"):
        return
    try:
        with (launch_dir / "throttle.lock").open("a") as file:
            if not _locked(file.fileno()):
                return
            sent = runs.sent(launch_dir)  # before the queue: an array sent in between must not look like one that ended
            queue = slurm.queue(merged=True)
            own = (leaving or "").partition("_")[0]
            if own not in sent.values():
                queue = slurm.Queue([job for job in queue.jobs if job.id != own])
            alive, reserved = look(manifest, queue, sent)
            for job, tasks in arrays.hand_on(parallel, alive, reserved):
                problem = slurm.throttle(job, tasks)
                say(
                    f"parallel={parallel}: job {job} may run {tasks} at once now"
                    + (f": refused ({problem})" if problem else "")
                )
                if problem:
                    return  # a share that was not given up must not be given away
    except slurm.NoAnswer as error:
        say(f"parallel={parallel}: shares stay as they are: {error}")
    except OSError as error:  # a disk that is full, a file system without locks
        say(f"parallel={parallel}: shares stay as they are: {error.strerror}")


def _locked(file: int) -> bool:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)


def look(manifest: Mapping[str, Any], queue: slurm.Queue, sent: Mapping[int, str]) -> tuple[list[arrays.Alive], int]:
    """The arrays of a launch that may run tasks now, and the shares of those that are not submitted yet.

    Parameters
    ----------
    sent: array number -> job, nothing for one that was refused; arrays that are not in it may still be sent

    Raises
    ------
    NoAnswer: Slurm was asked for a throttle that squeue does not show
    """
    entries = manifest["arrays"]
    jobs = [[job for job in queue.jobs if job.name == entry["job_name"]] for entry in entries]
    to_come = [not array_jobs and number not in sent for number, array_jobs in enumerate(jobs)]
    alive: list[arrays.Alive] = []
    reserved = 0
    for number, (entry, array_jobs) in enumerate(zip(entries, jobs, strict=True)):
        behind = entry["behind"]
        if behind is not None and (jobs[behind] or to_come[behind]):
            continue  # it gets the share of the one that it waits for
        if to_come[number]:
            reserved += int(entry["throttle"])
        for job_id, same in _by_job(array_jobs):
            running = sum(_count(job) for job in same if job.starts)
            waiting = sum(_count(job) for job in same if not job.starts)
            own = waiting and job_id == sent.get(number, job_id)  # else a run's that goes on from a rung
            alive.append(arrays.Alive(job_id, _throttle(same, entry) if own else None, running, waiting))
    return alive, reserved


def _by_job(array_jobs: list[slurm.Job]) -> list[tuple[str, list[slurm.Job]]]:
    ids = dict.fromkeys(job.id for job in array_jobs)
    return [(job_id, [job for job in array_jobs if job.id == job_id]) for job_id in ids]


def make_room(launch_dir: Path, manifest: Mapping[str, Any], leaving: str | None, say: Say) -> bool:
    """Whether one more run of a launch may be sent within its `parallel`; arrays with waiting tasks give up a share.

    Parameters
    ----------
    leaving: the Slurm job (`12` or `12_3`) that is about to end, and does not count

    Raises
    ------
    NoAnswer: Slurm's words in it
    """
    terms = manifest.get("terms") or {}
    parallel = terms.get("parallel")
    if parallel is None or manifest.get("by_hand"):
        return True
    if terms.get("pack"):  # each task may have so many runs at once (launch/packing.py)
        parallel = max(parallel // min(parallel, int(terms["pack"])), 1)
    with (launch_dir / "throttle.lock").open("a") as file:
        if not _locked(file.fileno()):
            return False
        sent = runs.sent(launch_dir)
        queue = slurm.queue(merged=True)
        job, _, task = (leaving or "").partition("_")
        own = tuple([int(task)] if task else [])
        others = [one for one in queue.jobs if one.id != job or tuple(one.tasks or ()) != own]
        changes = arrays.make_room(parallel, *look(manifest, slurm.Queue(others), sent))
        for array, tasks in changes or ():
            if problem := slurm.throttle(array, tasks):
                say(f"parallel={parallel}: job {array} keeps its share ({problem})")
                return False
        return changes is not None


def _throttle(array_jobs: list[slurm.Job], entry: Mapping[str, Any]) -> int | None:
    """squeue shows an array's throttle with its waiting tasks, but not where only one is left."""
    throttle = next((job.throttle for job in array_jobs if job.throttle is not None), None)
    return throttle if throttle is not None or len(entry["runs"]) == 1 else slurm.control(array_jobs[0].id).throttle


def _count(job: slurm.Job) -> int:
    return 1 if job.tasks is None else len(job.tasks)
