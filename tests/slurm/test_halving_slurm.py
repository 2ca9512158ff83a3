"""A study on a real Slurm: rungs, promotions by other runs' attempts, a kill at a rung; none is lost or run twice."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from launching import SMALL, Lab, setting
from pace import paced

from nano_exp import cli, files
from nano_exp.store import metrics_file, runs
from nano_exp.study import book
from nano_exp.study.halving import Halving

pytestmark = pytest.mark.slurm
RULES = Halving((2, 4), 0.34, "train/reward")


def test_a_study_ends_with_its_best_and_every_run_has_one_history(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run.name=study", "grpo.max_num_steps=6", "parallel=2", "canary=false", setting("STEP_SECONDS", 0.5))
    rungs = ("halving.rungs=[2,4]", "halving.metric=train/reward")
    points = ("optimizer.lr=1e-6,2e-6,3e-6", "grpo.seed=1,2")
    lab.launch(*SMALL, *words, *rungs, *points)
    first = lab.runs()[0]
    lab.wait_step(first, 1)
    owner = runs.attempts(first.dir)[0].owner
    assert owner is not None
    os.kill(owner.pid, signal.SIGKILL)  # at its rung, or just before

    def settled() -> bool:
        return not lab.cluster.run("squeue", "-h", check=False).stdout.strip()

    lab.wait_for("the first jobs' ends", settled, 180)
    lab.launch(*SMALL, *words, *rungs, *points)  # what the kill left
    lab.wait_for("the study's end", lambda: settled() and set(states(lab)) == {"done", "paused"}, 180)
    assert states(lab) == {"done": 2, "paused": 4}
    pairs = book.members(lab.results, "study", RULES)
    for run, member in pairs:
        steps = [row["step"] for row in metrics_file.read(run.dir) if "train/reward" in row]
        reach = [2, 4, 6][member.level]
        assert steps == list(range(1, reach + 1)), f"{run.id}: each step once, up to where it may train"
        promoted = Counter(e.data["rung"] for e in run.events if e.kind == "promote")
        assert all(count == 1 for count in promoted.values()), "nobody is told twice"
    assert book.promote(lab.results, "study", RULES) == [], "nothing is left to decide"
    assert cli.main(["study", "study", "--results", str(lab.results)]) == 0
    shown = capsys.readouterr().out
    assert "step 2: 3 points, 3 reached it, " in shown and "full grid" in shown


def test_with_the_controller_away_a_promotion_waits_and_what_follows_comes_once(lab: Lab) -> None:
    words = ("run.name=away", "grpo.max_num_steps=2", "parallel=1", "canary=false", setting("STEP_SECONDS", paced(2)))
    rungs = ("halving.rungs=[1]", "halving.metric=train/reward", "after_training=export")
    points = "optimizer.lr=2e-5,1e-6,1e-7"  # one after another: the last one's end promotes the first
    lab.launch(*SMALL, *words, *rungs, points)
    best, second, last = sorted(lab.runs(), key=lambda run: run.record["place"])
    lab.wait_for("the last run's start", lambda: runs.attempts(last.dir))
    lab.cluster.tool("kill", "slurmctld", "--signal", "TERM")
    try:
        lab.wait_for("its end", lambda: runs.attempts(last.dir)[0].end)
        lab.wait_for("a question", lambda: "asking again" in files.tail(last.dir / "attempts" / "1" / "attempt.log"))
        assert runs.rungs_left(runs.load(best.dir)) == 1 and len(runs.attempts(best.dir)) == 1
    finally:
        lab.cluster.tool("start", "slurmctld")
    lab.wait_for("what follows the best run", lambda: list(best.dir.glob("export/step_*/nano_exp.json")))
    lab.wait_queue_empty()
    assert states(lab) == {"done": 1, "paused": 2}
    for run, steps in ((best, [1, 2]), (second, [1]), (last, [1])):
        assert [row["step"] for row in metrics_file.read(run.dir) if "train/reward" in row] == steps
        assert len(runs.attempts(run.dir)) == len(steps), "each rung in one attempt"
        assert [e.data["rung"] for e in runs.load(run.dir).events if e.kind == "promote"] == [0] * (len(steps) - 1)
        assert (run.dir / "export").exists() == (run is best)
    assert "nothing to submit" in lab.launch(*SMALL, *words, *rungs, points).text
    lab.cluster.run("scontrol", "reconfigure")  # the GPU of a job that ended meanwhile is taken for ever (Slurm 22.05)


def states(lab: Lab) -> Counter[str]:
    return Counter(line["state"] for line in lab.status().values())
