"""Take runs out of the store: their folders with checkpoints and logs, never those of an active run."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from nano_exp import files, text
from nano_exp.errors import UserError
from nano_exp.index import paths, selection
from nano_exp.launch import history, needed, submit
from nano_exp.store import runs, state
from nano_exp.store.runs import Run


def remove(results: Path, selected_runs: Sequence[Run], yes: bool, confirm: Callable[[str], bool]) -> int:
    """Remove runs after a yes. What a config keeps elsewhere (checkpoint_dir, log_dir) is named and stays.

    Parameters
    ----------
    yes: do not ask
    confirm: asks the user a question; False where there is nobody to ask

    Raises
    ------
    UserError: one of them is active, or may be; no yes; a folder cannot be removed
    """
    with submit.lock(results):
        pairs = history.states(selected_runs)
        active = [f"{run.name}/{run.id}" for run, now in pairs if now.kind in state.ACTIVE]
        if active:
            raise UserError(
                f"{len(active)} of {len(pairs)} runs are active: {', '.join(active[:6])}",
                "a run that is executed or waits in the queue writes into its folder",
                f"nano-exp cancel {' '.join(active[:6])} first",
            )
        cells = [(run.name, run.id, now.kind, text.short_title(run.overrides)) for run, now in pairs]
        print(text.table(("name", "run", "state", "what"), cells))
        for line in _needed(results, [run for run, _ in pairs]):
            print(line)
        what = f"{len(pairs)} run{'s' if len(pairs) != 1 else ''} with their checkpoints, metrics and logs"
        if not yes and not confirm(f"remove {what}, for good?"):
            raise UserError(
                f"removing {what} was not confirmed",
                "removed runs cannot be brought back",
                "the same command with --yes",
                code=2,
            )
        elsewhere = [path for run, _ in pairs for path in _outside(run)]
        for run, _ in pairs:
            _take_away(run.dir)
    print(f"removed {len(pairs)} run{'s' if len(pairs) != 1 else ''}")
    for path in elsewhere:
        print(f"  not removed: {path}")
    return 0


def _needed(results: Path, removed: Sequence[Run]) -> list[str]:
    """Which other runs are still to start from one of these, a line each."""
    words = {f"{run.name}/{run.id}": selection.word(run) for run in removed}
    needs = [need for need in needed.needs(results) if need.run not in words and need.source in words]
    return [f"  {words[str(need.source)]} is needed: {need.who}, and could not any more" for need in needs]


def _outside(run: Run) -> list[Path]:
    """Folders that the run's config names, that are there, and that are not in its own."""
    folders = paths.paths(run)
    return [
        folders[what]
        for what in paths.CONFIGURED
        if what in folders and not folders[what].is_relative_to(run.dir) and files.names(folders[what])
    ]


def _take_away(folder: Path) -> None:
    """First its name: a removal that is cut off leaves no half of a run behind."""
    grave = folder.with_name(f".removed-{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(grave)
        shutil.rmtree(grave)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    runs.remove_empty(folder.parent)
