"""slurm/train.sbatch and slurm/sweep.sbatch on a real Slurm, sent with plain sbatch."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import ROOT, SMALL, Lab, assert_executed_once, at, kinds, opened, setting, train_steps
from minicluster_tool import MiniCluster
from pace import limit, paced

from nano_exp.store import runs

pytestmark = pytest.mark.slurm
ONE_GPU = ("--gpus-per-node=1", "--cpus-per-task=1")


@pytest.fixture
def lab(minicluster: MiniCluster, tmp_path: Path) -> Iterator[Lab]:
    """A launch folder, and a copy of the checkout of its own to edit."""
    with opened(minicluster, tmp_path / "launch") as made:
        made.root = tmp_path / "checkout"
        for name in ("conf", "nano_exp"):
            shutil.copytree(ROOT / name, made.root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        (made.root / "slurm").mkdir()
        for name in ("launch.py", "slurm/train.sbatch", "slurm/sweep.sbatch"):
            shutil.copy(ROOT / name, made.root / name)
        yield made


def send(lab: Lab, *words: str) -> str:
    """sbatch in the launch folder, as typed; the job's id."""
    env = {**lab.env, "NANO_EXP_PYTHON": sys.executable}
    argv = ["sbatch", "--parsable", *words]
    done = subprocess.run(argv, cwd=lab.folder, env=env, capture_output=True, text=True, timeout=limit(60), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_gone(lab: Lab, *jobs: str) -> None:
    lab.wait_for("the end of the jobs", lambda: {lab.cluster.job(job)["JobState"] for job in jobs} <= ENDED)


ENDED = {"COMPLETED", "FAILED"}


def test_train_sbatch_freezes_once_and_sweep_sbatch_runs_the_points_of_a_launch(lab: Lab) -> None:
    train = str(lab.root / "slurm" / "train.sbatch")
    mine = (*SMALL, "grpo.max_num_steps=12", "grpo.seed=9")
    job = send(lab, *ONE_GPU, train, *mine, setting("STEP_SECONDS", paced(1)))
    wrong = send(lab, *ONE_GPU, train, *mine, "cluster.num_nodes=2")
    points = (*SMALL, "grpo.seed=1,2,3")
    frozen = lab.launch(*points, "submit=false").text
    table = lab.status()
    assert [row["state"] for row in table.values()].count("frozen") == 3

    # The run of train.sbatch is in the store as any other, and a launch of the same config leaves it alone.
    lab.wait_for("the job's run", lambda: len(lab.runs()) == 4)
    run = lab.run(grpo__seed=9)
    lab.wait_step(run, 2)
    assert [(r["state"], r["job"]) for r in lab.status(run.id).values()] == [("running", job)]
    assert "nothing to submit" in lab.launch(*mine).text

    # It is requeued while conf/ and the code are no longer what they were.
    before = run.config()
    (lab.root / "nano_exp" / "__init__.py").write_text("raise RuntimeError('the edited code was run')\n")
    (lab.root / "conf" / "config.yaml").write_text("broken: [\n")
    lab.cluster.run("scontrol", "requeue", job)

    # The printed command, typed as it is, sends the three points; twice, to execute each once all the same.
    command = next(line.strip() for line in frozen.splitlines() if line.strip().startswith("sbatch "))
    array, again = (send(lab, *shlex.split(command)[1:]) for _ in range(2))
    three = [lab.run(grpo__seed=seed) for seed in (1, 2, 3)]
    lab.wait_ended(*three)
    wait_gone(lab, wrong)
    for point in three:
        assert_executed_once(point)
    owners = [a.owner.job for point in three for a in runs.attempts(point.dir) if a.owner]
    assert {owner.split("_")[0] for owner in owners} <= {array, again}
    assert sorted(owner.split("_")[1] for owner in owners) == ["0", "1", "2"]

    said = (lab.folder / f"nano-exp-{wrong}.out").read_text()
    assert re.search(r"job \d+ has 1 x [18] GPUs", said), said  # an exclusive node: all of its GPUs
    assert f"fix: sbatch -N2 --gpus-per-node=1 --cpus-per-task=1 {train} model=nano_12b" in said
    assert lab.cluster.job(wrong)["ExitCode"] == "2:0"

    lab.wait_ended(run, attempt=2)
    assert kinds(run) == ["stopped", "done"]
    assert [(a.owner.job, a.owner.restart) for a in runs.attempts(run.dir) if a.owner] == [(job, 0), (job, 1)]
    assert train_steps(run) == list(range(1, 13))
    assert runs.load(run.dir).config() == before
    assert at(before, "grpo.seed") == 9
    wait_gone(lab, job)
    said = (lab.folder / f"nano-exp-{job}.out").read_text()
    assert f"restart 1 of job {job}: goes on with launch {run.record['launch']}" in said
    assert lab.cluster.job(job)["ExitCode"] == "0:0"
    assert len(lab.runs()) == 4
