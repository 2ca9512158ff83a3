"""`after_training=`: exports and evaluations as jobs that wait for the runs' own, or here once the runs have ended.

Such a job is its array's script with another program in it (nano_exp.after), so the place, the set-up lines and the
code are the launch's. A run that is not done by then, or has the result already, gives it nothing to do.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from nano_exp import environment, files, slurm
from nano_exp.after import follow
from nano_exp.errors import UserError
from nano_exp.launch.convergence import Row
from nano_exp.launch.job_arrays import Array, Launch
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup

_JOB = " -m nano_exp.job "


def job_name(launch: str, word: str) -> str:
    return f"nx-{launch}.after-{word}"


def send(launch: Launch) -> list[str]:
    """A job for each array that was sent: its tasks start as the runs' own end well. What was sent, a line each."""
    lines = []
    for array in launch.arrays if launch.terms.after_training else ():
        if array.job:
            lines.append(_send(launch, array, launch.terms.after_training))
    return lines


def _send(launch: Launch, array: Array, words: Sequence[str]) -> str:
    text = (launch.dir / f"array-{array.word}.sbatch").read_text()
    path = launch.dir / f"after-{array.word}.sbatch"
    files.write_text(path, _with_program(text, shlex.join(words)))
    how = "aftercorr" if len(array.rows) > 1 else "afterok"
    options = [*_options(launch.id, array.word, words), f"--dependency={how}:{array.job}", "--kill-on-invalid-dep=yes"]
    job = slurm.sbatch(path, *options, carry=environment.carried(os.environ))
    runs.record_job(launch.results, launch.id, f"after-{array.word}", job)
    return f"after training: {', '.join(words)} of each run that is done, job {job}"


def _options(launch: str, word: str, words: Sequence[str]) -> list[str]:
    """Its own name, and one node; trajectories are collected by all of the run's."""
    one_node = [] if any(each.startswith("eval") for each in words) else ["--nodes=1"]
    return [f"--job-name={job_name(launch, word)}", *one_node]


def _with_program(text: str, words: str) -> str:
    """A batch script that executes nano_exp.after in the place of the attempt. What was held is released by itself."""
    kept = [line for line in text.splitlines() if line.strip() != "#SBATCH --hold"]
    lines = [f"{line.rstrip()} {words}" if _JOB in line else line for line in kept]
    return "\n".join(line.replace(_JOB, " -m nano_exp.after ") for line in lines) + "\n"


def submit(run: runs.Run, words: Sequence[str], step: int | None = None) -> str:
    """Send a job that does these words for one run, with the script of its newest launch. What was sent, in words.

    Parameters
    ----------
    step: of which checkpoint; None: as the words say, of a run that is done
    """
    sent = state.submission(run)
    launch = runs.launch_dir(run.results, sent.launch) if sent is not None else Path()
    script = launch / f"array-{sent.array if sent else 0}.sbatch"
    if sent is None or sent.local is not None or not script.is_file() or not (launch / "code/nano_exp/after").is_dir():
        raise UserError(
            f"--submit, and run {run.id} has no launch of Slurm's that could do it",
            "the job takes its place and its code from there",
            "leave --submit out, inside an allocation where it needs a GPU",
        )
    named = list(words) if step is None else [*words, f"--step={step}"]
    path = launch / f"after-{run.id}-{words[0].partition(':')[0]}.sbatch"
    files.write_text(path, _with_program(script.read_text(), shlex.join(named)))
    task = [] if sent.task is None else [f"--array={sent.task}"]
    job = slurm.sbatch(path, *_options(sent.launch, run.id, words), "--dependency=", *task)
    runs.record_job(run.results, sent.launch, f"after-{run.id}", job)
    return f"submitted: job {job}, its log in {launch / 'slurm'}"


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
        names = (job_name(sent.launch, run.id), job_name(sent.launch, str(sent.array)))
        if queue is None or any(queue.named(name, None) for name in names):
            continue
        lines.append(f"{run.id}: {submit(run, lacking)}")
    return lines
