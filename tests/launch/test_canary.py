"""The canary: two steps of the first run, and nothing of that run touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import Answer, attempt, frozen, standin

from nano_exp import files
from nano_exp.job import canary_end
from nano_exp.launch import convergence, job_arrays, staging
from nano_exp.launch.terms import Terms
from nano_exp.store import identity, metrics_file, run_config, runs


def launch(folder: Path, *overrides: str) -> job_arrays.Launch:
    """A launch with a canary that has written everything and sent nothing."""
    wanted = [frozen(folder, *standin(), *overrides, f"grpo.seed={seed}") for seed in (1, 2)]
    made = job_arrays.arrange(
        convergence.make(wanted, False, Answer([])).rows, "L", folder / "results", Terms(canary=True)
    )
    staging.prepare(made, "slurm", {}, [])
    return made


def test_it_is_the_first_run_with_two_steps_and_folders_of_its_own(tmp_path: Path) -> None:
    outside = [f"checkpointing.checkpoint_dir={tmp_path}/ckpt", f"logger.log_dir={tmp_path}/log"]
    made = launch(tmp_path, *outside)
    assert made.canary is not None
    (row,) = made.canary.rows
    first = made.arrays[0].rows[0]
    assert row.dir == made.dir / "canary" / "nano_12b" / f"{first.id}-canary"
    assert set(identity.differences(first.config, row.config)) == {"grpo.max_num_steps"}
    assert row.config["grpo"]["max_num_steps"] == 2
    assert row.config["checkpointing"]["checkpoint_dir"] == f"{row.dir}/checkpoints"
    assert row.config["logger"]["log_dir"] == f"{row.dir}/logs"
    assert row.config["logger"]["wandb_enabled"] is False
    assert row.config["logger"]["wandb"]["id"] != first.config["logger"]["wandb"]["id"]
    assert runs.load(row.dir).config() == run_config.remembered(row.config)
    assert [run.id for run in runs.find(made.results)] == [r.id for a in made.arrays for r in a.rows]


def test_a_run_of_one_step_has_a_canary_of_one(tmp_path: Path) -> None:
    made = launch(tmp_path, "grpo.max_num_steps=1")
    assert made.canary is not None
    assert made.canary.rows[0].config["grpo"]["max_num_steps"] == 1


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ({"kind": "done"}, ""),
        ({"kind": "failed", "why": "out of memory"}, "the canary failed: out of memory"),
        ({"kind": "stopped", "why": "SIGTERM"}, "the canary was stopped: SIGTERM"),
        ({"kind": "failed"}, "the canary failed"),
    ],
)
def test_only_a_canary_that_is_done_lets_the_arrays_start(end: dict[str, str], why: str) -> None:
    assert canary_end.failed(end) == why


def test_an_attempt_executes_it_and_takes_its_checkpoints_away(tmp_path: Path) -> None:
    made = launch(tmp_path, "grpo.max_num_steps=3", "checkpointing.save_period=1")
    assert made.canary is not None
    done = attempt(made.dir, "canary")
    assert done.returncode == 0, done.stdout + done.stderr
    run = made.canary.rows[0].dir
    assert [a.end and a.end["kind"] for a in runs.attempts(run)] == ["done"]
    assert max(row["step"] for row in metrics_file.read(run)) == 2
    assert not (run / "checkpoints").exists()
    for array in made.arrays:
        for row in array.rows:
            assert not (row.dir / "attempts").exists()


def test_one_that_fails_stops_the_launch_in_words(tmp_path: Path) -> None:
    made = launch(tmp_path, "+site.env.STANDIN_FAIL_AT_STEP=1")
    done = attempt(made.dir, "canary")
    assert done.returncode != 0
    why = files.read_json(made.dir / "halted.json")["why"]
    assert why.startswith("the canary failed: ")
    task = attempt(made.dir, 0, "--task", "1")
    assert task.returncode == 75  # what waits for it with afterok must not start
    assert f"does not start: {why}" in task.stdout
    run = made.arrays[0].rows[1].dir
    now = Answer([]).state(runs.load(run))
    assert (now.kind, now.why) == ("cancelled", why)
    assert not (run / "attempts").exists()
