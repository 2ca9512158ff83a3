"""What cancel and retry make of a run's history; tests/slurm/test_cancel_retry_slurm.py has them on a real Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, intend, make_attempt, make_run

from nano_exp import app, cli, files
from nano_exp.errors import UserError
from nano_exp.launch import cancel, convergence, history, retry
from nano_exp.launch.terms import Terms
from nano_exp.store import predecessors, runs
from nano_exp.store.predecessors import Wait
from nano_exp.store.runs import Owner
from nano_exp.store.state import State


def test_a_retry_takes_the_last_launch_that_was_not_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for launch in ("L1", "L2"):
        runs.record_event(run, "submit", launch=launch, array=0, task=None, after_attempt=0)
    runs.record_event(run, "refused", launch="L2", why="no such partition")
    assert history.last_launch(runs.load(run)) == "L1"


def test_a_canary_ends_with_the_last_run_that_waits_also_where_others_were_refused(tmp_path: Path) -> None:
    made = [make_run(tmp_path, run=f"r{n}") for n in range(3)]
    for task, run in enumerate(made):
        intend(run, task=task)
    launch = history.last_launch(runs.load(made[0]))
    folder = runs.launch_dir(tmp_path, launch)
    files.make_dir(folder)
    files.write_json(folder / "manifest.json", {"arrays": [{"runs": [str(run) for run in made]}]})
    runs.record_job(tmp_path, launch, "canary", "101")
    runs.record_event(made[2], "refused", launch=launch, why="limit")
    for run, canaries in ((made[0], []), (made[1], ["101"])):
        runs.record_event(run, "cancel", job="102_0")
        assert cancel._canaries([runs.load(run)]) == canaries


def test_a_retry_has_the_place_that_the_run_was_last_sent_to(tmp_path: Path) -> None:
    run = make_run(tmp_path, config={"site": {"name": "a"}, "slurm": {"max_attempts": 100}, "grpo": {"seed": 1}})
    entry = {"runs": [str(run)], "site": {"name": "b"}, "slurm": {"max_attempts": 7}}
    loaded = runs.load(run)
    now = State("failed")
    for manifest, site in (({"arrays": [entry]}, "b"), ({"arrays": [{}]}, "a"), ({}, "a")):
        row = retry._row(loaded, now, manifest)
        assert (row.config["site"]["name"], row.config["grpo"]) == (site, {"seed": 1})


def launched(results: Path, launch: str, runs_of: list[Path], **manifest: Any) -> None:
    """A launch's folder, and the intents of its runs."""
    folder = runs.launch_dir(results, launch)
    files.make_dir(folder)
    files.write_json(
        folder / "manifest.json", {"where": "slurm", "arrays": [{"runs": list(map(str, runs_of))}], **manifest}
    )
    for task, run in enumerate(runs_of):
        runs.record_event(run, "submit", launch=launch, array=0, task=task, after_attempt=0)


def batches(results: Path, *typed: str) -> list[retry.Batch]:
    again = [(run, State("failed")) for run in runs.find(results)]
    return retry.batches(results, again, {}, typed)


def test_runs_are_sent_again_by_the_settings_of_their_last_launches(tmp_path: Path) -> None:
    made = [make_run(tmp_path, run=f"r{n}") for n in range(4)]
    short = {"parameters": {"timeout_min": 60}, "terms": Terms(parallel=2).as_dict()}
    launched(tmp_path, "L1", made[:1], **short)
    launched(tmp_path, "L2", made[1:2], parameters={"timeout_min": 600})
    launched(tmp_path, "L3", made[2:], **short)
    first, second = batches(tmp_path)
    assert [[row.id for row in batch.rows] for batch in (first, second)] == [["r0", "r2", "r3"], ["r1"]]
    assert (first.parameters["timeout_min"], first.terms.parallel, first.launches) == (60, 2, {"L1", "L3"})
    assert (second.parameters["timeout_min"], second.terms.parallel) == (600, None)


def test_a_retry_comes_after_what_its_launch_came_after(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    launched(tmp_path, "L", [run], terms=Terms(after=("pre",)).as_dict())
    predecessors.write(runs.launch_dir(tmp_path, "L"), [Wait("afterok", run="pre/r1"), Wait("afterany", job="7")])
    assert batches(tmp_path)[0].terms.after == ("afterok:pre/r1", "afterany:7")
    assert batches(tmp_path, "after=null")[0].terms.after == ()
    (runs.launch_dir(tmp_path, "L") / predecessors.FILE).write_text("{")
    with pytest.raises(UserError, match=r"launch L: after\.json is not JSON"):
        batches(tmp_path)
    assert batches(tmp_path, "after=pre")[0].terms.after == ("pre",)


def test_a_retry_has_a_canary_until_one_came_through(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = make_run(tmp_path / ".launches" / "L" / "canary", run="r0-canary")
    launched(tmp_path, "L", [run], terms=Terms(canary=True).as_dict(), canary={"runs": [str(first)]})
    make_attempt(first, 1, Owner("12", 0, "host", 1, 1.0), {"kind": "failed"})
    assert batches(tmp_path)[0].terms.canary
    assert not batches(tmp_path, "canary=false")[0].terms.canary
    make_attempt(first, 2, Owner("13", 0, "host", 1, 1.0), {"kind": "done"})
    assert not batches(tmp_path)[0].terms.canary


def test_a_retry_keeps_to_parallel_together_with_what_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [make_run(tmp_path, run=f"r{n}") for n in range(3)]
    launched(tmp_path, "L", made, terms=Terms(parallel=1).as_dict())
    runs.record_job(tmp_path, "L", 0, "12")
    queue = ["12_0|RUNNING|nx-L.0-name|None", "12_1|PENDING|nx-L.0-name|JobArrayTaskLimit"]
    monkeypatch.setattr(convergence, "QueueLookup", lambda: Answer(queue))
    again = [(runs.load(made[2]), State("failed"))]
    [batch] = retry.batches(tmp_path, again, {}, [])
    assert retry._still_running(tmp_path, batch) == ["12"]
    assert "parallel=1: after job 12, which still has 2 of that launch's runs" in capsys.readouterr().out
    [freed] = retry.batches(tmp_path, again, {}, ["parallel=null"])
    assert retry._still_running(tmp_path, freed) == []


# --- which runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_an_id_of_several_runs_is_asked_about(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("can", "ff"):
        make_run(tmp_path, name=name, run="r1")
    meant: list[list[str]] = []

    def note(*arguments: Any) -> int:
        found = next(one for one in arguments if isinstance(one, list) and one)
        meant.append([f"{run.name}/{run.id}" for run in found])
        return 0

    monkeypatch.setattr({"retry": retry, "cancel": cancel}[command], command, note)
    assert cli.main([command, "r1", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "r1 stands for 2 runs: can/r1, ff/r1" in said and f"nano-exp {command} can/r1, or all of them" in said
    for word in ("can/r1", "ff"):
        assert cli.main([command, word, "--results", str(tmp_path)]) == 0
    assert cli.main([command, "r1", "--yes", "--results", str(tmp_path)]) == 0
    assert meant == [["can/r1"], ["ff/r1"], ["can/r1", "ff/r1"]]


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UserError, match="udcff"):
        app._refuse_bytes(['run.tags=["a\udcff"]'])
