"""after_training= on a real Slurm: what is done is exported by a job that waited for it, once, and nothing else is."""

from __future__ import annotations

import pytest
from launching import HOLD, SMALL, Lab

from nano_exp.store import runs

pytestmark = pytest.mark.slurm

EXPORTED = (*SMALL, "run.name=lr", "grpo.seed=1,2", "after_training=export")


def exported(lab: Lab, run: runs.Run) -> bool:
    return (run.dir / "export" / "step_3" / "nano_exp.json").is_file()


def test_what_is_done_is_exported_once_and_what_is_not_when_it_is(lab: Lab) -> None:
    said = lab.launch(*EXPORTED, HOLD)
    assert "after training: export of each run that is done, job" in said.text
    first, second = (lab.run(grpo__seed=seed) for seed in (1, 2))
    array = lab.job(first).partition("_")[0]
    lab.tool("cancel", second.id)
    lab.cluster.run("scontrol", "release", array)
    lab.wait_ended(first)
    lab.wait_for("the export", lambda: exported(lab, first))
    lab.wait_queue_empty()
    assert not exported(lab, second)

    lab.tool("retry", second.id)
    lab.cluster.run("scontrol", "release", lab.job(second))
    lab.wait_ended(second)
    lab.wait_for("the other export", lambda: exported(lab, second))
    lab.wait_queue_empty()
    made = (first.dir / "export" / "step_3" / "nano_exp.json").stat().st_mtime_ns
    assert "after training" not in lab.launch(*EXPORTED).text
    assert (first.dir / "export" / "step_3" / "nano_exp.json").stat().st_mtime_ns == made

    assert "submitted: job" in lab.tool("export", first.id, "--step", "2", "--submit")
    lab.wait_for("an earlier step's export", (first.dir / "export" / "step_2" / "nano_exp.json").is_file)
    lab.wait_queue_empty()
