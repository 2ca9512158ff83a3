"""The jobs that Slurm knows as not ended, from squeue."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from nano_exp.slurm import client
from nano_exp.slurm.client import NoAnswer

#: Job states (squeue, sacct) in which a job holds or will hold resources. STAGE_OUT and the rest count as active too.
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"}


@dataclass(frozen=True)
class Job:
    """One line of squeue: a job, an array task, or the pending tasks of an array."""

    id: str  # the array's id for a task
    tasks: range | tuple[int, ...] | None  # None: not an array
    state: str
    name: str
    reason: str
    throttle: int | None = None  # of the array, shown with its waiting tasks where those are merged

    @property
    def starts(self) -> bool:
        """Whether it has nodes, or is getting them: what an array's throttle counts."""
        return self.state not in WAITING - {"CONFIGURING"}


@dataclass
class Queue:
    """The jobs that Slurm knows as not ended."""

    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_id = _Index((job.id, job) for job in self.jobs)
        self._by_name = _Index((job.name, job) for job in self.jobs)

    def find(self, job: str, task: int | None = None) -> Job | None:
        """The job or array task, if it is pending, running or completing."""
        return self._by_id.get(job, task)

    def named(self, name: str, task: int | None = None) -> Job | None:
        """The job, or the task of an array, of that name."""
        return self._by_name.get(name, task)


class _Index:
    """Jobs by a key and an array task. The first one of a key and task is found."""

    def __init__(self, pairs: Iterable[tuple[str, Job]]) -> None:
        self._whole: dict[str, Job] = {}
        self._tasks: dict[tuple[str, int | None], Job] = {}
        for key, job in pairs:
            self._whole.setdefault(key, job)
            for task in (None,) if job.tasks is None else job.tasks:
                self._tasks.setdefault((key, task), job)

    def get(self, key: str, task: int | None) -> Job | None:
        """An array of one is a plain job to Slurm; a whole array is asked for without a task."""
        if task is None:
            return self._whole.get(key)
        return self._tasks.get((key, task)) or self._tasks.get((key, None))


def this_user() -> str:
    """This process's user by its id, which is Slurm's: LOGNAME and USER may say another one (su, containers)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def queue(users: Iterable[str] = (), merged: bool = False) -> Queue:
    """Every not-ended job of these users and of this one, in one call; those in hidden partitions too.

    A line for each array task: otherwise squeue puts those that wait into one line, with all their reasons in it, and
    does not tell which task is held and which one waits for its turn.

    Parameters
    ----------
    merged: one line for the waiting tasks of an array all the same: it alone shows the array's throttle

    Raises
    ------
    NoAnswer: Slurm's words in it
    """
    who = ",".join(sorted(set(users) | {this_user()}))
    lines = [] if merged else ["--array"]
    done = client.run(["squeue", "--all", "--noheader", *lines, f"--user={who}", "--format=%i|%T|%j|%r"])
    if done.returncode != 0:
        raise NoAnswer(client.words(done.stderr) or f"squeue ended with {done.returncode}")
    return Queue([job for line in done.stdout.splitlines() if (job := parse_squeue_line(line)) is not None])


def parse_squeue_line(line: str) -> Job | None:
    """`%i|%T|%j|%r`: `12|RUNNING|name|None`, `12_3|...`, `12_[4-9%2]|PENDING|...`; None for anything else."""
    parts = line.strip().split("|", 3)
    if len(parts) != 4:
        return None
    identifier, state, name, reason = parts
    match = re.fullmatch(r"(\d+)(?:\+\d+)?(?:_(\d+|\[[^\]]*\]))?", identifier)
    if match is None or state in ENDED:
        return None
    tasks = parse_tasks(match[2]) if match[2] else None
    throttle = re.search(r"%(\d+)\]$", match[2] or "")
    return Job(match[1], tasks, state, name, reason, int(throttle[1]) if throttle else None)


def parse_tasks(text: str) -> tuple[int, ...]:
    """`3`, `[2-9%4]`, `[1,3,5-7]`, `[0-8:2]` -> the task numbers."""
    tasks: list[int] = []
    for part in text.strip("[]").split("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if match is not None:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            tasks.extend(range(first, last + 1, step))
    return tuple(tasks)


def end_time(job: str) -> float | None:
    """Unix time at which a running job's time limit ends it, from squeue; None when there is no limit or no answer."""
    try:
        done = client.run(["squeue", "--all", "--noheader", "--jobs", job, "--format=%e"])
    except NoAnswer:
        return None
    text = done.stdout.strip().splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
