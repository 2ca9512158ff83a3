"""A sweeper that chooses points by results is told what each one reached."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import core_case
import pytest
from core_case import config_loader, dead_process, launch, make_attempt, make_run, standin
from hydra.core.utils import JobStatus
from hydra.types import RunMode

from nano_exp import app, files
from nano_exp.compose import sweep
from nano_exp.compose.freeze import freeze
from nano_exp.errors import UserError
from nano_exp.launch import convergence, search_sweeps
from nano_exp.launch import flow as launching
from nano_exp.store import identity, runs
from nano_exp.store.state import State

TINY = ["model=nano_tiny", "cluster=local"]


def stored(results: Path, seed: int, end: str, rows: Sequence[dict[str, Any]]) -> convergence.Row:
    """A run with one attempt that ended so, as a row of a plan."""
    frozen = freeze(core_case.compose_points(config_loader(), [[*TINY, f"grpo.seed={seed}"]])[0], results)
    run = make_run(results, name=frozen.name, run=identity.run_id(frozen.digest), config=frozen.config)
    make_attempt(run, 1, dead_process(), {"kind": end, "why": "because"})
    (run / runs.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return convergence.Row(frozen, run.name, run, frozen.config, State("new"), True, True)


def batch(
    folder: Path,
    made: Sequence[convergence.Row],
    *points: str,
    settings: sweep.Sweep | None = None,
    first: bool = True,
    code: int = 0,
) -> list[Any]:
    """Status and value, or the words of the failure, of each point; the runs are `made` whatever is launched."""
    found = search_sweeps.launch_batch(
        lambda *_: launching.Launched(convergence.Plan(tuple(made)), code),
        config_loader(),
        [[*TINY, *point.split()] for point in points],
        {},
        folder,
        settings or sweep.Sweep(),
        first,
    )
    return [one.return_value if one.status is JobStatus.COMPLETED else str(one._return_value) for one in found]


ROWS = [
    {"step": 1, "validation/accuracy": 0.25},
    {"step": 2, "train/reward": 0.9},
    {"step": 3, "validation/accuracy": 0.5},
]


def test_a_point_returns_its_last_value_and_a_failed_one_says_why(tmp_path: Path) -> None:
    made = [
        stored(tmp_path, 1, "done", ROWS),
        stored(tmp_path, 2, "failed", ROWS),
        stored(tmp_path, 3, "done", ROWS[1:2]),
    ]
    value, failed, silent = batch(tmp_path, made, "grpo.seed=1", "grpo.seed=2", "grpo.seed=3")
    assert value == 0.5
    assert failed == f"{made[1].id} is failed (because)"
    assert "has no validation/accuracy in its metrics" in silent
    assert "train/reward" in silent


def test_another_metric_and_the_same_point_twice(tmp_path: Path) -> None:
    made = [stored(tmp_path, 1, "done", ROWS)]
    asked = sweep.Sweep(metric="train/reward")
    assert batch(tmp_path, made, "grpo.seed=1", "grpo.seed=1", settings=asked) == [0.9, 0.9]


def test_a_refused_point_and_one_that_breaks_a_constraint_do_not_end_the_search(tmp_path: Path) -> None:
    made = [stored(tmp_path, 1, "done", ROWS)]
    rule = {"require": "grpo.seed < 5", "because": "reasons"}
    settings = sweep.read({"constraints": [rule]})
    value, skipped, refused = batch(
        tmp_path, made, "grpo.seed=1", "grpo.seed=7", "optimizer.lr=word", settings=settings
    )
    assert value == 0.5
    assert skipped == "skipped: without grpo.seed < 5 (reasons)"
    assert refused


@pytest.mark.parametrize("first", [True, False])
def test_a_batch_of_points_that_preflight_refuses_does_not_end_the_search(tmp_path: Path, first: bool) -> None:
    [refused] = batch(tmp_path, [], "policy.train_micro_batch_size=100000", first=first)
    assert "policy.train_micro_batch_size=100000" in refused


def test_a_command_that_fits_no_point_ends_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lrr"):
        batch(tmp_path, [], "optimizer.lrr=1", "optimizer.lrr=2")
    later = batch(tmp_path, [], "optimizer.lrr=1", first=False)
    assert "optimizer.lrr" in later[0]


def test_ctrl_c_while_waiting_ends_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        batch(tmp_path, [], "grpo.seed=1", code=130)


@pytest.mark.parametrize(
    ("typed", "fix"),
    [
        ("model=nano_9b cluster=1n8g", "wait=true"),
        ("dry_run=true", "leave dry_run out"),
        ("submit=false", "leave submit"),
    ],
)
def test_a_launch_that_returns_before_there_are_results_is_refused(typed: str, fix: str) -> None:
    config = config_loader().load_configuration("config", typed.split(), run_mode=RunMode.MULTIRUN)
    with pytest.raises(UserError) as caught:
        search_sweeps.require_results(config)
    assert caught.value.fix.startswith(fix)


def test_without_optuna_the_command_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        app._require_optuna(["hydra/sweeper='optuna'"])
    assert "[optuna]" in caught.value.fix
    app._require_optuna(["optimizer.lr=1"])


def test_optuna_finds_the_largest_last_value(tmp_path: Path, checkout: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    here = ["slurm.where=local", "slurm.parallel_local=2", "grpo.max_num_steps=2", "grpo.val_period=1"]
    search_for = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "grpo.seed=range(1,99)",
        "sweep.metric=train/reward",
    ]
    done = launch(tmp_path, *standin(checkout), *here, *search_for, STANDIN_STEP_SECONDS="0.02")
    assert done.returncode == 0, done.stdout + done.stderr
    reached = [search_sweeps.reached(run.dir, "train/reward") for run in runs.find(tmp_path / "results")]
    assert len(reached) == 2
    [said] = (tmp_path / "results" / ".searches").glob("*/optimization_results.yaml")
    assert files.read_yaml(said)["best_value"] == max(reached)
    assert "alembic" not in done.stdout
