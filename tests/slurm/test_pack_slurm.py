"""`pack=N` on a real Slurm: runs that share an allocation, what ends one of them, and what takes its place."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest
from launching import HOLD, SMALL, Lab, assert_executed_once, checkpoints, kinds, no_ray_beside, setting, train_steps
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


#: Two that start Ray; they end when they are told to.
WITH_RAY = (*SMALL[:-1], "grpo.max_num_steps=1000", setting("RAY", 1), setting("STEP_SECONDS", paced(1)), "pack=2")


def own(run: runs.Run) -> dict[str, str]:
    """What a run was told of its Ray, and what it found."""
    folder = run.dir / "attempts" / "1"
    exported = dict(re.findall(r"^export (\w+)=(.*)$", (folder / "nodes" / "node.sh").read_text(), re.MULTILINE))
    found = re.findall(r"(Connected to.*|A worker on.*)", (folder / "stdout.log").read_text())
    names = ("RAY_TMPDIR", "NX_HEAD_PORTS", "NX_WORKER_PORTS", "NX_NODE_PORTS")
    return {**{name: exported[name] for name in names}, "worker": found[1], "ray": found[0]}


def rays(of: dict[str, str]) -> dict[int, str]:
    """What lives of a run's Ray: process id -> the name of its program."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text(errors="replace").split("\0")
            if of["RAY_TMPDIR"] in " ".join(words):
                found[int(folder.name)] = Path(words[0]).name
    return found


def test_runs_of_nemo_rl_beside_each_other_have_a_ray_each(lab: Lab) -> None:
    pytest.importorskip("ray")
    with no_ray_beside(alone=False):
        lab.launch(*WITH_RAY, "slurm.requeue=false", "grpo.seed=1,2")
        killed, other = (lab.run(grpo__seed=seed) for seed in (1, 2))
        assert lab.job(killed) == lab.job(other)
        lab.wait_step(killed, 1, seconds=400)
        lab.wait_step(other, 1, seconds=400)
        ours, theirs = own(killed), own(other)
        assert ours.pop("ray") == theirs.pop("ray") == "Connected to existing Ray cluster: 1 GPUs, 1 nodes"
        assert all(ours[name] != theirs[name] for name in ours), (ours, theirs)

        os.kill(next(pid for pid, name in rays(ours).items() if name == "raylet"), signal.SIGKILL)
        lab.wait_ended(killed)
        lab.wait_step(other, checkpoints(other)[-1] + 2)
        lab.tool("cancel", other.id)
        lab.wait_queue_empty()
        assert (kinds(killed), kinds(other)) == (["failed"], ["cancelled"])
        assert (rays(ours), rays(theirs)) == ({}, {})
        assert not Path(ours["RAY_TMPDIR"]).exists() and not Path(theirs["RAY_TMPDIR"]).exists()


@pytest.mark.thorough
def test_a_study_in_one_job_ends_with_its_best_and_what_follows_comes_once(lab: Lab) -> None:
    words = ("run.name=study", "grpo.max_num_steps=6", "pack=2", "parallel=2", setting("STEP_SECONDS", paced(0.5)))
    rungs = ("halving.rungs=[2,4]", "halving.metric=train/reward", "after_training=export")
    lab.launch(*SMALL, *words, *rungs, "optimizer.lr=1e-6,2e-6,3e-6", "grpo.seed=1,2")
    lab.wait_for("the study's end", lambda: not lab.queued(), 400)
    found = sorted(lab.runs(), key=lambda run: run.id)
    ended = {run.id: kinds(run)[-1] for run in found}
    assert sorted(ended.values()) == ["done", "done", *["paused"] * 4]
    assert len({lab.job(run).partition("_")[0] for run in found}) == 1, "promotions took slots of the one job"
    for run in found:
        reached = train_steps(run)
        assert reached == list(range(1, len(reached) + 1)) and len(reached) in (2, 4, 6), f"{run.id}: each step once"
        assert len(list(run.dir.glob("export/step_*/nano_exp.json"))) == (ended[run.id] == "done")
