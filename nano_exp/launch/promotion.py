"""Runs that go on from a rung because a user says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nano_exp.errors import UserError
from nano_exp.launch import history, retry
from nano_exp.store import runs
from nano_exp.study import book


def promote(results: Path, selected: Sequence[runs.Run]) -> int:
    """Promote paused runs and submit them, as their last launches did; those that are not paused stay as they are.

    Raises
    ------
    UserError: none of them is paused
    """
    pairs = history.states(selected)
    paused = [run for run, now in pairs if now.kind == "paused"]
    promoted = [run for run, now in pairs if now.kind == "unstarted" and now.why.startswith("promoted")]
    if not paused and not promoted:
        states = ", ".join(dict.fromkeys(now.kind for _, now in pairs))
        raise UserError(
            f"{', '.join(run.id for run in selected[:5])}: {states}",
            "only a run that its study paused can be promoted",
            "nano-exp status --state paused lists those",
        )
    for run in paused:
        rules = book.read(results, run.name)
        if rules is not None:
            with book.lock(results, run.name):
                book.record(run, rules, runs.rungs_left(runs.load(run.dir)), "by hand", "a user")
    return retry.retry(results, [runs.load(run.dir) for run in [*paused, *promoted]], [])
