"""In which phase a run of NeMo RL is, from real output, made-up output and what lies on disk."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from nano_exp.engines.nemo_rl.run_phase import Phases

CORPUS = Path(__file__).parents[1] / "triage" / "corpus"
STEP = "=" * 25 + " Step {}/100 " + "=" * 25
SETUP = (
    "📊 Using log directory: /logs/exp_001",
    "▶ Setting up envs...",
    "▶ Setting up compute cluster...",
    "▶ Setting up model and training...",
    "(MegatronPolicyWorker[rank=3] pid=8, ip=10.0.0.3) Loading",
    "                  SETUP COMPLETE",
)


def phases(
    folder: Path, lines: Iterable[str] = (), clock: itertools.count[int] | None = None, **config: object
) -> Phases:
    ticks = clock or itertools.count(0, 100)
    made = Phases({"engine": {"name": "nemo_rl"}, **config}, folder, {}, lambda: float(next(ticks)))
    for line in lines:
        made.feed(line)
    return made


def course(folder: Path, lines: Iterable[str]) -> list[str]:
    """The phases that these lines go through."""
    made, found = phases(folder), ["environment"]
    for line in lines:
        made.feed(line)
        found += [made.now()] if made.now() != found[-1] else []
    return found


def test_a_real_run_goes_through_its_phases(tmp_path: Path) -> None:
    """NeMo RL v0.7.0 on a GPU, with Ray's metrics noise and its workers' coloured lines."""
    lines = (CORPUS / "ray_worker_lost-4" / "stdout.log").read_text().splitlines()
    found = course(tmp_path, lines)
    assert found[:8] == ["environment", "ray", "data", "ray", "vllm", "policy", "rollout", "validation"]
    assert {"step", "save"} <= set(found[8:])


@pytest.mark.parametrize("name", ["cuda_oom-14", "port_in_use-6", "model_missing-3"])
def test_a_real_run_that_dies_in_set_up_never_begins_its_rollout(tmp_path: Path, name: str) -> None:
    found = course(tmp_path, (CORPUS / name / "stdout.log").read_text().splitlines())
    assert found[1] == "ray"
    assert not {"rollout", "step"} & set(found)


def test_gyms_script_reads_its_data_before_it_starts_ray(tmp_path: Path) -> None:
    lines = [
        "📊 Using log directory: /logs/exp_001",
        "▶ Setting up data...",
        "Final config:",
        "▶ Setting up compute cluster...",
    ]
    assert course(tmp_path, lines) == ["environment", "ray", "data", "ray"]


def test_workers_that_start_side_by_side_do_not_turn_it_back(tmp_path: Path) -> None:
    vllm = "\x1b[36m(VllmAsyncGenerationWorker pid=5417)\x1b[0m INFO 11-28 22:01:35 [model.py:555] Resolved"
    assert course(tmp_path, [*SETUP[:5], vllm, SETUP[4], vllm]) == [
        "environment",
        "ray",
        "data",
        "ray",
        "vllm",
        "policy",
    ]


def test_the_training_loop_has_validations_and_saves(tmp_path: Path) -> None:
    results = ["📊 Validation Results:", "Saving checkpoint for step 1...", "📊 Training Results:"]
    lines = [STEP.format(1), "▶ Processing rewards...,", "▶ Starting validation at step 1...", *results, STEP.format(2)]
    found = course(tmp_path, [*SETUP, *lines])
    assert found[6:] == ["rollout", "step", "validation", "step", "save", "step"]


def test_a_batch_that_is_dropped_is_progress_and_an_empty_buffer_is_none(tmp_path: Path) -> None:
    dropped = phases(tmp_path, [*SETUP, *[STEP.format(3)] * 5])
    assert dropped.moves == 5
    waits = [STEP.format(3), "⏳ Buffer empty or not enough groups to form a full step, waiting..."]
    empty = phases(tmp_path, [*SETUP, *waits * 50])
    assert (empty.moves, empty.starved) == (1, False), "trajectories may come"
    empty.feed("(AsyncTrajectoryCollector pid=4177, ip=10.0.0.3) 🛑 Trajectory collection stopped")
    assert empty.starved
    for line in ("✅ Sampled 64 trajectory groups from buffer (avg age: 1.00 steps)", "📊 Training Results:"):
        empty.feed(line)
    assert not empty.starved, "the last of them sufficed for one more step"
    assert empty.moves == 2


def test_ray_over_several_nodes_comes_before_the_driver(tmp_path: Path) -> None:
    made = phases(tmp_path, cluster={"num_nodes": 2})
    (tmp_path / "phases.json").write_text(json.dumps({"attempt": 1.0}))
    assert made.now() == "ray"
    (tmp_path / "phases.json").write_text(json.dumps({"attempt": 1.0, "driver": 2.0}))
    assert made.now() == "environment"


def test_what_is_being_made_on_disk_is_said(tmp_path: Path) -> None:
    """uv and the conversion print nothing on stdout."""
    config = {
        "site": {"venv_dir": str(tmp_path / "venvs"), "hf_home": str(tmp_path / "hf")},
        "policy": {"model_name": "org/model", "megatron_cfg": {"enabled": True}, "generation": {"backend": "vllm"}},
    }
    made = phases(tmp_path, SETUP[:4], **config)
    assert made.now() == "vllm"
    worker = tmp_path / "venvs" / "nemo_rl.models.generation.vllm.vllm_worker.VllmGenerationWorker"
    (worker / "bin").mkdir(parents=True)
    (worker / "STARTED_ENV_BUILDER").touch()
    assert made.now() == "environment"
    (worker / "bin" / "python").touch()
    assert made.now() == "environment", "uv has made it and installs the packages"
    (worker / "STARTED_ENV_BUILDER").unlink()
    conversion = tmp_path / "hf" / "nemo_rl" / "org" / "model" / "iter_0000000"
    conversion.mkdir(parents=True)
    assert made.now() == "conversion"
    (conversion / "run_config.yaml").touch()
    assert made.now() == "vllm"


def test_the_disk_is_not_looked_at_all_the_time(tmp_path: Path) -> None:
    config = {"site": {"venv_dir": str(tmp_path)}, "policy": {"generation": {"backend": "vllm"}}}
    made = phases(tmp_path, SETUP[:4], itertools.count(0, 1), **config)
    assert made.now() == "vllm"
    worker = tmp_path / "x.VllmGenerationWorker"
    worker.mkdir()
    (worker / "STARTED_ENV_BUILDER").touch()
    os.utime(worker / "STARTED_ENV_BUILDER", (time.time(), time.time()))
    assert made.now() == "vllm"
    assert [made.now() for _ in range(5)][-1] == "environment"
