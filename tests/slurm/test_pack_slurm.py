"""`pack=N` on a real Slurm: runs that share one allocation, and what ends one of them."""

from __future__ import annotations

import os
import signal

import pytest
from launching import SMALL, Lab, assert_executed_once, kinds, setting, train_steps

from nano_exp import files
from nano_exp.store import runs

pytestmark = pytest.mark.slurm

STEPS = 12
PACKED = (*SMALL, f"grpo.max_num_steps={STEPS}", setting("STEP_SECONDS", 0.5), "pack=2", "parallel=2")


def pid(run: runs.Run) -> int:
    """Of the attempt that executes it."""
    owner = runs.attempts(run.dir)[-1].owner
    assert owner is not None
    return owner.pid


def gpu(run: runs.Run, attempt: int = 1) -> str:
    """What its attempt was given."""
    return str(files.read_json(run.dir / "attempts" / str(attempt) / "owner.json"))


def test_one_that_is_killed_or_cancelled_harms_none_and_those_cut_off_go_on(lab: Lab) -> None:
    said = lab.launch(*PACKED, "grpo.seed=1,2,3,4,5").text
    assert "packed: 1 allocation, at most 2 runs at once" in said
    killed, cancelled, third, fourth, last = (lab.run(grpo__seed=seed) for seed in range(1, 6))
    job = lab.job(killed)
    assert job.isdigit() and {lab.job(run) for run in lab.runs()} == {job}
    lab.wait_step(killed, 1)
    lab.wait_step(cancelled, 1)
    states = {run: row["state"] for run, row in lab.status().items()}
    assert [states[run.id] for run in (killed, cancelled, third, last)] == ["running", "running", "pending", "pending"]

    os.kill(pid(killed), signal.SIGKILL)
    lab.tool("cancel", cancelled.id)
    lab.wait_step(third, 1)
    lab.wait_step(fourth, 1)
    states = {run: row["state"] for run, row in lab.status().items()}
    assert [states[run.id] for run in (killed, cancelled, third, last)] == ["failed", "cancelled", "running", "pending"]

    lab.cluster.run("scontrol", "requeue", job)
    lab.wait_ended(last)
    lab.wait_ended(third, fourth, attempt=2)
    lab.wait_queue_empty()
    for run in (third, fourth):
        assert kinds(run) == ["stopped", "done"]
        assert train_steps(run) == list(range(1, STEPS + 1))
    assert_executed_once(last, STEPS)
    assert (kinds(killed), kinds(cancelled)) == (["failed"], ["cancelled"])
    states = {run: row["state"] for run, row in lab.status().items()}
    assert [states[run.id] for run in (killed, cancelled)] == ["failed", "cancelled"]
