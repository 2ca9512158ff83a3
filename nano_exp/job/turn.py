"""Whether it is a run's turn: an attempt looks at what its launch waits for (`after=`) before it starts the run.

Slurm starts what waits for a job that it has forgotten, or for an array task that was cancelled. Where something that
has to end well is still under way, in another job by now, this job goes back into the queue behind that one. Where it
has ended otherwise the run does not start, and the reason stands in the run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from nano_exp import slurm
from nano_exp.errors import UserError
from nano_exp.job.claim import POLL_S, TRIES_S, Refuse
from nano_exp.store import halt, predecessors, runs
from nano_exp.store.predecessors import Open
from nano_exp.store.queue_lookup import QueueLookup

#: States that may only look so: Slurm does not answer, or this node does not see yet what another one has written.
LOOK_AGAIN = ("unknown", "lost", "unstarted")


def require(launch_dir: Path, run: runs.Run, job: str | None) -> None:
    """Return where the run may start; put its job back into the queue, or stop it, where it may not.

    Parameters
    ----------
    job: the Slurm job of this attempt: `12` or `12_3`

    Raises
    ------
    Refuse: it does not start now
    Damaged, OSError: what it waits for cannot be read
    """
    waits = [wait for wait in predecessors.read(launch_dir) if wait.how == "afterok"]
    if not waits or halt.has_started(run, launch_dir.name):
        return
    waits_for = _look(run.results, waits)
    if not waits_for:
        return
    if job is not None and all(one.comes for one in waits_for):
        problem = _back(job, waits_for)
        if not problem:
            runs.record_event(run.dir, "note", text=f"waits again: {predecessors.listed(waits_for)}")
            raise Refuse(f"run {run.id} waits again, for {predecessors.listed(waits_for)}")
        why = f"{predecessors.listed(waits_for)} has not ended, and this job cannot go back into the queue ({problem})"
    else:
        why = f"it comes after {predecessors.listed(waits_for)}"
    halt.cancelled(run, why, job)
    raise Refuse(f"run {run.id} does not start: {why}")


def _look(results: Path, waits: Sequence[predecessors.Wait]) -> list[Open]:
    """What has not ended well, once that can be told."""
    give_up = time.monotonic() + TRIES_S
    while True:
        waits_for = predecessors.unfinished(results, waits, QueueLookup())
        if not any(one.now.kind in LOOK_AGAIN for one in waits_for) or time.monotonic() + POLL_S > give_up:
            return waits_for
        time.sleep(POLL_S)


def _back(job: str, open_runs: Sequence[Open]) -> str:
    """Put this very job back into the queue, behind these; what went wrong, or nothing.

    Where only the second step fails, the job starts once more, and looks again.
    """
    terms = list(dict.fromkeys(one.term for one in open_runs))
    try:
        slurm.requeue(job)
    except (slurm.NoAnswer, UserError) as error:
        return error.found if isinstance(error, UserError) else str(error)
    if problem := slurm.depend(job, terms):
        print(f"nano-exp: job {job} looks again when it starts: {problem}", flush=True)
    return ""
