"""Folders of checkpoints as every engine here writes them (NeMo RL's utils/checkpoint.py): step_N, each with
training_info.json; tmp_step_N is being written, old_step_N was replaced by a step_N of the same number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.files import Damaged

INFO = "training_info.json"


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
