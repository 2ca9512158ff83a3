"""Runs that were launched, until they end: on this machine, or in Slurm's queue."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nano_exp.index import progress
from nano_exp.launch import (
    after_training,
    convergence,
    job_arrays,
    local,
    show,
)
from nano_exp.store import runs, state
from nano_exp.terminal import progress_line


def run_here(ready: job_arrays.Launch, parallel: int) -> int:
    """Execute on this machine, show what was learned, and return the exit code."""
    began = time.monotonic()
    rows = [row for array in ready.arrays for row in array.rows]
    try:
        ends = local.execute(ready, max(1, parallel))
    except local.Interrupted:
        show.interrupted([row.dir for row in rows])
        return 130
    show.results([row.dir for row in rows], time.monotonic() - began)
    code = after_training.here([row.dir for row in rows], ready.terms.after_training)
    return 1 if any(end not in state.ENDED_WELL for end in ends.values()) else code


def wait_for(rows: Sequence[convergence.Row], poll_s: float = 5.0) -> int:
    """Wait until no run of a Slurm launch is active any more, with a live line. Ctrl-C stops waiting, not the runs.

    Returns the exit code.
    """
    live = progress_line.Live(every_s=60.0)
    try:
        while True:
            lookup = convergence.QueueLookup()
            states = {row.id: lookup.state(runs.load(row.dir)).kind for row in rows}
            active = [row for row in rows if states[row.id] in ("pending", "running", "unknown")]
            if not active:
                break
            samples = [(row.id, progress.sample(row.dir), _steps(row)) for row in active]
            waiting = "" if lookup.error == "" else f"  (Slurm does not answer: {lookup.error})"
            live.show(progress_line.many(samples, len(rows) - len(active), len(rows)) + waiting)
            time.sleep(poll_s)
    except KeyboardInterrupt:
        live.say("Ctrl-C: no longer waiting; the jobs go on. nano-exp status shows them")
        return 130
    live.clear()
    show.results([row.dir for row in rows])
    return 1 if any(kind not in state.ENDED_WELL for kind in states.values()) else 0


def _steps(row: convergence.Row) -> int:
    return int(row.config["grpo"]["max_num_steps"])
