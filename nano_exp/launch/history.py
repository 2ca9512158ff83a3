"""What the store and Slurm say of runs that were launched before: their states, and how they were last launched."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.launch import convergence
from nano_exp.store import halt, runs
from nano_exp.store.runs import Run
from nano_exp.store.state import State


def states(selected_runs: Sequence[Run]) -> list[tuple[Run, State]]:
    """Runs with their states, with one question to Slurm at most.

    Raises
    ------
    UserError: a state depends on Slurm and it does not answer
    """
    lookup = convergence.QueueLookup()
    lookup.include(selected_runs)
    pairs = [(run, lookup.state(run)) for run in selected_runs]
    unknown = [run.id for run, now in pairs if now.kind == "unknown"]
    if unknown:
        raise UserError(
            f"cannot tell whether {', '.join(unknown[:5])} runs: {lookup.error or 'it was started on another host'}",
            "what is done to a run depends on whether it is active",
            "the same command when Slurm answers again, or on the host that runs it",
            code=4,
        )
    return pairs


def last_launch(run: Run) -> str:
    """The newest launch that was not refused: a refused one leaves no folder."""
    refused = {event.data.get("launch") for event in run.events if event.kind == "refused"}
    sent = [event.data.get("launch") for event in run.events if event.kind == "submit"]
    return str(next((one for one in reversed(sent) if one not in refused), run.record.get("launch")))


def manifest(results: Path, launched: str) -> dict[str, Any]:
    """A launch's manifest.json; empty, with a warning, where it cannot be read."""
    try:
        record = files.read_json(runs.launch_dir(results, launched) / "manifest.json")
    except (files.Damaged, OSError) as error:
        print(f"warning: launch {launched}: {error}; its hydra.launcher settings are not known", file=sys.stderr)
        return {}
    return record if isinstance(record, dict) else {}


def run_dirs(launch: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs in a launch's manifest; none where it is damaged."""
    try:
        return halt.run_dirs(launch)
    except (KeyError, TypeError):  # a damaged manifest
        return []
