"""A launch of several job arrays on a real Slurm that takes three tasks an array at most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from large_sweep import QUICK, interrupted_sweep
from launching import Lab, opened, setting
from minicluster_tool import MiniCluster, brought_up
from pace import limit

from nano_exp.store import runs

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def small_arrays() -> Iterator[MiniCluster]:
    with brought_up("--fast", "--max-array-size", "3") as cluster:
        yield cluster


@pytest.fixture
def lab(small_arrays: MiniCluster, tmp_path: Path) -> Iterator[Lab]:
    with opened(small_arrays, tmp_path / "launch") as made:
        yield made


def test_a_sweep_of_three_shapes_in_chunks_is_interrupted_and_converges(lab: Lab) -> None:
    watched = interrupted_sweep(lab, seeds=4, parallel=7, seconds=240)
    assert 1 <= watched.most <= 7 and watched.most_shares <= 7, watched


def test_failures_stop_what_waits_and_a_dependency_is_kept(lab: Lab) -> None:
    failing = (*QUICK, "run.name=failing", "grpo.seed=1,2,3,4,5", setting("FAIL_AT_STEP", 1))
    begin = f"+hydra.launcher.additional_parameters.begin=now+{limit(4):.0f}"
    lab.launch(*failing, "parallel=1", "fail_fast=1", begin)
    lab.launch(*QUICK, "run.name=later", "after=failing")
    waits = lab.run(run__name="later")
    assert "afterok:" in lab.scontrol(waits)["Dependency"]
    lab.wait_queue_empty()
    table = lab.status()
    states = sorted(row["state"] for row in table.values() if row["name"] == "failing")
    assert states == ["cancelled"] * 4 + ["failed"]
    whys = {row["why"] for row in table.values() if row["state"] == "cancelled"}
    assert len(whys) == 1 and whys.pop().startswith("fail_fast=1: 1 failed")
    assert table[waits.id]["state"] == "unstarted"  # what it waited for never ended well
    assert [runs.attempts(run.dir) for run in lab.runs() if run.name == "later"] == [[]]

    said = lab.launch(*QUICK, "run.name=later", "after=failing", code=2).text
    assert "is failed" in said or "is cancelled" in said
