"""nano-exp rm: what it removes, what it leaves, and what it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import Answer, intend, make_attempt, make_run

from nano_exp import cli
from nano_exp.launch import convergence
from nano_exp.store import runs
from nano_exp.store.runs import Owner


def rm(results: Path, *words: str) -> int:
    return cli.main(["rm", *words, "--results", str(results)])


def test_a_run_goes_with_all_its_files_and_what_lies_elsewhere_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "scratch" / "r1"
    (elsewhere / "step_1").mkdir(parents=True)
    results = tmp_path / "results"
    run = make_run(results, run="r1", config={"checkpointing": {"checkpoint_dir": str(elsewhere)}})
    make_attempt(run, 1, Owner("12", 0, "host", 1, 1.0), {"kind": "done"})
    kept = make_run(results, run="r2")
    assert rm(results, "r1", "--yes") == 0
    assert [path.name for path in (results / "name").iterdir()] == ["r2"] and kept.is_dir()
    assert f"removed 1 run\n  not removed: {elsewhere}\n" in capsys.readouterr().out
    assert (elsewhere / "step_1").is_dir()
    assert rm(results, "name", "--yes") == 0
    assert not (results / "name").exists()


def test_nothing_is_removed_without_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    assert rm(tmp_path, "name") == 2
    assert "was not confirmed" in capsys.readouterr().err
    assert run.is_dir()


def test_an_active_run_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    active, done = make_run(tmp_path, run="r1"), make_run(tmp_path, run="r2")
    intend(active)
    runs.launch_dir(tmp_path, "L").mkdir(parents=True)
    runs.record_job(tmp_path, "L", 0, "12")
    monkeypatch.setattr(convergence, "QueueLookup", lambda: Answer(["12|PENDING|nx-L.0-name|Priority"]))
    assert rm(tmp_path, "name", "--yes") == 2
    assert "nano-exp cancel name/r1 first" in capsys.readouterr().err
    monkeypatch.setattr(convergence, "QueueLookup", lambda: Answer(None))
    assert rm(tmp_path, "r1", "--yes") == 4  # it may be active
    assert active.is_dir() and done.is_dir()


def test_what_other_runs_start_from_is_said_before_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, run="r1")
    origin = {"run": "name/r1", "step": "last", "path": str(tmp_path / "name" / "r1")}
    make_run(tmp_path, name="post", run="r9", record={"init_from": origin})
    assert rm(tmp_path, "r1") == 2
    assert "r1 is needed: r9 (unstarted) starts from it, and could not any more" in capsys.readouterr().out
    assert rm(tmp_path, "r1", "post", "--yes") == 0
    assert "is needed" not in capsys.readouterr().out
