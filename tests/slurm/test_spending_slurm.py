"""What runs cost on a real Slurm: by the runs' own files and by accounting, and a budget that ends them."""

from __future__ import annotations

import pytest
from launching import SMALL, Lab, setting
from pace import limit

from nano_exp import cli
from nano_exp.results import Run, load_results
from nano_exp.store import runs

pytestmark = pytest.mark.slurm


def test_files_and_accounting_agree_and_a_spent_budget_starts_nothing(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("grpo.max_num_steps=6", "run.name=spending", setting("STEP_SECONDS", 1))
    lab.launch(*SMALL, *steps, "budget=1e-6")
    (run,) = lab.runs()
    lab.wait_step(run, 2)
    job = lab.job(run)
    lab.cluster.run("scontrol", "requeue", job, check=True)
    lab.wait_for("the budget's word", lambda: runs.load(run.dir).last("cancel"))
    lab.wait_for("the job's end", lambda: not lab.cluster.run("squeue", "-h", "-j", job, check=False).stdout.strip())
    said = lab.status()[run.id]
    assert (said["state"], len(runs.attempts(run.dir))) == ("budget", 1), "the second start claimed nothing"
    assert "of its budget of 1e-06 GPU-hours" in said["why"]
    assert "budget=" in said["next"]
    assert cli.main(["retry", run.id, "--results", str(lab.results)]) == 3
    assert "nano-exp retry spending budget=10 " in capsys.readouterr().err
    files = load_results(lab.results, ["spending"], accounting=False).runs[0].spells[0]

    def by_slurm() -> Run:
        return load_results(lab.results, ["spending"]).runs[0]

    lab.wait_for("accounting", lambda: by_slurm().spells[0].accounted)
    theirs = by_slurm().spells[0]
    assert files.gpus == theirs.gpus == 1
    assert -1 <= files.began - theirs.began <= limit(2), "both begin with the allocation, sacct's in whole seconds"
    assert abs(files.seconds - theirs.seconds) <= limit(3)
    assert by_slurm().cost.source == "sacct"
