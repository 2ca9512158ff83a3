"""A study on a real Slurm: rungs, promotions by other runs' attempts, a kill at a rung; none is lost or run twice."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from launching import SMALL, Lab, setting

from nano_exp import cli
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


def states(lab: Lab) -> Counter[str]:
    return Counter(line["state"] for line in lab.status().values())
