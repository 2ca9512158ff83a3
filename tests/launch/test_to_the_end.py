"""What a launch says that its runs cost to their last step: measured where it can be, else estimated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from core_case import Answer, frozen, make_run, standin

from nano_exp.launch import convergence, to_the_end
from nano_exp.launch.convergence import Row
from nano_exp.study import run_length

STEPS = ("grpo.max_num_steps=100",)


def rows(folder: Path, *overrides: str) -> list[Row]:
    return convergence.make([frozen(folder, *standin(), *overrides)], False, Answer([])).to_submit


def test_without_a_measured_step_it_is_the_planners_estimate_and_called_that(tmp_path: Path) -> None:
    made = to_the_end.whole(rows(tmp_path, *STEPS))
    assert "estimated for h100-80: good to a factor of 2" in made.line()
    assert made.total == pytest.approx(100 * made.steps[0].seconds * 8 / 3600)


def test_a_step_that_runs_of_the_name_measured_goes_before_it(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, *STEPS)
    for run, model in (("r1", "nano_12b"), ("r2", "nano_9b")):
        choices = {"model": model, "cluster": "1n8g"}
        folder = make_run(row.results, name=row.frozen.name, run=run, record={"choices": choices})
        step_s = 36.0 if model == "nano_12b" else 1000.0
        lines = [{"step": step, "time": 1e9 + step_s * step, "train/reward": 0.1} for step in range(1, 9)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = rows(tmp_path, *STEPS)
    assert to_the_end.whole([row]).line() == (
        "to the last step: 8.0 GPU-hours a run, at 36 s a step (measured in 1 run of nano_12b)"
    )


def test_a_million_steps_are_no_end(tmp_path: Path) -> None:
    said = to_the_end.whole(rows(tmp_path, "grpo.max_num_steps=1000000")).line()
    assert "GPU-hours for each 100 steps of 1 run, whose steps it does not limit" in said


def test_data_that_ends_before_the_steps_do_is_an_end(tmp_path: Path) -> None:
    nine = frozen(tmp_path, *[word.replace("12b", "9b") for word in standin()])
    made = to_the_end.whole(convergence.make([nine], False, Answer([])).to_submit)
    assert made.total == pytest.approx(17 * made.steps[0].seconds * 8 / 3600)
    endless = {**nine.config, "grpo": {**nine.config["grpo"], "async_grpo": {"enabled": True}}}
    assert (run_length.of(nine.config), run_length.of(endless)) == (17, 1000000)


def test_this_machine_costs_nothing(tmp_path: Path) -> None:
    assert to_the_end.whole(convergence.make([frozen(tmp_path)], False, Answer([])).to_submit).line() == ""
