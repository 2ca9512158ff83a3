"""The attempts of a search on this machine: processes of their own, which go on if the search is killed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.launch import local
from nano_exp.launch.executors import ManifestLocalExecutor
from nano_exp.store import runs, state
from nano_exp.terminal import progress_line


@dataclass
class _Started:
    """One process: its job, its log, and how many attempts its run had before."""

    job: Any
    log: Path
    attempts: int


class Here:
    """The processes that this search has started, by their runs' folders."""

    def __init__(self) -> None:
        self._started: dict[Path, _Started] = {}

    def start(self, run_dir: Path) -> None:
        """Start the attempt that a run's newest submission asks for."""
        sent = state.submission(runs.load(run_dir))
        assert sent is not None  # it was dispatched, or promoted by an attempt that wrote it down
        executor = ManifestLocalExecutor(runs.launch_dir(run_dir.parent.parent, sent.launch))
        task = sent.task or 0
        log = executor.log(sent.array, task)
        self._started[run_dir] = _Started(executor.start(sent.array, task), log, len(runs.attempts(run_dir)))

    def has(self, run_dir: Path) -> bool:
        """Whether a process of this search executes a run."""
        return run_dir in self._started and not self._started[run_dir].job.done()

    def is_awaited(self, run_dir: Path) -> bool:
        """Whether a run was sent by this very process and nothing executes it."""
        sent = state.submission(runs.load(run_dir))
        mine = sent is not None and sent.local == runs.this_process()
        return mine and not self.has(run_dir) and not self.never_started(run_dir)

    def never_started(self, run_dir: Path) -> str:
        """What the process of a run said, that ended before it was an attempt; "" of any other."""
        known = self._started.get(run_dir)
        if known is None or not known.job.done() or len(runs.attempts(run_dir)) > known.attempts:
            return ""
        return local.never_started(run_dir.name, known.log)

    def end(self, live: progress_line.Live) -> None:
        """End all of them whole, after Ctrl-C."""
        local.end([one.job for one in self._started.values() if not one.job.done()], live)
