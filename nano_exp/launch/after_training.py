"""`after_training=`: exports and evaluations as jobs that wait for the runs' own, or here once the runs have ended.

A run of a study that goes on in another job later is not waited for by these, nor one of several in a job (`pack`): its
attempt sends its own (nano_exp.job.follow_up).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nano_exp import environment, files, slurm
from nano_exp.after import follow, jobs
from nano_exp.errors import UserError
from nano_exp.launch.convergence import Row
from nano_exp.launch.job_arrays import Array, Launch
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup


def send(launch: Launch) -> list[str]:
    """A job for each array that was sent: its tasks start as the runs' own end well. What was sent, a line each."""
    lines = []
    if launch.terms.after_training and any(array.pack for array in launch.arrays):
        lines.append(
            f"after training: {', '.join(launch.terms.after_training)} of each run that is done, in its own job"
        )
    for array in launch.arrays if launch.terms.after_training else ():
        if array.job and not array.pack:
            lines.append(_send(launch, array, launch.terms.after_training))
    return lines


def _send(launch: Launch, array: Array, words: Sequence[str]) -> str:
    text = (launch.dir / f"array-{array.word}.sbatch").read_text()
    path = launch.dir / f"after-{array.word}.sbatch"
    files.write_text(path, jobs.script(text, words))
    how = "aftercorr" if len(array.rows) > 1 else "afterok"
    options = [
        *jobs.options(launch.id, array.word, words),
        f"--dependency={how}:{array.job}",
        "--kill-on-invalid-dep=yes",
    ]
    job = slurm.sbatch(path, *options, carry=environment.carried(os.environ))
    runs.record_job(launch.results, launch.id, f"after-{array.word}", job)
    return f"after training: {', '.join(words)} of each run that is done, job {job}"


def here(run_dirs: Sequence[Path], words: Sequence[str]) -> int:
    """Do on this machine what runs that are done lack. Returns the exit code: 1 where something failed."""
    code = 0
    for run_dir in run_dirs if words else ():
        try:
            follow.follow(run_dir, words, lambda line: print(f"  {line}", flush=True))
        except UserError as error:
            print(error, flush=True)
            code = 1
    return code


def send_lacking(rows: Sequence[Row], words: Sequence[str]) -> list[str]:
    """Jobs for runs that were done before this launch and lack a result, unless one is in the queue."""
    lines, lookup = [], QueueLookup()
    for row in rows if words else ():
        lacking = follow.pending(row.dir, words)
        run = runs.load(row.dir)
        sent = state.submission(run)
        if not lacking or sent is None or sent.local is not None:
            continue
        queue = lookup()
        if queue is not None and not jobs.is_queued(run, sent, queue):
            lines.append(f"{run.id}: {jobs.submit(run, lacking)}")
    return lines
