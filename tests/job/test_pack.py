"""The parts of an allocation that several runs share, and what each is told of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from nano_exp import files
from nano_exp.job import pack
from nano_exp.job.pack import Part

SLURM = {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "SLURM_JOB_CPUS_PER_NODE": "16"}


def test_each_slot_has_gpus_and_cpus_of_its_own() -> None:
    assert pack.parts(2, 2, SLURM, range(8)) == [
        Part(("4", "5"), (0, 1, 2, 3), 8),
        Part(("6", "7"), (4, 5, 6, 7), 8),
    ]


def test_where_slurm_names_no_gpus_they_are_counted() -> None:
    assert [part.gpus for part in pack.parts(3, 1, {}, range(3))] == [("0",), ("1",), ("2",)]
    assert [part.gpus for part in pack.parts(2, 0, {}, range(2))] == [(), ()]


def test_fewer_cpus_than_slots_are_not_bound() -> None:
    assert pack.parts(4, 0, {}, range(2)) == [Part((), (), 1)] * 4


def test_an_attempt_is_told_of_its_part_alone() -> None:
    assert pack.environment(Part(("4", "5"), (), 8)) == {
        "CUDA_VISIBLE_DEVICES": "4,5",
        "SLURM_JOB_GPUS": "4,5",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_CPUS_PER_NODE": "8",
        "SLURM_CPUS_ON_NODE": "8",
    }
    assert "SLURM_JOB_GPUS" not in pack.environment(Part((), (), 8))


def test_a_job_finds_its_runs_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"shape": {"gpus_per_node": 1}, "runs": ["/x", "/y"]}
    several = {**alone, "runs": ["/a", "/b", "/c"], "pack": {"slots": 2, "allocations": 2}}
    files.write_json(tmp_path / "manifest.json", {"arrays": [alone, several]})
    assert pack.find(tmp_path, 0) is None
    assert pack.find(tmp_path, "canary") is None
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert pack.find(tmp_path, 1) == pack.Order(tmp_path, 1, 2, 1, [(1, Path("/b"))])
