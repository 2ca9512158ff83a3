"""Who executes a run: the next attempt is claimed by one process, once the attempt before it is over."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Owner

#: How long Slurm is asked whether the attempt before still runs, seconds, and how often: a controller that is being
#: restarted must not end what it has just started.
TRIES_S, POLL_S = 120.0, 5.0


class Refuse(Exception):
    """This attempt must not execute its run; said in the log, nothing else is touched."""


class AlreadyDone(Refuse):
    """There is nothing to execute."""


def slurm_owner() -> Owner:
    """This process, as the Slurm job that it runs in if there is one."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if job and os.environ.get("SLURM_ARRAY_JOB_ID") and os.environ.get("SLURM_ARRAY_TASK_ID"):
        job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return runs.this_process(job, int(os.environ.get("SLURM_RESTART_COUNT") or 0))


def claim(run: runs.Run, owner: Owner | None = None) -> tuple[int, Path, Owner]:
    """The next attempt's number and folder, owned by this process.

    Raises
    ------
    Refuse: the run is done; or its last attempt still runs, or may
    """
    me = owner or slurm_owner()
    for _ in range(100):
        earlier = runs.attempts(run.dir)
        if state.is_done(earlier):
            raise AlreadyDone(f"run {run.id} is done; nothing to do")
        last = earlier[-1] if earlier else None
        if last is not None and last.end is None:
            _require_dead(run, last, me)
        number = last.number + 1 if last else 1
        folder = runs.claim(run.dir, number, me)
        if folder is not None:
            return number, folder, me
    raise Refuse(f"run {run.id}: other attempts keep claiming it")


def _require_dead(run: runs.Run, last: runs.Attempt, me: Owner) -> None:
    owner = last.owner
    if owner is not None and owner.job is not None and owner.job == me.job:
        if me.restart > owner.restart or (owner.host, owner.pid) == (me.host, me.pid):
            return  # Slurm requeued this very job: its earlier incarnation is over
        raise Refuse(f"run {run.id} is being executed by this same job (attempt {last.number})")
    give_up = time.monotonic() + TRIES_S
    while True:
        answers = QueueLookup()
        answers.include([run])
        alive = state.owner_alive(owner, answers)
        if alive is not None or not answers.error or time.monotonic() + POLL_S > give_up:
            break
        time.sleep(POLL_S)
    if alive is False:
        return
    who = "an unknown process"
    if owner is not None:
        who = f"job {owner.job}" if owner.job else f"process {owner.pid} on {owner.host}"
    doubt = "" if alive else " (or may be: Slurm does not answer)"
    runs.record_event(run.dir, "note", text=f"job {me.job} found the run claimed by {who} and did not execute it")
    raise Refuse(f"run {run.id} is being executed by {who}{doubt}; this attempt does nothing")
