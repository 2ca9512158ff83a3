"""nano-exp status and logs on a real Slurm: an array that is throttled, held, and cancelled behind our back."""

from __future__ import annotations

from typing import Any

import pytest
from launching import HOLD, SMALL, Lab, setting

pytestmark = pytest.mark.slurm


def by_task(lab: Lab) -> dict[int, dict[str, Any]]:
    """The array's rows by task."""
    rows, jobs = lab.status(), {run.id: lab.job(run) for run in lab.runs()}
    return {int(job.partition("_")[2]): rows[run] for run, job in jobs.items() if "_" in job}


def test_an_array_is_read_right_throttled_held_requeued_and_cancelled(lab: Lab) -> None:
    lab.launch(*SMALL, "grpo.seed=1,2,3,4,5", "hydra.launcher.array_parallelism=2", setting("STEP_SECONDS", 60), code=0)
    array = lab.job(lab.runs()[0]).partition("_")[0]
    lab.wait_for("two running", lambda: len(lab.cluster.run("squeue", "-h", "-tR", "-o%i").stdout.split()) == 2)
    rows = by_task(lab)
    assert [rows[task]["state"] for task in range(5)] == ["running"] * 2 + ["pending"] * 3
    assert [rows[task]["job"] for task in range(5)] == [f"{array}_{task}" for task in range(5)]
    assert all(rows[task]["why"].endswith("(JobArrayTaskLimit)") for task in (2, 3, 4))

    lab.launch(*SMALL, "grpo.seed=9", HOLD)
    gone = lab.run(grpo__seed=9)
    lab.cluster.run("scancel", lab.job(gone))  # by hand: nothing in the store tells
    lab.cluster.run("scontrol", "uhold", f"{array}_3")
    lab.wait_for("output", lambda: "attempt 1 of" in lab.tool("logs", f"{array}_0", "--stream", "attempt"))
    lab.cluster.run("scontrol", "requeuehold", f"{array}_0")
    release = f"scontrol release {array}_0"
    lab.wait_for("held in the queue", lambda: by_task(lab)[0]["next"] == release)  # first it is COMPLETING
    rows = by_task(lab)
    assert (rows[3]["state"], rows[3]["next"]) == ("pending", f"scontrol release {array}_3")
    assert (rows[0]["state"], rows[0]["next"]) == ("pending", release)
    assert rows[1]["state"] == "running"
    assert rows[1]["gpu_hours"] > 0
    row = lab.status(gone.id)[gone.id]
    assert (row["state"], row["why"], row["next"]) == ("unstarted", "cancelled by root", f"nano-exp retry {gone.id}")
