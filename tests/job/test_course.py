"""An attempt whose run is lost: it waits for the next checkpoint, ends its engine whole, goes on without the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core_case import attempt, attempt_env, copy_standin, frozen, prepared, standin

from nano_exp import files
from nano_exp.job.course import Course
from nano_exp.launch import convergence
from nano_exp.store import metrics_file, runs
from nano_exp.store.queue_lookup import QueueLookup

STEPS = (
    "grpo.max_num_steps=60",
    "checkpointing.save_period=7",
    "grpo.val_period=100",
    "checkpointing.metric_name=null",
)
#: Holds as soon as a reward is not the best so far.
STOP = {"after": 3, "window": 1, "reward_collapse": 1.0}


def with_stop(launch: Path, stop: dict[str, Any]) -> None:
    manifest = files.read_json(launch / "manifest.json")
    manifest["terms"]["stop"] = stop
    files.write_json(launch / "manifest.json", manifest)


def test_a_lost_run_ends_at_its_next_checkpoint_and_goes_on_without_the_rule(tmp_path: Path) -> None:
    words = (*standin(copy_standin(tmp_path / "checkout")), *STEPS, "checkpointing.metric_name=null")
    ready = prepared(tmp_path, *words, where="local")
    run = ready.arrays[0].rows[0].dir
    with_stop(ready.dir, STOP)
    first = attempt(ready.dir, **attempt_env(ready.dir, STANDIN_STEP_SECONDS="0.2"))
    end = runs.attempts(run)[0].end
    assert end is not None, first.stdout + first.stderr
    assert (first.returncode, end["kind"], end["rule"], end["limit"]) == (0, "ended early", "reward_collapse", 1.0)
    assert end["last_step"] % 7 == 0 and end["last_step"] >= end["step"] >= 3
    assert end["why"].startswith("stop.reward_collapse=1 at step ")

    def again(*more: str) -> convergence.Row:
        return convergence.make([frozen(tmp_path, *words, *more)], False, QueueLookup()).rows[0]

    kept = again("stop=grpo", "stop.reward_collapse=1")
    assert (kept.state.kind, kept.submit) == ("ended early", False)
    assert again().submit, "without the rule"
    with_stop(ready.dir, {})
    attempt(ready.dir, **attempt_env(ready.dir))
    second = runs.attempts(run)[1].end
    assert second is not None and second["kind"] == "done"
    began = [event.data["resumes_from"] for event in runs.load(run).events if event.kind == "engine"]
    assert began == [0, end["last_step"]]


def test_a_canary_is_no_part_of_a_study(tmp_path: Path) -> None:
    halving = {"rungs": [1], "keep": 0.34, "metric": "train/reward", "higher_is_better": True}
    manifest = {"terms": {"stop": STOP, "halving": halving}}
    assert Course.of(manifest, runs.Run(tmp_path)).goal(2) == 1
    assert Course.of(manifest, runs.Run(tmp_path), canary=True) == Course()


def test_without_rules_nothing_is_read(tmp_path: Path) -> None:
    judge = Course().judge(runs.Run(tmp_path), {}, lambda: 1 // 0, print)
    assert not judge.is_over()


def test_without_checkpoints_a_lost_run_ends_at_once(tmp_path: Path) -> None:
    rows = [{"step": 2, "train/reward": 1.0}, {"step": 3, "train/reward": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(map(metrics_file.line, rows)))
    said: list[str] = []
    config = {"checkpointing": {"enabled": False}}
    judge = Course(STOP).judge(runs.Run(tmp_path), config, lambda: 0, said.append)
    assert judge.is_over() and judge.is_over()
    assert said == [
        "stop.reward_collapse=1 at step 3: mean reward 0.5 over 1 steps, after 1; it ends now, without a checkpoint"
    ]
