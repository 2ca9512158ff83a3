"""`pack=N` on a real Slurm: runs that share an allocation, what ends one of them, and what takes its place."""

from __future__ import annotations

import os
import signal

import pytest
from launching import HOLD, SMALL, Lab, assert_executed_once, kinds, setting, train_steps
from pace import paced

from nano_exp.store import runs

pytestmark = pytest.mark.slurm

STEPS = 12
PACKED = (*SMALL, f"grpo.max_num_steps={STEPS}", setting("STEP_SECONDS", paced(1)), "pack=2", "parallel=4", HOLD)


def kill_attempt(run: runs.Run) -> None:
    owner = runs.attempts(run.dir)[-1].owner
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)


def states(lab: Lab, *of: runs.Run) -> list[str]:
    rows = lab.status()
    return [rows[run.id]["state"] for run in of]


def test_one_that_is_killed_or_cancelled_harms_none_and_those_cut_off_go_on(lab: Lab) -> None:
    """Two allocations, of seeds 1, 3, 5 and of 2, 4; the second one waits, and its runs are taken by the first."""
    said = lab.launch(*PACKED, "grpo.seed=1,2,3,4,5").text
    assert "packed: 2 allocations, at most 2 runs at once in each" in said
    killed, last, cancelled, taken, own = (lab.run(grpo__seed=seed) for seed in range(1, 6))
    first, second = lab.job(killed), lab.job(last)
    assert [lab.job(run) for run in (cancelled, taken, own)] == [first, second, first]
    lab.cluster.run("scontrol", "release", first)
    lab.wait_step(killed, 1)
    lab.wait_step(cancelled, 1)
    assert states(lab, killed, cancelled, own, taken) == ["running", "running", "pending", "pending"]

    kill_attempt(killed)
    lab.wait_step(own, 1)
    lab.tool("cancel", cancelled.id)
    lab.wait_step(taken, 1)
    assert lab.job(taken) == first
    assert states(lab, killed, cancelled, own, last) == ["failed", "cancelled", "running", "pending"]

    lab.cluster.run("scontrol", "requeue", first)
    lab.wait_ended(own, taken, attempt=2)
    lab.wait_ended(last)
    lab.cluster.run("scontrol", "release", second)
    lab.wait_queue_empty()
    for run in (own, taken):
        assert kinds(run) == ["stopped", "done"]
        assert train_steps(run) == list(range(1, STEPS + 1))
    assert_executed_once(last, STEPS)
    assert (kinds(killed), kinds(cancelled)) == (["failed"], ["cancelled"])
    assert states(lab, killed, cancelled) == ["failed", "cancelled"]
