"""What a launch is asked for: frozen configs, switches and terms that hold for all of its points."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import credentials, environment
from nano_exp.compose import sweep
from nano_exp.compose.freeze import Freezable, Frozen, freeze_all
from nano_exp.errors import UserError
from nano_exp.launch import (
    convergence,
    packing,
    show,
    terms,
)
from nano_exp.launch.terms import Terms
from nano_exp.store import axes
from nano_exp.store.run_config import SWITCHES


@dataclass(frozen=True)
class Request:
    """What is asked for: the frozen configs, and what is common to all of them."""

    frozen_configs: list[Frozen]
    switches: dict[str, bool]
    where: str
    results: Path
    env_file: Path | None
    terms: Terms

    @property
    def swept(self) -> list[str]:
        """The keys that differ among the points."""
        typed = [axes.typed(frozen.overrides) for frozen in self.frozen_configs]
        points = axes.points(typed, lambda index, key: axes.at(self.frozen_configs[index].config, {}, key))
        return list(points[0])

    def plan(self) -> convergence.Plan:
        return convergence.make(self.frozen_configs, self.switches["fresh"], convergence.QueueLookup())


def read(
    points: Sequence[Freezable],
    parameters: dict[str, Any],
    folder: Path,
    constraints: Sequence[sweep.Constraint] = (),
) -> Request:
    """Freeze the points, say which are skipped, and refuse those that do not belong in one launch."""
    env_file = read_environment(environment.find(folder))  # first: its values are refused in what follows
    credentials.refuse({"hydra.launcher": parameters}, "the launch")  # they stand in the batch script
    frozen_configs, skipped = sweep.split(freeze_all(points, folder), constraints)
    switches = {key: _switch(frozen_configs, key) for key in SWITCHES}
    where = str(frozen_configs[0].config["slurm"]["where"])
    show.skipped(skipped, frozen_configs)
    show.notes([note for point in points for note in point.notes])
    _require_one(frozen_configs)
    _require_place(where)
    requested = terms.read(frozen_configs, points[0].overrides)
    terms.require(requested, where, switches["submit"])
    packing.require(requested, [frozen.config for frozen in frozen_configs], parameters, where)
    return Request(
        frozen_configs, switches, where, Path(frozen_configs[0].config["run"]["results"]), env_file, requested
    )


def _switch(frozen_configs: Sequence[Frozen], key: str) -> bool:
    """A switch of the whole launch. `no` and `off` are words to Hydra, not false, so only real booleans are taken."""
    values = [frozen.config.get(key, False) for frozen in frozen_configs]
    if any(not isinstance(v, bool) or v != values[0] for v in values):
        raise UserError(
            f"{key}={values[0]!r}", "it must be true or false, for the whole launch", f"{key}=true or {key}=false"
        )
    return bool(values[0])


def read_environment(path: Path | None) -> Path | None:
    """Check a launch's env.yaml before anything is done, and say what it gives. Raises UserError."""
    if path is not None:
        names = environment.read(path)
        print(f"environment: {environment.summary(path, names, [name for name in names if name in os.environ])}")
    return path


def _require_one(frozen_configs: Sequence[Frozen]) -> None:
    """A launch has one results folder and one place; both come from the first point, so they must agree."""
    for section, key in (("run", "results"), ("slurm", "where")):
        values = {str(frozen.config[section][key]) for frozen in frozen_configs}
        if len(values) > 1:
            raise UserError(
                f"points of one launch have {section}.{key}: {', '.join(sorted(values))}",
                "one launch goes to one place" if key == "where" else "one launch writes to one results folder",
                "two launches, or the same value for all points (cluster=local does not mix with Slurm's)",
            )


def _require_place(where: str) -> None:
    if where not in ("slurm", "local"):
        raise UserError(
            f"slurm.where={where}", "runs go to `slurm` or stay `local`", "cluster=local, or a cluster of Slurm's"
        )


def require_sendable(request: Request) -> None:
    """submit=false leaves sbatch to the user, so there has to be something to send and nothing to wait for."""
    if request.switches["submit"]:
        return
    if request.where == "local":
        raise UserError(
            "submit=false with slurm.where=local",
            "runs on this machine are not sent with sbatch",
            "leave submit=false out, or choose a cluster= of Slurm's",
        )
    if request.switches["wait"]:
        raise UserError(
            "submit=false with wait=true", "nothing is submitted that could be waited for", "leave one of the two out"
        )
