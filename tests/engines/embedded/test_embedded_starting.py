"""A checkpoint of the embedded engine as the start of another run, as a fork, as Hugging Face weights, evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nano_exp.engines import checkpoints
from nano_exp.engines.embedded import hugging_face, rollout


def test_weights_are_started_from_forked_exported_and_evaluated(
    runner: Any, small_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small_config({"grpo.max_num_steps": 4, "checkpointing.keep_top_k": None})
    assert runner.run(whole) == 0, runner.output()
    step = tmp_path / "run" / "checkpoints" / "step_2"

    started = small_config({"grpo.max_num_steps": 1, "engine.init_from": str(step)}, "started")
    assert runner.run(started, "started") == 0, runner.output("started")
    assert "no warm start" in runner.output("started") and "warm start 3/3" not in runner.output("started")
    assert runner.rows("started")[-1]["train/kl_penalty"] < 0.01  # its reference is its start

    same, changed = ({"grpo.max_num_steps": 4, **more} for more in ({}, {"policy.optimizer.kwargs.weight_decay": 0.5}))
    for name, changes in (("same", same), ("changed", changed)):
        copy = checkpoints.bring(step, tmp_path / name / "checkpoints")
        assert copy.name == "step_2" and not copy.is_symlink()
        assert runner.run(small_config(changes, name), name) == 0, runner.output(name)
    assert runner.numbers("same") == [row for row in runner.numbers() if row["step"] > 2]
    assert runner.numbers("changed") != runner.numbers("same")

    hugging_face.export(step, tmp_path / "out")  # it loads the weights again, and compares
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "nemotron_h"
    monkeypatch.setattr(rollout, "reward", lambda example, text, done: float(len(text) % 3 == 0))
    hugging_face.evaluate(step, "validation", tmp_path / "scores")
    scores = json.loads((tmp_path / "scores" / hugging_face.SCORES).read_text())
    assert scores["samples"] == len((tmp_path / "scores" / "answers.jsonl").read_text().splitlines()) == 40
    with pytest.raises(hugging_face.UserError, match="no file of requests"):
        hugging_face.evaluate(step, "nothing", tmp_path / "none")
