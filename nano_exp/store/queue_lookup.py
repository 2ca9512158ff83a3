"""What is asked once for many runs: Slurm's queue, and which jobs each launch has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from nano_exp import slurm
from nano_exp.store import runs, state
from nano_exp.store.runs import Run
from nano_exp.store.state import State


class QueueLookup:
    """Slurm's queue, asked for at most once and only when a run's state depends on it; and states by it.

    The launches' job files are read once each too, so one of these is for one moment.
    """

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.error = ""
        self._queue: slurm.Queue | None = None
        self._done = False
        self._jobs = cache(job_lookup)

    def include(self, runs_of: Iterable[Run]) -> None:
        """Ask for the jobs of these runs' users too: before the first state, since there is one question only."""
        self.users |= {user for run in runs_of for user in run.users}

    def state(self, run: Run) -> State:
        """The state of one run."""
        self.include([run])
        now = state.state(run, runs.attempts(run.dir), self._jobs(run.results), self)
        if now.kind in ("lost", "unstarted"):  # it may have ended between the look at its files and Slurm's answer
            now = state.state(runs.load(run.dir), runs.attempts(run.dir), self._jobs(run.results), self)
        return now

    def endings(self, jobs: Mapping[str, str]) -> dict[str, slurm.Ended]:
        """How jobs ended (`12_3` -> the name it should have, or ""), as accounting has it; one sacct at most.

        Not asked where squeue did not answer: most likely all of Slurm is down, and each command waits for long.
        """
        if not jobs or self.error:
            return {}
        return slurm.accounting(jobs, {job: name for job, name in jobs.items() if name})

    def __call__(self) -> slurm.Queue | None:
        if not self._done:
            self._done = True
            try:
                self._queue = slurm.queue(self.users)
            except slurm.NoAnswer as error:
                self.error = str(error)
        return self._queue


def job_lookup(results: Path) -> Callable[[str], dict[int, str]]:
    """Launch id -> its Slurm jobs, each launch's files read once."""
    return cache(lambda launch: runs.jobs_of(results, launch))
