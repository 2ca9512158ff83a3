"""A store of a sweep as it stands after some days, made in a moment and without training, for tests of its results.

    store = make(tmp_path)         # tmp_path/results with the name "lr_sweep" (24 runs) and "other" (1 run)

"lr_sweep" is 4 learning rates x 2 group sizes x 3 seeds on 8 GPUs of one node, 100 steps of 36 s (0.08 GPU-hours each):

    lr=1e-6, 3e-6, 1e-5 (the baseline's own, not typed), 3e-5;  num_generations_per_prompt=8, 16;  seed=42, 43, 44

- The best point is lr=3e-6 with 16; its reward is 0.05 above the next one's.
- Each run is done after one attempt, but for those of ODD: stopped and gone on, failed for good, lost, cancelled.
- lr=3e-5 with 16 diverges: its loss is NaN from step 60 on (the rewards stay finite).
- Metrics have NeMo RL's names; validation every 10 steps. Everything is a pure function of the point, so it repeats.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.store import metrics_file, runs, state
from nano_exp.store.runs import Owner

NAME, LAUNCH, JOB = "lr_sweep", "20260101-000000-abcd", "1200"
LRS, GROUPS, SEEDS = (1e-6, 3e-6, 1e-5, 3e-5), (8, 16), (42, 43, 44)
BASE_LR = 1e-5
STEPS, STEP_S, SETUP_S, GPUS = 100, 36.0, 300.0, 8
#: Unix time of the launch; every later time follows from it.
BEGAN = 1_767_225_600.0
#: Point (lr, group, seed) -> how its run ended, where not by itself after one attempt.
ODD = {
    (1e-6, 16, 43): "requeued",  # a time limit at step 60; the checkpoint was of step 50
    (1e-5, 8, 44): "failed",  # out of memory at step 30, and nobody retried
    (3e-5, 8, 43): "retried",  # failed at step 20 (checkpoint of step 10), retried to its end
    (3e-5, 16, 44): "lost",  # its node died at step 70
    (1e-6, 8, 44): "cancelled",  # after step 40
}
TARGET = {8: {1e-6: 0.45, 3e-6: 0.55, 1e-5: 0.52, 3e-5: 0.30}, 16: {1e-6: 0.50, 3e-6: 0.65, 1e-5: 0.60, 3e-5: 0.25}}


def make(folder: Path, steps: int = STEPS) -> Path:
    """The store; its path is folder/results."""
    results = folder / "results"
    launch = runs.launch_dir(results, LAUNCH)
    members = [(lr, group, seed) for lr in LRS for group in GROUPS for seed in SEEDS]
    folders = [results / NAME / f"r{number:010x}" for number in range(1, len(members) + 1)]
    (launch / "code" / "nano_exp").mkdir(parents=True)
    (launch / "code" / "nano_exp" / "trainer.py").write_text("EPSILON = 1e-8\n")
    arrays = [{"shape": {"nodes": 1, "gpus_per_node": GPUS}, "runs": [str(f) for f in folders]}]
    versions = {"python": "3.11.2", "torch": "2.13.0"}
    manifest = {"launch": LAUNCH, "where": "slurm", "arrays": arrays, "versions": versions, "created": BEGAN}
    _write(launch / "manifest.json", manifest)
    _write(launch / "git.json", {"commit": "1" * 40, "branch": "main", "dirty": False})
    _write(launch / "job-0.json", {"job": JOB, "time": BEGAN})
    for place, ((lr, group, seed), run_dir) in enumerate(zip(members, folders, strict=True)):
        overrides = ["model=nano_12b", "cluster=1n8g", f"grpo.num_generations_per_prompt={group}", f"grpo.seed={seed}"]
        overrides += [] if lr == BASE_LR else [f"optimizer.lr={lr:g}"]
        _run(run_dir, place, overrides, (lr, group, seed), steps)
    other = results / "other" / "r00000000ff"
    _run(other, 0, ["model=nano_12b", "cluster=1n8g"], (1e-6, 8, 42), steps, launched=False)
    return results


def rewards(lr: float, group: int, seed: int, steps: int = STEPS) -> list[float]:
    """What a run's rewards are, step by step: a curve to its point's target, the seed's own level, and noise."""
    dice = random.Random(f"{lr} {group} {seed}")
    level = TARGET[group][lr] + 0.01 * (seed - 43)
    return [level * (1 - math.exp(-5 * step / steps)) + dice.gauss(0, 0.004) for step in range(1, steps + 1)]


def _run(
    folder: Path, place: int, overrides: list[str], point: tuple[float, int, int], steps: int, launched: bool = True
) -> None:
    lr, group, seed = point
    config = {
        "grpo": {"max_num_steps": steps, "num_generations_per_prompt": group, "seed": seed},
        "optimizer": {"lr": lr},
        "policy": {"model_name": "nvidia/NVIDIA-Nemotron-Nano-12B-v2", "optimizer": {"kwargs": {"lr": lr}}},
        "checkpointing": {"checkpoint_dir": str(folder / "checkpoints")},
    }
    record = {
        "id": folder.name,
        "name": folder.parent.name,
        "digest": "d" * 64,
        "overrides": overrides,
        "choices": {"model": "nano_12b", "cluster": "1n8g"},
        "launch": LAUNCH,
        "place": place,
        "created": BEGAN,
        "user": "somebody",
        "engine": "nemo_rl",
        "nemo_rl": "v0.7.0",
        "max_steps": steps,
    }
    files.make_dir(folder / "events")
    (folder / "config.yaml").write_text(files.dump_yaml(config))
    _write(folder / "run.json", record)
    if not launched:
        return
    story = Story(folder, place, point, steps)
    story.event(BEGAN, "submit", launch=LAUNCH, array=0, task=place, after_attempt=0, local=None, user="somebody")
    story.tell(ODD.get(point, "done"))


class Story:
    """Writes what happened to one run."""

    def __init__(self, folder: Path, place: int, point: tuple[float, int, int], steps: int) -> None:
        self.folder, self.place, self.point, self.steps = folder, place, point, steps
        self.now = BEGAN + 60.0 * (place + 1)  # the queue
        self.attempts = 0
        self.rows: list[dict[str, Any]] = []
        self.dice = random.Random(f"loss {point}")

    def tell(self, how: str) -> None:
        part = self.steps / 100
        if how == "requeued":
            self.attempt(0, int(60 * part), "stopped", int(50 * part), "the allocation's time limit; checkpoint saved")
            self.attempt(int(50 * part), self.steps, "done", self.steps)
        elif how == "failed":
            self.attempt(0, int(30 * part), "failed", int(20 * part), "out of GPU memory", OUT_OF_MEMORY)
        elif how == "retried":
            self.attempt(0, int(20 * part), "failed", int(10 * part), "exit code 1")
            self.attempt(int(10 * part), self.steps, "done", self.steps)
        elif how == "lost":
            self.attempt(0, int(70 * part), "", 0)
        elif how == "cancelled":
            self.attempt(0, int(40 * part), "cancelled", int(40 * part), "scancel")
        else:
            self.attempt(0, self.steps, "done", self.steps)
        lines = "".join(metrics_file.line(row) for row in self.rows)
        (self.folder / runs.METRICS).write_text(lines)

    def attempt(
        self, first: int, last: int, kind: str, saved: int, why: str = "", diagnosis: Mapping[str, Any] | None = None
    ) -> None:
        """Steps first + 1 to last; the rows of steps that are trained again are replaced."""
        self.attempts += 1
        number, began = self.attempts, self.now
        owner = Owner(f"{JOB}_{self.place}", number - 1, "node1", 4000 + number, 1.0)
        path = self.folder / "attempts" / str(number)
        path.mkdir(parents=True)
        _write(path / "owner.json", vars(owner))
        self.event(began, "start", attempt=number, job=owner.job, host="node1", pid=owner.pid, launch=LAUNCH)
        logged = self.rows[-1]["step"] if self.rows else 0
        self.event(began + 1, "engine", attempt=number, engine="nemo_rl", resumes_from=first, logged=logged)
        self.rows = [row for row in self.rows if row["step"] <= first]
        self.now += SETUP_S
        curve = rewards(*self.point, self.steps)
        for step in range(first + 1, last + 1):
            self.now += STEP_S
            self.rows.append(self._row(step, curve[step - 1]))
            if step % max(1, self.steps // 10) == 0:
                self.rows.append({"step": step, "time": self.now, "validation/accuracy": curve[step - 1] - 0.02})
        log = path / "stdout.log"
        log.write_text(f"step {last}\n")
        self.now += 10.0
        if kind:
            end = {"attempt": number, "seconds": self.now - began, "kind": kind, "why": why, "exit_code": 0}
            end |= {"last_step": saved, "max_steps": self.steps, "setup_s": SETUP_S, "time": self.now}
            end |= {"diagnosis": dict(diagnosis)} if diagnosis else {}
            _write(path / "end.json", end)
            self.event(self.now, "end", end=end)
        else:
            os.utime(log, (self.now, self.now))
        self.now += 600.0  # the queue again

    def _row(self, step: int, reward: float) -> dict[str, Any]:
        lr, group, _ = self.point
        diverged = (lr, group) == (3e-5, 16) and step >= 0.6 * self.steps
        return {
            "step": step,
            "time": self.now,
            "train/reward": reward,
            "train/loss": math.nan if diverged else (0.05 - 0.0001 * step) * (1 + self.dice.gauss(0, 0.1)),
            "train/kl_penalty": 0.001 * step * lr / 1e-6,
            "train/total_num_tokens": 1000.0 * group,
            "train/mean_gen_tokens_per_sample": 200.0 + step,
            "timing/train/total_step_time": STEP_S,
            "performance/samples_per_sec_per_gpu": 3.0,
        }

    def event(self, moment: float, kind: str, **data: Any) -> None:
        name = f"{int(moment * 1e9):020d}-{kind}-{len(kind):06x}.json"
        _write(self.folder / "events" / name, {"time": moment, "kind": kind, **data})


OUT_OF_MEMORY = {
    "cause": "gpu_out_of_memory",
    "title": "out of GPU memory in training",
    "remedy": "policy.train_micro_batch_size=1",
    "fault": "config",
}


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def commands(folder: Path, running: Sequence[int] = (), accounting: str = "") -> str:
    """squeue and sacct as scripts, for a PATH that begins with what is returned.

    Parameters
    ----------
    running: places of runs of the sweep that execute
    accounting: what sacct prints
    """
    path = folder / "bin"
    path.mkdir(exist_ok=True)
    name = state.job_name(LAUNCH, 0, NAME)
    queue = "".join(f"{JOB}_{place}|RUNNING|{name}|None\n" for place in running)
    for command, text in (("squeue", queue), ("sacct", accounting)):
        (path / f"{command}.txt").write_text(text)
        (path / command).write_text(f"#!/bin/sh\ncat {path}/{command}.txt\n")
        (path / command).chmod(0o755)
    return str(path)
