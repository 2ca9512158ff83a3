"""Slurm jobs that do what comes after training: their array's own script, with another program in it.

So the place, the set-up lines and the code are the launch's. A run that is not done, or has the result already, gives
such a job nothing to do.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import environment, files, slurm
from nano_exp.errors import UserError
from nano_exp.store import runs, state
from nano_exp.store.state import Submission

_JOB = " -m nano_exp.job "
#: What Slurm says of a job that it is about to take out of the queue: what it waited for has failed.
IN_VAIN = "DependencyNeverSatisfied"


def job_name(launch: str, word: str) -> str:
    """Of what follows an array (its word) of a launch, or one run (its id)."""
    return f"nx-{launch}.after-{word}"


def options(launch: str, word: str, words: Sequence[str]) -> list[str]:
    """Its own name, and one node; trajectories are collected by all of the run's."""
    one_node = [] if any(each.startswith("eval") for each in words) else ["--nodes=1"]
    return [f"--job-name={job_name(launch, word)}", *one_node]


def script(text: str, words: Sequence[str]) -> str:
    """A batch script that executes nano_exp.after in the place of the attempt. What was held is released by itself."""
    kept = [line for line in text.splitlines() if line.strip() != "#SBATCH --hold"]
    lines = [f"{line.rstrip()} {shlex.join(words)}" if _JOB in line else line for line in kept]
    return "\n".join(line.replace(_JOB, " -m nano_exp.after ") for line in lines) + "\n"


def submit(run: runs.Run, words: Sequence[str], step: int | None = None) -> str:
    """Send a job that does these words for one run, with the script of its newest launch. What was sent, in words.

    Parameters
    ----------
    step: of which checkpoint; None: as the words say, of a run that is done
    """
    sent = state.submission(run)
    launch = runs.launch_dir(run.results, sent.launch) if sent is not None else Path()
    own = launch / f"array-{sent.array if sent else 0}.sbatch"
    if sent is None or sent.local is not None or not own.is_file() or not (launch / "code/nano_exp/after").is_dir():
        raise UserError(
            f"--submit, and run {run.id} has no launch of Slurm's that could do it",
            "the job takes its place and its code from there",
            "leave --submit out, inside an allocation where it needs a GPU",
        )
    named = list(words) if step is None else [*words, f"--step={step}"]
    text = own.read_text()
    if sent.packed:  # an array task has several runs
        entry = _entry(launch, sent)
        named.append(f"--task={_number(run, entry)}")
        text = divided(text, int((entry.get("pack") or {}).get("slots") or 1))
    path = launch / f"after-{run.id}-{words[0].partition(':')[0]}.sbatch"
    files.write_text(path, script(text, named))
    task = [] if sent.task is None else [f"--array={sent.task}"]
    carried = environment.carried(os.environ)
    job = slurm.sbatch(path, *options(sent.launch, run.id, words), "--dependency=", *task, carry=carried)
    runs.record_job(run.results, sent.launch, f"after-{run.id}", job)
    return f"submitted: job {job}, its log in {launch / 'slurm'}"


def divided(text: str, count: int) -> str:
    """A batch script that asks for one run's part of an allocation of so many: GPUs, CPUs, host memory."""
    asked = re.compile(r"^(#SBATCH --(?:gpus-per-node=|cpus-per-task=|mem=|gres=\S*:))(\d+)", re.MULTILINE)
    return asked.sub(lambda line: f"{line[1]}{-(-int(line[2]) // count)}", text)


def _entry(launch: Path, sent: Submission) -> dict[str, Any]:
    """The manifest's, of a run's array."""
    try:
        return dict(files.read_json(launch / "manifest.json")["arrays"][sent.array])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise files.Damaged(f"{launch / 'manifest.json'} has no array {sent.array}") from error


def _number(run: runs.Run, entry: Mapping[str, Any]) -> int:
    """A run's in its array."""
    try:
        return list(entry["runs"]).index(str(run.dir))
    except (KeyError, TypeError, ValueError) as error:
        raise files.Damaged(f"run {run.id} is not in the array that its launch sent") from error


def is_queued(run: runs.Run, sent: Submission, queue: slurm.Queue) -> bool:
    """Whether a job that follows this run is in the queue: its own, or its array's, which its own end starts."""
    names = (job_name(sent.launch, run.id), job_name(sent.launch, str(sent.array)))
    found = [queue.named(name, sent.task) for name in names]
    return any(job is not None and job.reason != IN_VAIN for job in found)
