"""A name's limit of GPU-hours (`budget=` of a launch or a retry): once its runs have spent it, no attempt starts.

It is one small file beside the runs, so that every launch, retry and attempt of the name sees the same. What executes
goes on to the end of its allocation: the limit is passed by what runs at that moment, at most.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from nano_exp import files
from nano_exp.files import Damaged
from nano_exp.store import runs, spells

#: Below the results folder; hidden, as all that is the store's own.
FOLDER = ".budgets"
#: The cause of an end, and the state of a run that does not start for it.
CAUSE = "budget"


@dataclass(frozen=True)
class Budget:
    """A name's limit, and what its runs have spent; GPU-hours."""

    name: str
    limit: float
    spent: float

    @property
    def is_spent(self) -> bool:
        return self.spent >= self.limit

    def __str__(self) -> str:
        return f"{self.name} has spent {self.spent:,.1f} of its budget of {self.limit:,g} GPU-hours"


def write(results: Path, name: str, gpu_hours: float) -> None:
    """Set a name's limit; infinity takes it away."""
    path = _path(results, name)
    if math.isinf(gpu_hours):
        path.unlink(missing_ok=True)
        return
    files.make_dir(path.parent)
    files.write_json(path, {"gpu_hours": gpu_hours, "time": time.time()}, durable=True)


def limit(results: Path, name: str) -> float | None:
    """A name's limit in GPU-hours; None where it has none. Raises Damaged where the file says none and is there."""
    try:
        known = runs.number(files.read_json(_path(results, name))["gpu_hours"])
    except FileNotFoundError:
        return None
    except (Damaged, OSError, KeyError, TypeError) as error:
        raise Damaged(f"{_path(results, name)} cannot be read: {error}") from error
    if known is None or not known > 0:
        raise Damaged(f"{_path(results, name)} has no limit")
    return known


def look(results: Path, name: str) -> Budget | None:
    """The limit and what is spent by now, from the runs' files; None without a limit. Raises Damaged."""
    known = limit(results, name)
    return None if known is None else Budget(name, known, spent(results, name))


def spent(results: Path, name: str) -> float:
    """GPU-hours of all attempts of a name; of one that has no end, until it last printed something."""
    return spells.gpu_hours(runs.load(folder) for folder in runs.folders(results / name)) or 0.0


def _path(results: Path, name: str) -> Path:
    return results / FOLDER / f"{name}.json"
