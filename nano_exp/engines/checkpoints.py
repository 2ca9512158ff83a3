"""Folders of checkpoints as every engine here writes them (NeMo RL's utils/checkpoint.py): step_N, each with
training_info.json; tmp_step_N is being written, old_step_N was replaced by a step_N of the same number.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.files import Damaged

INFO = "training_info.json"
#: A run's folder of checkpoints, where checkpointing.checkpoint_dir names no other place.
FOLDER = "checkpoints"
#: Words for a step.
BEST, LAST = "best", "last"


def home(checkpoint: Path) -> Path:
    """Where what is made of a checkpoint lies: the run's folder, or its own among checkpoints elsewhere."""
    folder = checkpoint.parent
    return folder.parent if folder.name == FOLDER else folder


def exported(checkpoint: Path) -> Path:
    """Where a checkpoint's Hugging Face weights lie, once they were exported."""
    return home(checkpoint) / "export" / checkpoint.name


def whole(folder: Path) -> list[int]:
    """The N of every step_N that has its information, ascending. One without is what a removal left that was cut off.

    Raises OSError where the folder cannot be listed.
    """
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []
    steps = [int(m[1]) for name in names if (m := re.fullmatch(r"step_(\d+)", name))]
    return sorted(step for step in steps if (folder / f"step_{step}" / INFO).is_file())


def torn(folder: Path) -> list[Path]:
    """What kills left, and nothing reads: before main NeMo RL removes none of it.

    A save that was cut off (tmp_step_N), what one that went through had replaced (old_step_N beside step_N), and the
    rest of an older checkpoint whose removal was cut off. An old_step_N without its step_N may be the only whole one.
    """
    newest, found = max(whole(folder), default=0), []
    for path in sorted(folder.glob("*step_*")):
        match = re.fullmatch(r"(tmp_|old_|)step_(\d+)", path.name)
        if match is None:
            continue
        kind, step = match[1], int(match[2])
        replaced = kind == "old_" and (folder / f"step_{step}" / INFO).is_file()
        half = not kind and step < newest and not (path / INFO).is_file()
        if kind == "tmp_" or replaced or half:
            found.append(path)
    return found


def infos(folder: Path, steps: Iterable[int]) -> dict[int, dict[str, Any]]:
    """training_info.json of each of these checkpoints; those whose cannot be read are left out."""
    found = {}
    for step in steps:
        try:
            info = files.read_json(folder / f"step_{step}" / INFO)
        except (Damaged, OSError):
            continue
        if isinstance(info, dict):
            found[step] = info
    return found


def best(infos: Mapping[int, Mapping[str, Any]], metric: str, higher_is_better: bool) -> int | None:
    """The step with the best value, of equal ones the newest; None where none has a value that is a number.

    Parameters
    ----------
    metric: as checkpointing.metric_name has it, a key of training_info.json: `val:accuracy`
    """
    sign = 1 if higher_is_better else -1
    values = {step: info.get(metric) for step, info in infos.items()}
    scored = {
        step: sign * value
        for step, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    }
    return max(scored, key=lambda step: (scored[step], step), default=None)


def ranked(folder: Path, checkpointing: Mapping[str, Any]) -> int | None:
    """The step of the best checkpoint that is there, by checkpointing.metric_name; None where none has a value."""
    metric, higher = checkpointing.get("metric_name"), bool(checkpointing.get("higher_is_better", True))
    return best(infos(folder, whole(folder)), str(metric), higher) if metric else None


def choose(folder: Path, word: str, checkpointing: Mapping[str, Any], typed: str) -> int:
    """The step that a word means: a number, `best` or `last`.

    Parameters
    ----------
    checkpointing: the run's section: `best` is by its metric_name, of the checkpoints that are still there
    typed: what stands before the word: `init_from=RUN@`, `--step `

    Raises
    ------
    UserError: there is no such checkpoint
    """
    steps = whole(folder)
    if not steps:
        raise UserError(f"no checkpoint in {folder}", "its weights are read from one", "a run that has saved one")
    listed = ", ".join(map(str, steps[-12:]))
    if word == LAST:
        return steps[-1]
    if word == BEST:
        step = ranked(folder, checkpointing)
        if step is None:
            raise UserError(
                f"{typed}{BEST} and checkpointing.metric_name={checkpointing.get('metric_name') or 'null'}",
                "no checkpoint has a value to be the best by",
                f"{typed}{LAST}, or one of these steps: {listed}",
            )
        return step
    if not word.isdigit() or int(word) not in steps:
        raise UserError(
            f"{typed}{word}: no such checkpoint in {folder}", f"there are those of steps {listed}", f"{typed}{LAST}"
        )
    return int(word)


def bring(source: Path, folder: Path) -> Path:
    """Copy a checkpoint into another run's folder, whole or not at all. Copies, never links: the source may be removed,
    and NeMo RL's own removal stops at a link.

    Raises
    ------
    OSError: it is not there, or there is no room
    """
    target = folder / source.name
    aside = folder / f"tmp_{source.name}"  # what a kill leaves is removed as a save that was cut off
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    aside.rename(target)
    return target
