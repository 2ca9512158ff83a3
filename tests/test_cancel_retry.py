"""What cancel and retry make of a run's history; tests/slurm/test_control.py has them on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import intend, make_run

from nano_exp import app, control, files, runs
from nano_exp.errors import UserError


def test_a_retry_takes_the_last_launch_that_was_not_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for launch in ("L1", "L2"):
        runs.record_event(run, "submit", launch=launch, array=0, task=None, after_attempt=0)
    runs.record_event(run, "refused", launch="L2", why="no such partition")
    assert control._last_launch(runs.load(run)) == "L1"


def test_a_canary_ends_with_the_last_run_that_waits_also_where_others_were_refused(tmp_path: Path) -> None:
    made = [make_run(tmp_path, run=f"r{n}") for n in range(3)]
    for task, run in enumerate(made):
        intend(run, task=task)
    launch = control._last_launch(runs.load(made[0]))
    folder = runs.launch_dir(tmp_path, launch)
    files.make_dir(folder)
    files.write_json(folder / "manifest.json", {"arrays": [{"runs": [str(run) for run in made]}]})
    runs.record_job(tmp_path, launch, "canary", "101")
    runs.record_event(made[2], "refused", launch=launch, why="limit")
    for run, canaries in ((made[0], []), (made[1], ["101"])):
        runs.record_event(run, "cancel", job="102_0")
        assert control._canaries([runs.load(run)]) == canaries


def test_a_retry_has_the_place_that_the_run_was_last_sent_to(tmp_path: Path) -> None:
    run = make_run(tmp_path, config={"site": {"name": "a"}, "slurm": {"max_attempts": 100}, "grpo": {"seed": 1}})
    entry = {"runs": [str(run)], "site": {"name": "b"}, "slurm": {"max_attempts": 7}}
    loaded = runs.load(run)
    now = control.State("failed")
    for manifest, site in (({"arrays": [entry]}, "b"), ({"arrays": [{}]}, "a"), ({}, "a")):
        row = control._row(loaded, now, manifest)
        assert (row.config["site"]["name"], row.config["grpo"]) == (site, {"seed": 1})


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UserError, match="udcff"):
        app._refuse_bytes(['run.tags=["a\udcff"]'])
