"""The parts of an allocation that several runs share, and what each is told of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import intend, make_attempt, make_run

from nano_exp import files
from nano_exp.engines import parts, slots
from nano_exp.engines.parts import Part
from nano_exp.job import pack, rung_end
from nano_exp.store import runs, state
from nano_exp.store.runs import Owner

OWNER = Owner("12_0", 0, "node1", 7, 1.0)

SLURM = {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "SLURM_JOB_CPUS_PER_NODE": "16", "SLURM_MEM_PER_NODE": "3000"}


def test_each_slot_has_gpus_and_cpus_of_its_own() -> None:
    assert parts.parts(2, 2, SLURM, range(8)) == [
        Part(("4", "5"), (0, 1, 2, 3), 8, 1500),
        Part(("6", "7"), (4, 5, 6, 7), 8, 1500),
    ]


def test_where_slurm_names_no_gpus_they_are_counted() -> None:
    assert [part.gpus for part in parts.parts(3, 1, {}, range(3))] == [("0",), ("1",), ("2",)]
    assert [part.gpus for part in parts.parts(2, 0, {}, range(2))] == [(), ()]


def test_fewer_cpus_than_slots_are_not_bound() -> None:
    assert parts.parts(4, 0, {"SLURM_MEM_PER_CPU": "1000"}, range(2)) == [Part((), (), 1, 500)] * 4


def test_an_attempt_is_told_of_its_part_alone() -> None:
    assert parts.environment(Part(("4", "5"), (), 8)) == {
        "CUDA_VISIBLE_DEVICES": "4,5",
        "SLURM_JOB_GPUS": "4,5",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_CPUS_PER_NODE": "8",
        "SLURM_CPUS_ON_NODE": "8",
    }
    assert "SLURM_JOB_GPUS" not in parts.environment(Part((), (), 8))
    assert slots.told(parts.environment(Part(("4",), (), 8, 1500, 20900))) == slots.Slot(20900, 1500)


def test_a_job_finds_its_runs_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"shape": {"gpus_per_node": 1}, "runs": ["/x", "/y"]}
    several = {**alone, "runs": ["/a", "/b", "/c"], "pack": {"slots": 2, "allocations": 2}}
    files.write_json(tmp_path / "manifest.json", {"arrays": [alone, several]})
    assert pack.find(tmp_path, 0) is None
    assert pack.find(tmp_path, "canary") is None
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert pack.find(tmp_path, 1) == pack.Order(
        tmp_path, 1, 1, 2, 1, [(1, Path("/b"))], [(0, Path("/a")), (2, Path("/c"))]
    )


def test_a_free_slot_takes_what_another_allocation_has_not_begun(tmp_path: Path) -> None:
    order = pack.Order(runs.launch_dir(tmp_path, "L"), 0, 1, 2, 1, [])
    waits, begun, over, elsewhere = (make_run(tmp_path, run=f"r{n}") for n in range(4))
    for folder in (waits, begun, over):
        intend(folder, task=0)
    runs.record_event(elsewhere, "submit", durable=False, launch="M", array=0, task=0, after_attempt=0)
    make_attempt(begun, 1, OWNER)
    make_attempt(over, 1, OWNER, {"kind": "failed"})
    assert [pack.take(folder, order) for folder in (waits, begun, over, elsewhere)] == [True, False, False, False]
    sent = state.submission(runs.load(waits))
    assert sent is not None and (sent.launch, sent.task) == ("L", 1)
    runs.record_event(waits, "cancel", durable=False, job="12_1")
    assert not pack.take(waits, order)


def test_a_run_that_goes_on_from_a_rung_takes_a_slot_of_the_job_that_decided_it(tmp_path: Path) -> None:
    decides, paused = (make_run(tmp_path, run=f"r{n}") for n in range(2))
    for folder, task in ((decides, 1), (paused, 0)):
        data = {"launch": "L", "array": 0, "task": task, "after_attempt": 0, "packed": True}
        runs.record_event(folder, "submit", durable=False, **data)
        make_attempt(folder, 1, OWNER, {"kind": "paused", "rung": 0})
    order = pack.Order(runs.launch_dir(tmp_path, "L"), 0, 1, 2, 1, [(1, decides)], [(0, paused)], study=True)
    beside = state.submission(runs.load(decides))
    said: list[str] = []
    assert not rung_end.takes_a_slot(runs.load(paused), None, said.append)
    assert rung_end.takes_a_slot(runs.load(paused), beside, said.append) and "goes on in this job" in said[0]
    sent = state.submission(runs.load(paused))
    assert sent is not None and (sent.task, sent.after_attempt) == (1, 1)
    assert pack.going_on(order, set()) == [(0, paused)]
    assert pack.going_on(order, {0}) == []
