"""Launching for a sweeper that chooses points by results (hydra/sweeper=optuna): wait, say what each one reached."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from nano_exp.advice import mistakes
from nano_exp.compose import compose, freeze
from nano_exp.compose.sweep import Sweep
from nano_exp.errors import UserError, nearest
from nano_exp.planner import auto


def set_defaults() -> None:
    """hydra/sweeper=optuna, where it is installed, maximises, and goes on after a failed point."""
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        return
    from hydra_plugins.hydra_optuna_sweeper.config import Direction, OptunaSweeperConf

    ours = OptunaSweeperConf(direction=Direction.maximize, max_failure_rate=1.0)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it says what it loads
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=ours, provider="optuna_sweeper")


class Failed(Exception):
    """A point without a value, and why."""


def require_results(config: DictConfig) -> None:
    """Raises UserError where a launch would return before there are results."""
    for switch, required in (("dry_run", False), ("submit", True)):
        if config.get(switch, required) is not required:
            raise UserError(
                f"{switch}={str(not required).lower()} with a search",
                "its points follow from the results of the ones before",
                f"leave {switch} out; or leave hydra/sweeper out and give one value for each key",
            )
    if config.wait is not True and config.slurm.where != "local":
        raise UserError(
            f"a search with wait={str(config.wait).lower()}",
            "it chooses points by the results of the ones before, so it has to wait for them",
            "wait=true",
        )


def launch_batch(
    take: Callable[..., object],
    loader: ConfigLoader,
    overrides: Sequence[Sequence[str]],
    parameters: dict[str, Any],
    folder: Path,
    settings: Sweep,
    first: bool,
) -> list[JobReturn]:
    """Launch points, wait for them, and return for each its last value of the metric or why there is none.

    Parameters
    ----------
    take: `flow.launch`
    first: whether these are the first points of the search

    Raises
    ------
    UserError: none of the first points composes: it is the command that is wrong
    KeyboardInterrupt: Ctrl-C while waiting
    """
    from nano_exp.launch import flow

    results = [_job_return(one) for one in overrides]
    points: dict[int, compose.Point] = {}
    keys: dict[int, tuple[str, str]] = {}
    refused = []
    for index, one in enumerate(overrides):
        try:
            with mistakes.explained(loader):
                point = auto.compose_point(loader, one)
            frozen = freeze.freeze(point, folder)
        except UserError as error:
            refused.append(error)
            _fail(results[index], f"{error.found}: {error.why}")
            continue
        try:
            broken = next((c for c in settings.constraints if not c.holds(frozen.config)), None)
            if broken is not None:
                _fail(results[index], f"skipped: without {broken.require} ({broken.because})")
                continue
            flow.check([frozen], parameters, submitting=False, inside=True)  # Slurm is asked when it is launched
        except UserError as error:
            _fail(results[index], f"{error.found}: {error.why}")
            continue
        points[index], keys[index] = point, (frozen.name, frozen.digest)
    if first and len(refused) == len(overrides):
        raise refused[0]
    if points:
        launched = take(list(points.values()), parameters, folder)
        assert isinstance(launched, flow.Launched)
        if launched.code == 130:
            raise KeyboardInterrupt
        rows = {(row.frozen.name, row.frozen.digest): row for row in launched.plan.rows}
        for index, key in keys.items():
            try:
                results[index].return_value = reached(rows[key].dir, settings.metric)
            except Failed as why:
                _fail(results[index], f"{rows[key].id} {why}")
            else:
                results[index].status = JobStatus.COMPLETED
    return results


def reached(run_dir: Path, metric: str) -> float:
    """A run's last value of a metric.

    Raises
    ------
    Failed: the run is not done, or never logged it
    """
    from nano_exp.launch import convergence
    from nano_exp.store import metrics_file, runs

    now = convergence.QueueLookup().state(runs.load(run_dir))
    if now.kind != "done":
        raise Failed(f"is {now.kind}" + (f" ({now.why})" if now.why else ""))
    rows = metrics_file.read(run_dir)
    ends = metrics_file.first_and_last(rows, metric)
    if ends is None:
        logged = sorted({key for row in rows for key in row})
        near = nearest(metric, logged) or logged[:5]
        raise Failed(f"has no {metric} in its metrics (it has {', '.join(near)}, ...): sweep.metric=...")
    return ends[1]


def _job_return(overrides: Sequence[str]) -> JobReturn:
    return JobReturn(overrides=list(overrides))


def _fail(result: JobReturn, why: str) -> None:
    result.status = JobStatus.FAILED
    result.return_value = Failed(why)
