"""Peaks of GPU memory by phase: what nvidia-smi prints, which phase it is, what is written, and that nothing breaks."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from nano_exp.job import gpu_memory
from nano_exp.job.gpu_memory import Gpu, Phase, Sampler

SAID = """0, NVIDIA H100 80GB HBM3, 81559, 1024, 550.54.15
1, NVIDIA H100 80GB HBM3, 81559, 2048, 550.54.15
2, NVIDIA H100 80GB HBM3, [Unknown Error], [Unknown Error], 550.54.15
"""


def gpu(index: int, used: float) -> Gpu:
    return Gpu(index, "NVIDIA H100 80GB HBM3", 81559, used, "550.54.15")


def test_lines_of_nvidia_smi_with_a_broken_gpu() -> None:
    assert gpu_memory.parse(SAID) == [gpu(0, 1024), gpu(1, 2048)]
    assert gpu_memory.parse("No devices were found\n") == []


def test_gpus_of_other_jobs_are_left_out() -> None:
    both = [gpu(0, 1), gpu(1, 2)]
    assert gpu_memory.mine(both, {"CUDA_VISIBLE_DEVICES": "1"}) == [gpu(1, 2)]
    assert gpu_memory.mine(both, {}) == both
    assert gpu_memory.mine(both, {"CUDA_VISIBLE_DEVICES": "GPU-8f2a"}) == both


def test_the_phase_follows_the_engines_output(tmp_path: Path) -> None:
    log = tmp_path / "stdout.log"
    phase = Phase(log)
    assert phase() == "run"  # nothing said yet
    log.write_text("▶ Setting up model\n▶ Generating responses")
    assert phase() == "setup"  # the last line is not whole
    with log.open("a") as file:
        file.write(" ...\nstep 1\n")
    assert phase() == "generation"
    with log.open("a") as file:
        file.write("▶ Training policy\n")
    assert phase() == "train"


def sampler(folder: Path, answers: list[list[Gpu] | None], phases: list[str]) -> Sampler:
    return Sampler(folder, {"nemo_rl": "v0.7.0"}, lambda: phases.pop(0), 0.0, lambda: answers.pop(0))


def test_the_highest_of_each_phase_and_gpu_is_kept(tmp_path: Path) -> None:
    answers: list[list[Gpu] | None] = [
        [gpu(0, 1024), gpu(1, 2048)],
        [gpu(0, 3072), gpu(1, 512)],
        [gpu(0, 9), gpu(1, 9)],
    ]
    made = sampler(tmp_path, answers, ["train", "train", "refit"])
    for _ in range(3):
        assert made.sample()
    made.write()
    record = json.loads((tmp_path / "peaks.json").read_text())
    assert record["gib"] == {"train": [3.0, 2.0], "refit": [0.009, 0.009]}
    assert (record["gpu"], record["gpus"], record["samples"]) == ("NVIDIA H100 80GB HBM3", 2, 3)
    assert record["versions"] == {"nemo_rl": "v0.7.0", "driver": "550.54.15"}


def test_without_nvidia_smi_there_is_no_file_and_no_thread_left(tmp_path: Path) -> None:
    made = sampler(tmp_path, [None], ["run"])
    made.start()
    made.stop()
    assert list(tmp_path.iterdir()) == []
    assert all(thread.name != "peaks" for thread in threading.enumerate())


def test_an_answer_that_fails_once_is_asked_again(tmp_path: Path) -> None:
    enough = threading.Event()
    answers: list[list[Gpu] | None] = [[gpu(0, 1024)], None, [gpu(0, 2048)]]

    def ask() -> list[Gpu] | None:
        if answers:
            return answers.pop(0)
        enough.set()
        return [gpu(0, 1)]

    made = Sampler(tmp_path, {}, lambda: "train", 0.0, ask)
    made.start()
    assert enough.wait(10)
    made.stop()
    assert json.loads((tmp_path / "peaks.json").read_text())["gib"] == {"train": [2.0]}


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path: Path) -> None:
    made = sampler(tmp_path / "gone", [[gpu(0, 1024)]], ["train"])
    assert made.sample()
    made.write()
    assert not (tmp_path / "gone").exists()


def test_an_attempt_records_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3, 81559, 4096, 550.54.15'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with gpu_memory.recorded(tmp_path, {"engine": {"name": "nemo_rl"}, "nemo_rl": {"version": "v0.7.0"}}):
        pass
    record = json.loads((tmp_path / "peaks.json").read_text())
    assert record["gib"] == {"run": [4.0]}
    assert record["versions"] == {"engine": "nemo_rl", "nemo_rl": "v0.7.0", "driver": "550.54.15"}
