"""What a launch's manifest says of the tasks of an array: one run each, or several that share the task's allocation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tasks(entry: Mapping[str, Any]) -> int:
    """How many tasks an array has.

    Parameters
    ----------
    entry: the array's, of the manifest; KeyError or TypeError for a damaged one
    """
    pack = entry.get("pack")
    return int(pack["allocations"]) if pack else len(entry["runs"])


def members(entry: Mapping[str, Any], task: int) -> list[tuple[int, str]]:
    """The runs of a task: number in the array, and folder."""
    count = tasks(entry)
    return [(index, folder) for index, folder in enumerate(entry["runs"]) if index % count == task]
