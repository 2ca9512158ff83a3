"""What a launch waits for by `after=`: runs and Slurm jobs, as its folder keeps them, and how they are by now.

Slurm's dependencies are not enough. It drops the edge to an array task that is cancelled, takes a job that it has
forgotten for one that ended well, and knows nothing of a run that goes on in another job. So each launch writes down
what it waits for, and its attempts (`turn`), `nano-exp status` and `cancel` look at that in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_exp import files, slurm
from nano_exp.store import halt, runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.state import State

FILE = "after.json"
#: How sacct calls a job whose end `afterok` waits for in vain. Others (PREEMPTED, NODE_FAIL) may be started again.
IN_VAIN = ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")


@dataclass(frozen=True)
class Wait:
    """One thing that is waited for.

    Parameters
    ----------
    how: afterok (it has to end well) or afterany
    run: name/id; "" for a Slurm job that is no run
    job: `12` or `12_3` where it is no run
    """

    how: str
    run: str = ""
    job: str = ""

    @property
    def what(self) -> str:
        return self.run or f"job {self.job}"

    @property
    def word(self) -> str:
        """As `after=` takes it."""
        return f"{self.how}:{self.run or self.job}"


@dataclass(frozen=True)
class Open:
    """Something that is waited for and has not ended well: in which state it is, and how Slurm waits for its job."""

    wait: Wait
    now: State
    how: str

    @property
    def term(self) -> str:
        """As Slurm's --dependency has it."""
        return f"{self.how}:{self.now.job}"

    @property
    def comes(self) -> bool:
        """Whether it may still end well by itself, in a job that Slurm can wait for."""
        return self.now.kind in state.ACTIVE and bool(self.now.job) and ":" not in self.now.job

    def __str__(self) -> str:
        return f"{self.wait.what} ({self.now.kind})"


def write(launch_dir: Path, waits: Sequence[Wait]) -> None:
    """Into a launch's folder; no file where it waits for nothing."""
    if waits:
        files.write_json(launch_dir / FILE, [vars(wait) for wait in waits], durable=True)


def read(launch_dir: Path) -> list[Wait]:
    """What a launch waits for. Raises Damaged or OSError where that cannot be read."""
    try:
        record = files.read_json(launch_dir / FILE)
    except FileNotFoundError:
        return []
    try:
        return [Wait(str(one["how"]), str(one["run"]), str(one["job"])) for one in record]
    except (KeyError, TypeError) as error:
        raise files.Damaged(f"{launch_dir / FILE} does not say what the launch waits for") from error


def known(launch_dir: Path) -> list[Wait]:
    """The same for a table: what cannot be read is left out."""
    try:
        return read(launch_dir)
    except (files.Damaged, OSError):
        return []


def how(word: str, run: runs.Run) -> str:
    """How Slurm is to wait for a run's job. One that has other runs too ends as the worst of them, so that only its end
    is waited for: the attempt that comes after it looks at the run."""
    return "afterany" if state.is_packed(run) else word


def unfinished(results: Path, waits: Iterable[Wait], lookup: QueueLookup) -> list[Open]:
    """What has to end well and has not, and what only has to end and is under way. Slurm's word counts for the rest."""
    unfinished_waits = []
    for wait in waits:
        run = runs.load(results / wait.run) if wait.run else None
        now = lookup.state(run) if run is not None else _of_job(wait.job, lookup)
        if now.kind in state.ACTIVE or (wait.how == "afterok" and now.kind != "done"):
            unfinished_waits.append(Open(wait, now, how(wait.how, run) if run is not None else wait.how))
    return unfinished_waits


def _of_job(job: str, lookup: QueueLookup) -> State:
    """A Slurm job that is no run of ours: done where nothing says that it ended badly, or has not ended."""
    number, _, task = job.partition("_")
    queue = lookup()
    entry = queue.find(number, int(task) if task else None) if queue is not None else None
    if entry is not None:
        return State("pending" if entry.state in slurm.WAITING else "running", "", job)
    ended = lookup.endings({job: ""}).get(job)
    word = ended.state.split()[0] if ended is not None else ""
    return State("failed", ended.state if ended else "", job) if word in IN_VAIN else State("done", "", job)


def listed(open_runs: Sequence[Open], most: int = 3) -> str:
    """`pre/r1 (running), pre/r2 (pending) and 4 more`; the ones that will not come first."""
    ordered = sorted(open_runs, key=lambda one: one.comes)
    more = f" and {len(open_runs) - most} more" if len(open_runs) > most else ""
    return ", ".join(map(str, ordered[:most])) + more


# --- the other way round: who waits -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dependant:
    """A run that has not started, of a launch that waits for something."""

    run: runs.Run
    launch_dir: Path
    waits: tuple[Wait, ...]


def dependants(results: Path, of: Iterable[runs.Run]) -> Iterator[Dependant]:
    """The runs that were sent to start when these have ended, and have not started."""
    run_words = {f"{run.name}/{run.id}" for run in of}
    for path in sorted((results / runs.LAUNCHES).glob(f"*/{FILE}")):
        waits = tuple(known(path.parent))
        if any(wait.run in run_words for wait in waits):
            for folder in _run_dirs(path.parent):
                run = runs.load(folder)
                sent = state.submission(run)
                if sent is not None and sent.launch == path.parent.name and not halt.has_started(run, sent.launch):
                    yield Dependant(run, path.parent, waits)


def _run_dirs(launch_dir: Path) -> list[Path]:
    try:
        return halt.run_dirs(files.read_json(launch_dir / "manifest.json"))
    except (files.Damaged, OSError, KeyError, TypeError):
        return []
