"""after= on a real Slurm: no run starts before what it comes after, whatever becomes of the jobs on the way."""

from __future__ import annotations

import pytest
import yaml
from launching import HOLD, SMALL, Lab, setting
from pace import paced

from nano_exp.store import runs

pytestmark = pytest.mark.slurm

PRE = (*SMALL, "run.name=pre", "grpo.seed=1,2,3", "parallel=1")
POST = (*SMALL, "run.name=post", "grpo.seed=100", "after=pre")


def starts(lab: Lab) -> dict[str, float]:
    """name/seed -> when its first attempt began."""
    found = {}
    for run in lab.runs():
        began = [event.time for event in run.events if event.kind == "start"]
        if began:
            found[f"{run.name}/{run.config()['grpo']['seed']}"] = min(began)
    return found


def ended(run: runs.Run) -> float:
    return max(event.time for event in runs.load(run.dir).events if event.kind == "end")


def test_a_cancelled_predecessor_is_waited_for_in_the_job_that_it_is_tried_again_in(lab: Lab) -> None:
    lab.launch(*PRE, HOLD)
    lab.launch(*POST)
    first, _, third = (lab.run(run__name="pre", grpo__seed=seed) for seed in (1, 2, 3))
    post = lab.run(run__name="post")
    array = lab.job(first).partition("_")[0]
    assert f"afterok:{array}_*" in lab.scontrol(post)["Dependency"]  # as a whole: no edge of it is ever dropped
    assert "waits for pre/" in lab.status("post")[post.id]["why"]

    said = lab.tool("cancel", f"pre/{third.id}")
    assert f"post/{post.id} (pending" in said and "does not start before" in said
    assert f"nano-exp retry pre/{third.id}" == lab.status("post")[post.id]["next"]
    assert "post/" not in starts(lab)

    said = lab.tool("retry", third.id)
    assert "parallel=1: after job" in said and f"{post.id} waits for" in said
    for job in (array, lab.job(third)):
        lab.cluster.run("scontrol", "release", job)
    lab.wait_ended(post)
    assert lab.status("post")[post.id]["state"] == "done"
    began = starts(lab)
    assert began["post/100"] > ended(third) > ended(first)
    assert began["pre/3"] > max(ended(lab.run(run__name="pre", grpo__seed=seed)) for seed in (1, 2))


def test_what_slurm_starts_too_early_goes_back_into_the_queue_or_does_not_start(lab: Lab) -> None:
    lab.launch(*SMALL, "run.name=pre", "grpo.seed=1,2", setting("STEP_SECONDS", paced(3)), HOLD)
    for seed in (100, 101):
        lab.launch(*SMALL, "run.name=post", f"grpo.seed={seed}", "after=pre")
    first, second = (lab.run(run__name="pre", grpo__seed=seed) for seed in (1, 2))
    early, vain = (lab.run(run__name="post", grpo__seed=seed) for seed in (100, 101))
    lab.cluster.run("scontrol", "release", lab.job(first).partition("_")[0])
    lab.wait_step(first, 1)
    # As a job that slurmctld has forgotten, or an edge that it has dropped: nothing is waited for any more.
    lab.cluster.run("scontrol", "update", f"JobId={lab.job(early)}", "Dependency=")
    waits_again = "waits again: pre/"
    lab.wait_for(
        "a look at the store",
        lambda: any(waits_again in str(event.data.get("text")) for event in runs.load(early.dir).events),
    )
    assert lab.status("post")[early.id]["state"] in ("pending", "running")  # it is being put back
    lab.wait_for("its new dependency", lambda: "afterok:" in lab.scontrol(early).get("Dependency", ""))
    assert runs.attempts(early.dir) == []

    lab.tool("cancel", f"pre/{second.id}")
    lab.cluster.run("scontrol", "update", f"JobId={lab.job(vain)}", "Dependency=")
    lab.wait_for("its refusal", lambda: runs.load(vain.dir).last("cancel"))
    row = lab.status("post")[vain.id]
    assert row["state"] == "cancelled" and row["why"].startswith(f"it comes after pre/{second.id} (cancelled)")
    assert row["next"] == f"nano-exp retry pre/{second.id} {vain.id}"
    # The other one went back behind the run that was then cancelled, so that Slurm has dropped it.
    assert f"left the queue: nano-exp retry {early.id}" in lab.tool(*row["next"].split()[1:])
    lab.cluster.run("scontrol", "release", lab.job(second))  # held as it was at first
    lab.tool("retry", early.id)
    lab.wait_ended(vain, early)
    assert starts(lab)["post/101"] > ended(second)
    assert {row["state"] for row in lab.status().values()} == {"done"}


def test_a_run_starts_from_the_weights_of_one_that_was_still_to_start(lab: Lab) -> None:
    lab.launch(*SMALL, "run.name=pre", HOLD)
    words = (*SMALL, "run.name=post", "init_from=pre")
    assert "whose weights it starts from: --dependency=afterok:" in lab.launch(*words).text
    pre, post = (lab.run(run__name=name) for name in ("pre", "post"))
    row = lab.status("post")[post.id]
    assert (row["why"], row["origin"]["step"]) == (f"waits for pre/{pre.id} (pending)", "last")
    lab.cluster.run("scontrol", "release", lab.job(pre))
    lab.wait_ended(post)
    row = lab.status("post")[post.id]
    assert (row["state"], row["origin"]["step"]) == ("done", 3)
    read = yaml.safe_load((post.dir / "attempts" / "1" / "nemo_rl.yaml").read_text())
    assert read["policy"]["model_name"] == str(pre.dir / "export" / "step_3")  # its first attempt made it
    assert starts(lab)["post/42"] > ended(pre)
    assert "0 to submit" in lab.launch(*words).text
