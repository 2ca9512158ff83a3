"""`nano_exp.load`: runs for scripts, on folders made by hand; the documentation's example is run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from core_case import ROOT, dead_process, environment, make_attempt, make_run
from pace import limit

import nano_exp
from nano_exp.errors import UserError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two done runs, one of them the baseline, and a failed one of one name, and another name."""
    results = tmp_path / "results"
    for number, (kind, lr) in enumerate((("done", "1e-6"), ("done", ""), ("failed", "1e-5"))):
        config = {"grpo": {"num_generations_per_prompt": 8}, "optimizer": {"lr": 5e-6}}
        record = {"overrides": ["model=nano_12b", *([f"optimizer.lr={lr}"] if lr else [])], "max_steps": 2}
        folder = make_run(results, name="nano_12b", run=f"r{number}", record=record, config=config)
        made = make_attempt(folder, 1, dead_process(), {"kind": kind, "why": "", "seconds": 3600})
        (made / "stderr.log").write_text("a word\n")
        rows = [
            {"step": 1, "time": 1.0, "train/reward": 0.1},
            {"step": 2, "time": 2.0, "train/reward": 0.1 * (number + 2)},
            {"step": 2, "time": 3.0, "validation/accuracy": 0.5},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "tra')
    make_run(results, name="other", run="r9")
    return results


def test_a_results_folder_a_name_and_a_run_are_loaded(results: Path) -> None:
    assert [run.id for run in nano_exp.load(results)] == ["r0", "r1", "r2", "r9"]
    assert [run.id for run in nano_exp.load(results / "nano_12b")] == ["r0", "r1", "r2"]
    assert [run.id for run in nano_exp.load(str(results / "nano_12b" / "r1"))] == ["r1"]


def test_a_run_has_what_status_has(results: Path) -> None:
    run = nano_exp.load(results)["r1"]
    assert (run.state, run.step, run.max_steps, run.validation_accuracy) == ("done", 2, 2, 0.5)
    assert run.config["grpo"]["num_generations_per_prompt"] == 8
    assert run.log("stderr.log") == "a word\n"
    assert run.log("nothing.log") == ""
    assert repr(run) == "<run nano_12b/r1 done 2/2>"
    with pytest.raises(AttributeError):
        run.nothing  # noqa: B018


def test_metrics_have_one_row_a_step_and_no_half_line(results: Path) -> None:
    assert nano_exp.load(results)["r0"].metrics() == [
        {"step": 1, "time": 1.0, "train/reward": 0.1},
        {"step": 2, "time": 3.0, "train/reward": 0.2, "validation/accuracy": 0.5},
    ]
    assert nano_exp.load(results)["r9"].metrics() == []


def test_the_table_has_the_values_that_tell_runs_apart(results: Path) -> None:
    rows = nano_exp.load(results / "nano_12b").table()
    assert [row["optimizer.lr"] for row in rows] == [1e-6, 5e-6, 1e-5]
    assert all("model" not in row for row in rows), "all have the same"
    assert all(not isinstance(value, list | dict) for row in rows for value in row.values()), "columns of a data frame"


def test_runs_are_chosen_by_state_position_and_first_letters(results: Path) -> None:
    runs = nano_exp.load(results)
    assert [run.id for run in runs.where("done", "failed")] == ["r0", "r1", "r2"]
    assert [run.id for run in runs[1:3]] == ["r1", "r2"]
    assert runs[-1].id == "r9"
    assert len(runs) == 4
    with pytest.raises(KeyError, match="4 runs begin with r"):
        runs["r"]
    with pytest.raises(UserError, match="--state dne"):
        runs.where("dne")


def test_no_runs_are_an_error_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        nano_exp.load(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in caught.value.found


def test_the_documented_example_runs_without_pandas(results: Path) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL))
    code += "\nimport sys\nassert not {'pandas', 'torch', 'wandb', 'hydra'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=results.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=limit(60),
    )
    assert done.returncode == 0, done.stderr
    assert "r1 done  2/2 0.30" in done.stdout
    assert "r1 ['model=nano_12b'] 8" in done.stdout
    assert "[(1, 0.1), (2, 0.3" in done.stdout
    assert "[(2, 0.5)]" in done.stdout
    assert "[(1e-06, 0.2), (5e-06, 0.3" in done.stdout
