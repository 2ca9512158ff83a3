"""A launch as job arrays: which runs share one, how large it may be, and what it waits for."""

from __future__ import annotations

import json
import secrets as random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import alike, slurm
from nano_exp.errors import UserError
from nano_exp.launch import canary, packing
from nano_exp.launch.convergence import Row, configs_of
from nano_exp.launch.dependency import After
from nano_exp.launch.packing import Pack
from nano_exp.launch.terms import Terms
from nano_exp.slurm import arrays
from nano_exp.slurm.shapes import Shape, shape
from nano_exp.store import run_config, runs, state


@dataclass
class Array:
    """One job array of a launch (a plain job where it has one run): the runs of a shape, or a chunk of them.

    Parameters
    ----------
    word: its number, or `canary`
    throttle: at most this many of its tasks at once, by the launch's `parallel`
    behind: it starts after the array of this number
    pack: how its runs share allocations; None: each has its own
    """

    word: str
    shape: Shape
    rows: list[Row]
    job_name: str
    job: str = ""
    throttle: int | None = None
    behind: int | None = None
    pack: Pack | None = None

    @property
    def number(self) -> int:
        return int(self.word)

    @property
    def tasks(self) -> int:
        """How many tasks it has for Slurm."""
        return self.pack.allocations if self.pack else len(self.rows)

    @property
    def allocation(self) -> Shape:
        """What each task asks for."""
        return self.shape.times(self.pack.slots) if self.pack else self.shape

    def task_of(self, index: int) -> int | None:
        """The task of run number `index`; None where it is a plain job."""
        return index % self.tasks if self.tasks > 1 else None

    def job_of(self, index: int) -> str:
        task = self.task_of(index)
        return self.job if task is None else f"{self.job}_{task}"


@dataclass
class Launch:
    id: str
    results: Path
    dir: Path
    arrays: list[Array]
    by_hand: bool = False  # submit=false: the user types sbatch
    terms: Terms = field(default_factory=Terms)
    after: After = field(default_factory=After)
    canary: Array | None = None
    axes: Sequence[str] = ()  # the keys that differ among the points that were asked for
    warnings: Sequence[Mapping[str, Any]] = ()  # what preflight warned of: rule, text, and of how many points

    @property
    def sending_order(self) -> list[Array]:
        return [*([self.canary] if self.canary else []), *self.arrays]


def new_id() -> str:
    """Launch ids sort by time; the random part keeps two launchers of one second apart."""
    return time.strftime("%Y%m%d-%H%M%S") + "-" + random.token_hex(2)


def arrange(
    rows: Sequence[Row], launch_id: str, results: Path, terms: Terms | None = None, limit: int = arrays.DEFAULT_LIMIT
) -> Launch:
    """Group rows into one array per shape, name and place: a job's name tells its runs, its manifest their place.

    Parameters
    ----------
    limit: the most tasks that Slurm takes in one array; larger groups become several
    """
    groups: dict[tuple[Shape, str, str], list[Row]] = {}
    for row, (form, place) in zip(rows, alike.each(configs_of(rows), shape_and_place), strict=True):
        groups.setdefault((form, row.frozen.name, place), []).append(row)
    job_arrays: list[Array] = []
    for (form, name, _), members in groups.items():
        for chunk in arrays.chunks(len(members), min(limit, _max_array(members[0].config) or limit)):
            number = len(job_arrays)
            rows_of = members[chunk.start : chunk.stop]
            job_arrays.append(Array(str(number), form, rows_of, state.job_name(launch_id, number, name)))
    launch = Launch(launch_id, results, runs.launch_dir(results, launch_id), job_arrays, terms=terms or Terms())
    if launch.terms.pack is not None:
        for array, pack in zip(job_arrays, packing.deal(launch.terms, [len(a.rows) for a in job_arrays]), strict=True):
            array.pack, array.behind = pack, pack.behind if pack else None
    elif launch.terms.parallel is not None:
        for array, slot in zip(
            job_arrays, arrays.slots(launch.terms.parallel, [len(a.rows) for a in job_arrays]), strict=True
        ):
            array.throttle, array.behind = slot.throttle, slot.behind
    if launch.terms.canary and job_arrays:
        first = canary.of(canary.choose(rows), launch.dir)
        name = f"nx-{launch_id}.{runs.CANARY}-{first.frozen.name}"
        launch.canary = Array(runs.CANARY, shape(first.config), [first], name)
    return launch


def shape_and_place(config: dict[str, Any]) -> tuple[Shape, str]:
    """What runs of one name have in common that share an array."""
    ours = [config["site"], config["slurm"], run_config.placement(config)]
    return shape(config), json.dumps(ours, sort_keys=True)


def _max_array(config: dict[str, Any]) -> int | None:
    value = config["slurm"].get("max_array")
    if value is None or (type(value) is int and value >= 1):
        return value
    raise UserError(f"slurm.max_array={value!r}", "it must be a number of runs, at least 1", "slurm.max_array=500")


def array_limit(count: int) -> int:
    """The most tasks that Slurm takes in one array, asked for where `count` runs might be too many."""
    if count <= arrays.ASK_ABOVE:
        return arrays.DEFAULT_LIMIT
    try:
        return slurm.array_limit()
    except slurm.NoAnswer as error:
        if slurm.available() or count > arrays.DEFAULT_LIMIT:
            note = f"{error}; arrays are made for Slurm's default, MaxArraySize={arrays.DEFAULT_LIMIT}"
            print(f"note: {note} (slurm.max_array=N for smaller ones)", file=sys.stderr)
        return arrays.DEFAULT_LIMIT
