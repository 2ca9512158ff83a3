"""nano-exp cancel and retry on a real Slurm."""

from __future__ import annotations

import pytest
from launching import HOLD, SMALL, Lab, assert_executed_once, checkpoints, kinds, metrics, setting, train_steps
from pace import paced

pytestmark = pytest.mark.slurm


def test_cancelled_runs_are_tried_again_with_other_resources_and_done_ones_left_alone(lab: Lab) -> None:
    longer = (*SMALL, "grpo.max_num_steps=4")
    lab.launch(*longer, "grpo.seed=1")
    lab.launch(*longer, "grpo.seed=2", setting("STEP_SECONDS", paced(2)))
    lab.launch(*longer, "grpo.seed=3", HOLD)
    done, running, waiting = (lab.run(grpo__seed=seed) for seed in (1, 2, 3))
    lab.wait_ended(done)
    lab.wait_step(running, 1)
    name = done.name

    # More than one is cancelled only after a yes, and what is refused stops nothing.
    with pytest.raises(AssertionError, match="cancelling 2 active runs was not confirmed"):
        lab.tool("cancel", name)
    assert [lab.status()[run.id]["state"] for run in (done, running, waiting)] == ["done", "running", "pending"]

    assert "cancelled 2 runs" in lab.tool("cancel", name, "--yes")
    lab.wait_ended(running)
    lab.wait_queue_empty()
    assert [lab.status()[run.id]["state"] for run in (done, running, waiting)] == ["done", "cancelled", "cancelled"]
    assert "nothing to cancel" in lab.tool("cancel", name)
    assert checkpoints(running)[-1] in (1, 2, 3)

    with pytest.raises(AssertionError, match="a run's config is frozen"):
        lab.tool("retry", name, "grpo.seed=4")
    said = lab.tool("retry", name, "hydra.launcher.timeout_min=33", "hydra.launcher.additional_parameters={hold: true}")
    assert "retry: 2 to submit, 1 left alone" in said
    for run in (running, waiting):
        assert lab.scontrol(run)["TimeLimit"] == "00:33:00"
        lab.cluster.run("scontrol", "release", lab.job(run))
    lab.wait_ended(running, attempt=2)
    lab.wait_ended(waiting)
    assert kinds(running) == ["cancelled", "done"]
    assert train_steps(running) == [1, 2, 3, 4]
    assert_executed_once(waiting, steps=4)
    assert_executed_once(done, steps=4)
    assert metrics(running) != metrics(waiting)  # two seeds, so neither took the other's folder
    assert "retry: 0 to submit, 3 left alone" in lab.tool("retry", name)


def test_cancelling_all_that_a_canary_is_for_ends_the_canary(lab: Lab) -> None:
    lab.launch(*SMALL, "grpo.seed=1,2", "canary=true", HOLD)
    first, second = lab.runs()
    lab.tool("cancel", first.id)
    assert any(".canary-" in line for line in lab.queued()), "the other run still waits for it"
    lab.tool("cancel", second.id)
    lab.wait_queue_empty()
