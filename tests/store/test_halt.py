"""Stopping the rest of a launch: whose failures count, what is cancelled, what a later start finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, intend, make_attempt, make_run

from nano_exp import slurm
from nano_exp.store import halt, runs, state
from nano_exp.store.runs import Owner

OWNER = Owner("12_0", 0, "host", 1, 1.0)


@pytest.fixture
def launch(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Launch L with four runs in one array, job 12, all sent."""
    folder = runs.launch_dir(tmp_path, "L")
    folder.mkdir(parents=True)
    runs.record_job(tmp_path, "L", 0, "12")
    made = [make_run(tmp_path, run=f"r{n}") for n in range(4)]
    for task, run in enumerate(made):
        intend(run, task=task)
    return folder, {"arrays": [{"runs": [str(run) for run in made]}]}


def failing(run: Path, number: int = 1, launch: str = "L", kind: str = "failed") -> None:
    make_attempt(run, number, OWNER, {"kind": kind})
    runs.record_event(run, "start", attempt=number, launch=launch)
    runs.record_event(run, "end", end={"kind": kind})


def in_queue(monkeypatch: pytest.MonkeyPatch, *lines: str, error: str = "") -> list[list[str]]:
    """What squeue says, and the jobs that are then cancelled."""
    cancelled: list[list[str]] = []

    def cancel(jobs: list[str]) -> str:
        cancelled.append(jobs)
        return error

    monkeypatch.setattr(halt, "QueueLookup", lambda: Answer(list(lines)))
    monkeypatch.setattr(slurm, "cancel_waiting", cancel)
    return cancelled


def test_failures_for_good_of_this_launch_count(launch: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = launch
    first, second, third, fourth = halt.run_dirs(manifest)
    assert halt.failures(folder, manifest) == 0
    failing(first)
    assert halt.failures(folder, manifest) == 1
    failing(second, launch="EARLIER")  # launched again, and not started yet
    failing(third)
    runs.record_event(third, "requeue", attempt=1, by="us", why="a fault of the cluster")  # it goes on by itself
    failing(fourth, kind="stopped")
    assert halt.failures(folder, manifest) == 1
    runs.record_event(third, "note", text="job 9 found the run claimed")
    assert halt.failures(folder, manifest) == 1
    runs.record_event(third, "note", attempt=1, text="could not be started again: no answer")
    assert halt.failures(folder, manifest) == 2
    failing(first, 2, kind="done")
    assert halt.failures(folder, manifest) == 1


def test_what_waits_is_cancelled_with_the_reason_and_what_runs_goes_on(
    launch: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, manifest = launch
    first, running, *waiting = halt.run_dirs(manifest)
    failing(first)
    make_attempt(running, 1, Owner("12_1", 0, "host", 1, 1.0))
    queue = ["12_1|RUNNING|nx-L.0-name|None", "12_[2-3]|PENDING|nx-L.0-name|Priority"]
    cancelled = in_queue(monkeypatch, *queue)
    said: list[str] = []
    halt.halt(folder, manifest, "fail_fast=1: 1 failed", said.append)
    assert cancelled == [["12_2", "12_3"]]
    assert said == ["fail_fast=1: 1 failed: 2 waiting runs of launch L stopped"]
    assert halt.reason(folder) == "fail_fast=1: 1 failed"
    now = Answer([])
    for run in waiting:
        assert now.state(runs.load(run)) == state.State("cancelled", "fail_fast=1: 1 failed")
        assert now.state(runs.load(run)).action == "submit"
    assert Answer(queue).state(runs.load(running)).kind == "running"


def test_a_run_that_waits_to_be_started_again_goes_on(
    launch: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = launch
    first, again, *waiting = halt.run_dirs(manifest)
    failing(first)
    failing(again, kind="stopped")
    runs.record_event(again, "requeue", attempt=1, by="us", why="preempted")
    queue = ["12_1|PENDING|nx-L.0-name|BeginTime", "12_[2-3]|PENDING|nx-L.0-name|Priority"]
    cancelled = in_queue(monkeypatch, *queue)
    halt.halt(folder, manifest, "fail_fast=1: 1 failed", lambda _: None)
    assert cancelled == [["12_2", "12_3"]]
    assert runs.load(again).last("cancel") is None
    assert [Answer([]).state(runs.load(run)).kind for run in waiting] == ["cancelled", "cancelled"]


def test_a_run_that_was_quicker_is_not_cancelled(launch: tuple[Path, dict[str, Any]]) -> None:
    run = halt.run_dirs(launch[1])[0]
    halt.cancelled(runs.load(run), "fail_fast", "12_0")
    failing(run)
    assert Answer([]).state(runs.load(run)).kind == "failed"


def test_doing_it_twice_says_it_once(launch: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = launch
    in_queue(monkeypatch, "12_[0-3]|PENDING|nx-L.0-name|Priority")
    for why in ("first", "second"):
        halt.halt(folder, manifest, why, print)
    assert halt.reason(folder) == "first"
    for run in halt.run_dirs(manifest):
        assert [e.data["why"] for e in runs.load(run).events if e.kind == "cancel"] == ["first"]


def test_where_slurm_does_not_answer_the_launch_is_stopped_all_the_same(
    launch: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = launch
    monkeypatch.setattr(halt, "QueueLookup", lambda: Answer(None))
    said: list[str] = []
    halt.halt(folder, manifest, "fail_fast=1: 1 failed", said.append)
    assert halt.reason(folder)
    assert "they end when they start" in said[0]


def test_runs_that_another_launch_has_are_left_alone(
    launch: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, manifest = launch
    run = halt.run_dirs(manifest)[3]
    runs.record_event(run, "submit", launch="NEXT", array=0, task=None, after_attempt=0)
    cancelled = in_queue(monkeypatch, "20|PENDING|nx-NEXT.0-name|Priority")
    halt.halt(folder, manifest, "why", lambda _: None)
    assert cancelled == [[]]
    assert runs.load(run).last("cancel") is None


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: None, ""),
        (lambda path: path.write_text('{"why": "x"}'), "x"),
        (lambda path: path.write_text("{"), "this launch was stopped"),
        (lambda path: path.write_text("[]"), "this launch was stopped"),
    ],
)
def test_the_reason_is_read_whatever_is_in_the_file(tmp_path: Path, write: Callable[[Path], object], why: str) -> None:
    write(tmp_path / halt.FILE)
    assert halt.reason(tmp_path) == why
