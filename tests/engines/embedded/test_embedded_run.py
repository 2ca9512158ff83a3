"""Whole runs in child processes: killed, stopped, out of time, damaged; and what they leave."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nano_exp.engines import Context, embedded
from nano_exp.engines.embedded import checkpoint, settings

Make = Callable[..., dict[str, Any]]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Filled by the first test that needs the uninterrupted run's numbers."""
    return {}


def uninterrupted(runner: Any, small_config: Make, reference: dict[str, Any]) -> list[dict[str, Any]]:
    if not reference:
        assert runner.run(small_config(folder="whole"), "whole") == 0, runner.output("whole")
        reference["numbers"] = runner.numbers("whole")
    numbers: list[dict[str, Any]] = reference["numbers"]
    return numbers


def die_when(monkey: str, call: int) -> Callable[[], None]:
    """For the child: SIGKILL itself at the `call`th use of something, in the midst of it."""

    def arrange() -> None:
        from nano_exp.engines.embedded import rollout, tracking, trainer

        counted = {"n": 0}

        def now() -> bool:
            counted["n"] += 1
            return counted["n"] == call

        def kill() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        if monkey == "save":
            save = torch.save

            def half(value: Any, path: Path) -> None:
                save(value, path)
                if now():
                    path.write_bytes(path.read_bytes()[:100])
                    kill()

            torch.save = half
        elif monkey == "publish":
            publish = checkpoint.Store.publish

            def before(self: checkpoint.Store, path: Path) -> Path:
                if now():
                    kill()
                return publish(self, path)

            checkpoint.Store.publish = before  # type: ignore[method-assign]
        elif monkey == "published":
            prune = checkpoint.Store._prune

            def after(self: checkpoint.Store) -> None:
                if now():
                    kill()
                prune(self)

            checkpoint.Store._prune = after  # type: ignore[method-assign]
        elif monkey == "row":
            write = tracking.MetricsFile.write

            def torn(self: tracking.MetricsFile, step: int, metrics: Any) -> Any:
                if now():
                    self._file.write('{"step": ' + str(step) + ', "train/lo')
                    self._file.flush()
                    kill()
                return write(self, step, metrics)

            tracking.MetricsFile.write = torn  # type: ignore[method-assign]
        elif monkey == "token":
            metrics = rollout.rollout_metrics

            def counting(answers: Any) -> Any:
                if now():
                    kill()
                return metrics(answers)

            trainer.rollout.rollout_metrics = counting

    return arrange


@pytest.mark.parametrize(
    ("where", "calls"),
    [("save", (2, 8)), ("publish", (1, 2)), ("published", (1, 3)), ("row", (3, 9)), ("token", (1, 4, 6))],
)
def test_killed_anywhere_the_same_command_gives_the_same_metrics(
    runner: Any, small_config: Make, reference: dict[str, Any], where: str, calls: tuple[int, ...]
) -> None:
    expected = uninterrupted(runner, small_config, reference)
    config = small_config()
    ends = [runner.run(config, before=die_when(where, call)) for call in calls]  # the last kill may come too late
    assert ends[0] == KILLED and set(ends) <= {KILLED, 0}, runner.output()
    assert runner.output().count("warm start 3/3") >= 1
    assert runner.run(config) == 0, runner.output()
    assert runner.numbers() == expected
    assert not [name for name in runner.checkpoints() if not name.startswith("step_")]


def test_killed_at_random_moments(runner: Any, small_config: Make, reference: dict[str, Any]) -> None:
    expected = uninterrupted(runner, small_config, reference)
    chance, config, kills = random.Random(7), small_config(), 0
    for _ in range(12):
        child = runner.start(config, "run")
        time.sleep(chance.uniform(0.15, 0.9))
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    assert runner.run(config) == 0, runner.output()
    assert kills >= 1
    assert runner.numbers() == expected


def test_rows_names_and_precision(runner: Any, small_config: Make) -> None:
    assert runner.run(small_config()) == 0, runner.output()
    rows = runner.rows()
    training = [row for row in rows if "train/loss" in row]
    validation = [row for row in rows if "validation/accuracy" in row]
    assert [row["step"] for row in training] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["step"] for row in validation] == [0, 2, 4, 6, 7]
    names = {name.removeprefix("train/") for name in training[0] if name.startswith("train/")}
    assert names == set(settings.TRAIN_METRICS)
    assert {"validation/accuracy", "validation/avg_length", "timing/validation/total_validation_time"} <= set(
        validation[0]
    )
    assert {"timing/train/total_step_time", "timing/train/generation", "timing/train/policy_training"} <= set(
        training[0]
    )
    assert all(isinstance(row["time"], float) for row in rows)
    assert all(len(repr(row["train/loss"])) > 8 for row in training), "floats are not rounded"
    assert any(0 < row["train/reward"] < 1 for row in training), "there is something to learn"
    summary = json.loads((runner.tmp_path / "run/logs/summary.json").read_text())
    assert summary["steps"] == 7 and summary["warm_start"]["steps"] == 3 and summary["parameters"] > 0
    assert summary["reward_before"] == training[0]["train/reward"]
    assert summary["reward_after"] == pytest.approx(sum(row["train/reward"] for row in training[-5:]) / 5)
    assert summary["validation_after"] == validation[-1]["validation/accuracy"]
    output = runner.output()
    assert "warm start: 3 supervised steps" in output and "step 7/7  reward " in output


def test_a_finished_run_given_again_changes_nothing(runner: Any, small_config: Make) -> None:
    config = small_config()
    assert runner.run(config) == 0
    before, kept = runner.rows(), runner.checkpoints()
    assert runner.run(config) == 0, runner.output()
    assert (runner.rows(), runner.checkpoints()) == (before, kept)


def test_a_signal_saves_the_finished_step_and_exits_0(
    runner: Any, small_config: Make, reference: dict[str, Any]
) -> None:
    expected = uninterrupted(runner, small_config, reference)
    # Without it step 5 would not be saved.
    config = small_config({"checkpointing.save_period": 100})
    child = runner.start(config, "run", stop_after(5, signal.SIGTERM))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, runner.output()
    assert runner.checkpoints() == ["step_5"]
    assert "stopped by a signal: step 5 is saved" in runner.output()
    assert embedded.last_step(config, Context(runner.tmp_path, runner.tmp_path, 1, runner.tmp_path, None)) == 5
    assert runner.run(config) == 0
    assert runner.numbers() == expected
    assert "resuming from" in runner.output()


def stop_after(step: int, number: int) -> Callable[[], None]:
    """For the child: send itself a signal in the rollout of the step after `step`."""

    def arrange() -> None:
        from nano_exp.engines.embedded import trainer

        plain, counted = trainer.rollout.generate, {"n": 0}

        def generate(*arguments: Any) -> Any:
            if len(arguments) == 7:  # a training rollout can be stopped
                counted["n"] += 1
                if counted["n"] == step + 1:
                    os.kill(os.getpid(), number)
            return plain(*arguments)

        trainer.rollout.generate = generate

    return arrange


def test_a_signal_before_the_first_step_leaves_nothing_and_exits_0(runner: Any, small_config: Make) -> None:
    def arrange() -> None:
        from nano_exp.engines.embedded import warm_start

        def interrupted(*arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            arguments[-1](1, 0.0)

        warm_start.run = interrupted

    assert runner.run(small_config(), before=arrange) == 0, runner.output()
    assert "stopped by a signal: nothing to save" in runner.output()
    assert not (runner.tmp_path / "run/checkpoints").exists()


def test_must_save_by_saves_and_exits_0(runner: Any, small_config: Make, reference: dict[str, Any]) -> None:
    expected = uninterrupted(runner, small_config, reference)
    hurried = small_config({"checkpointing.checkpoint_must_save_by": "00:00:00:00"})
    assert runner.run(hurried) == 0
    assert runner.checkpoints() == ["step_1"]
    assert "checkpoint_must_save_by is reached: saved step 1" in runner.output()
    assert not (runner.tmp_path / "run/logs/summary.json").exists()
    assert runner.run(small_config()) == 0
    assert runner.numbers() == expected


def test_keep_top_k_by_metric_and_always_the_newest(runner: Any, small_config: Make) -> None:
    changes = {
        "checkpointing.save_period": 1,
        "checkpointing.keep_top_k": 2,
        "checkpointing.metric_name": "train:loss",
        "checkpointing.higher_is_better": False,
    }
    assert runner.run(small_config(changes)) == 0, runner.output()
    losses = {row["step"]: row["train/loss"] for row in runner.rows() if "train/loss" in row}
    best = sorted(losses, key=lambda step: (losses[step], -step))[:2]
    assert runner.checkpoints() == sorted({f"step_{step}" for step in best} | {"step_7"})


def test_a_damaged_checkpoint_is_set_aside_for_the_one_below(
    runner: Any, small_config: Make, reference: dict[str, Any]
) -> None:
    expected = uninterrupted(runner, small_config, reference)
    config = small_config()
    assert runner.run(config, before=stop_after(5, signal.SIGTERM)) == 0
    weights = runner.tmp_path / "run/checkpoints/step_5/policy/weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert runner.run(config) == 0, runner.output()
    assert "checkpoint step_5 is damaged (policy/weights.pt is not the file that was written" in runner.output()
    assert "damaged_step_5" in runner.checkpoints()
    assert runner.numbers() == expected


def test_only_damaged_checkpoints_are_an_error_and_not_a_new_start(runner: Any, small_config: Make) -> None:
    config = small_config({"checkpointing.keep_top_k": 1, "checkpointing.metric_name": None})
    assert runner.run(config) == 0
    (runner.tmp_path / "run/checkpoints/step_7/manifest.json").write_text("{")
    rows = runner.rows()
    assert runner.run(config) == 2
    assert "every checkpoint in" in runner.output() and "Traceback" not in runner.output()
    assert runner.rows() == rows


def test_without_the_optimizer_a_resume_says_so(runner: Any, small_config: Make) -> None:
    config = small_config({"checkpointing.save_optimizer": False})
    assert runner.run(config, before=stop_after(4, signal.SIGTERM)) == 0
    assert not (runner.tmp_path / "run/checkpoints/step_4/policy/optimizer.pt").exists()
    assert runner.run(config) == 0
    assert "step_4 has no optimizer state" in runner.output()
    assert [row["step"] for row in runner.rows() if "train/loss" in row] == [1, 2, 3, 4, 5, 6, 7]


def test_no_checkpoints_at_all(runner: Any, small_config: Make) -> None:
    assert runner.run(small_config({"checkpointing.enabled": False, "grpo.max_num_steps": 2})) == 0
    assert not (runner.tmp_path / "run/checkpoints").exists()


def test_divergence_ends_the_run_with_a_message(runner: Any, small_config: Make) -> None:
    config = small_config({"policy.optimizer.kwargs.lr": 1e30, "policy.scheduler": None})
    assert runner.run(config) == 1
    assert "training has diverged" in runner.output() and "Traceback" not in runner.output()
    assert "train/loss" in runner.rows()[-1]["nonfinite"], "the step that diverged is logged, as JSON"


def test_the_command_line_refuses_without_a_traceback(small_config: Make, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: engine.device=cuda is right here")
    config = tmp_path / "nemo_rl.yaml"
    config.write_text(yaml.safe_dump(small_config({"engine.device": "cuda"})))
    argv = [sys.executable, "-m", "nano_exp.engines.embedded", "--metrics", str(tmp_path / "m.jsonl"), "--config"]
    done = subprocess.run([*argv, str(config)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: engine.device=cuda" in done.stderr and "fix: engine.device=cpu" in done.stderr
    assert "Traceback" not in done.stderr
    gone = subprocess.run([*argv, str(tmp_path / "gone.yaml")], capture_output=True, text=True)
    assert gone.returncode == 2 and "gone.yaml" in gone.stderr and "Traceback" not in gone.stderr
