"""Starting a run again: what Slurm is asked, what is recorded, and what is said where it does not answer."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from core_case import intend, make_attempt, make_run

from nano_exp import slurm
from nano_exp.errors import UserError
from nano_exp.job import requeue
from nano_exp.store import runs
from nano_exp.store.runs import Owner

SHOW = (
    "JobId=12 ArrayJobId=12 ArrayTaskId=3 JobName=x UserId=u(1) JobState=COMPLETING Reason=None Requeue=1 Restarts=2 "
    "PreemptTime=None Partition=batch NumNodes=2 ExcNodeList=gpu01 NodeList=gpu07"
)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """scontrol as a script that notes its arguments; `answer` in the folder is its body."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{folder}/asked\n. {folder}/answer\n')
    (folder / "scontrol").chmod(0o755)
    (folder / "answer").write_text(
        f'case "$*" in *show\\ job*) echo "{SHOW}";; *hostnames*) echo "${{3}}" | tr , "\\n";; esac\n'
    )
    (folder / "sinfo").write_text(f"#!/bin/sh\ncat {folder}/nodes\n")
    (folder / "sinfo").chmod(0o755)
    (folder / "nodes").write_text("4\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def run_with(tmp_path: Path, *ends: dict[str, Any]) -> Path:
    folder = make_run(tmp_path / "results")
    intend(folder, task=3)
    for number, end in enumerate(ends, 1):
        runs.record_event(folder, "engine", attempt=number, resumes_from=end.pop("from"))
        make_attempt(folder, number, Owner("12_3", number - 1, "gpu07", 1, 1.0), {"attempt": number, **end})
    return folder


def again(folder: Path, end: dict[str, Any], section: dict[str, Any] | None = None, **more: Any) -> tuple[bool, str]:
    said: list[str] = []
    stopped, restart, until = more.pop("stopped", ""), more.pop("restart", 2), more.pop("until", None)
    owner, stop = Owner("12_3", restart, "gpu07", 1, 1.0), SimpleNamespace(signal=more.pop("signal", 0))
    going = requeue.go_on(folder, end, stopped, owner, stop, until, section or {}, said.append)  # type: ignore[arg-type]
    return going, "\n".join(said)


def test_a_run_with_steps_left_is_started_again_by_its_own_array_task(tmp_path: Path, asked: Path) -> None:
    folder = run_with(tmp_path, {"from": 0, "kind": "stopped", "last_step": 5})
    going, said = again(folder, {"attempt": 1, "kind": "stopped", "last_step": 5})
    assert going
    assert (asked / "asked").read_text() == "--all --oneliner show job 12_3\nrequeue 12_3\n"
    event = runs.load(folder).last("requeue")
    assert event is not None
    assert (event.data["attempt"], event.data["by"]) == (1, "attempt")
    assert "starting again: time limit" in said


def test_a_bad_node_is_added_to_those_that_are_left_out(tmp_path: Path, asked: Path) -> None:
    folder = run_with(tmp_path, {"from": 0, "kind": "failed", "last_step": 5})
    end = {
        "attempt": 1,
        "kind": "failed",
        "diagnosis": {"fault": "infrastructure", "title": "a GPU failed", "bad_node": "gpu07"},
    }
    going, said = again(folder, end)
    assert going
    assert (asked / "asked").read_text().splitlines() == [
        "--all --oneliner show job 12_3",
        "show hostnames gpu01,gpu07",
        "requeue 12_3",
        "update JobId=12_3 ExcNodeList=gpu01,gpu07",
    ]
    assert "without gpu07" in said


def test_a_node_that_the_partition_cannot_spare_is_not_left_out(tmp_path: Path, asked: Path) -> None:
    """Without it the job would wait for ever."""
    (asked / "nodes").write_text("3\n")
    folder = run_with(tmp_path, {"from": 0, "kind": "failed", "last_step": 5})
    end = {"attempt": 1, "kind": "failed", "diagnosis": {"fault": "infrastructure", "title": "", "bad_node": "gpu07"}}
    going, said = again(folder, end)
    assert going
    assert "update" not in (asked / "asked").read_text()
    assert "gpu07 is not left out: partition batch has 3 nodes, and the run needs 2" in said


def test_a_scancel_that_comes_meanwhile_is_heeded(tmp_path: Path, asked: Path) -> None:
    folder = run_with(tmp_path, {"from": 0, "kind": "stopped", "last_step": 5})
    going, said = again(folder, {"attempt": 1, "kind": "stopped", "signal": 0}, signal=15)
    assert not going
    assert "requeue" not in (asked / "asked").read_text()
    assert "it was cancelled meanwhile" in said


STALLED = {"kind": "failed", "diagnosis": {"fault": "infrastructure", "title": "stalled: starting vLLM"}}


@pytest.mark.parametrize(
    ("before", "now", "goes_on"),
    [
        ({"stalled": "vllm", "last_step": 0}, {"stalled": "vllm", "last_step": 0}, False),
        ({"stalled": "vllm", "last_step": 0}, {"stalled": "rollout", "last_step": 0}, True),
        ({"stalled": "step", "last_step": 0}, {"stalled": "step", "last_step": 5}, True),
        ({"last_step": 0}, {"stalled": "step", "last_step": 0}, True),
    ],
    ids=["at the same place", "at another place", "with a step saved", "after another failure"],
)
def test_a_second_stall_at_the_same_place_without_progress_ends_it(
    tmp_path: Path, asked: Path, before: dict[str, Any], now: dict[str, Any], goes_on: bool
) -> None:
    folder = run_with(tmp_path, {"from": 0, **STALLED, **before}, {"from": 0, **STALLED, **now})
    going, said = again(folder, {"attempt": 2, **STALLED, **now})
    assert going is goes_on
    assert goes_on or "2 attempts in a row stalled at the same place and saved no new step" in said


def test_three_attempts_that_saved_nothing_end_it(tmp_path: Path, asked: Path) -> None:
    ends = [{"from": 4, "kind": "stopped", "last_step": 4} for _ in range(3)]
    folder = run_with(tmp_path, *ends)
    going, said = again(folder, {"attempt": 3, "kind": "stopped", "last_step": 4})
    assert not going
    assert not (asked / "asked").exists()
    assert "3 attempts in a row saved no new step" in said
    note = runs.load(folder).last("note")
    assert note is not None
    assert "slurm.max_idle_attempts=3" in note.data["text"]


def test_attempts_of_an_earlier_submission_do_not_count(tmp_path: Path, asked: Path) -> None:
    folder = run_with(tmp_path, *[{"from": n, "kind": "stopped", "last_step": n + 1} for n in range(4)])
    limit = {"max_attempts": 2}
    assert not again(folder, {"attempt": 4, "kind": "stopped"}, limit)[0]
    intend(folder, task=3, after=3)
    assert again(folder, {"attempt": 4, "kind": "stopped"}, limit)[0]


def test_a_controller_that_is_away_is_asked_until_the_allocation_ends(
    tmp_path: Path, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requeue, "POLL_S", 0.05)
    down = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    (asked / "answer").write_text(f"[ $(wc -l <{asked}/asked) -lt 3 ] && {{ {down}; }}; exit 0\n")
    folder = run_with(tmp_path, {"from": 0, "kind": "stopped", "last_step": 5})
    assert again(folder, {"attempt": 1, "kind": "stopped"})[0]
    assert (asked / "asked").read_text().splitlines().count("requeue 12_3") == 2

    (asked / "answer").write_text(f"{down}\n")
    going, said = again(folder, {"attempt": 1, "kind": "stopped"}, until=time.time() + 0.3)
    assert not going
    assert "could not be started again: slurm_load_jobs error: Unable to contact slurm controller" in said
    assert "nano-exp retry" in said


def test_a_job_that_slurm_has_started_again_meanwhile_is_not_asked_for(tmp_path: Path, asked: Path) -> None:
    """The node was cut off: its attempt fails of that while the next one executes the run, and must not end it."""
    folder = run_with(tmp_path, {"from": 0, "kind": "failed", "last_step": 5})
    end = {
        "attempt": 1,
        "kind": "failed",
        "diagnosis": {"fault": "infrastructure", "title": "NCCL", "bad_node": "gpu07"},
    }
    going, said = again(folder, end, restart=1)
    assert going
    assert (asked / "asked").read_text() == "--all --oneliner show job 12_3\n"
    assert "Slurm has started it again already" in said


def test_a_refusal_is_said_in_slurm_s_words(tmp_path: Path, asked: Path) -> None:
    (asked / "answer").write_text("echo 'Requested operation is presently disabled for job 12' >&2; exit 1\n")
    folder = run_with(tmp_path, {"from": 0, "kind": "stopped", "last_step": 5})
    going, said = again(folder, {"attempt": 1, "kind": "stopped"})
    assert not going
    assert "Requested operation is presently disabled" in said


def test_a_job_that_slurm_has_queued_again_already_is_no_fault(asked: Path) -> None:
    (asked / "answer").write_text("echo 'Job is pending execution for job 12' >&2; exit 1\n")
    slurm.requeue("12")


def test_what_scontrol_tells_of_a_job() -> None:
    assert slurm.parse_control(SHOW) == slurm.Control(2, False, "None", "gpu01", "batch", 2)
    other = "JobId=3 Restarts=0 PreemptTime=2026-11-25T02:16:10 ExcNodeList=(null)"
    assert slurm.parse_control(other) == slurm.Control(0, True)


def test_a_job_that_scontrol_does_not_know_is_no_answer(asked: Path) -> None:
    (asked / "answer").write_text("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n")
    with pytest.raises(slurm.NoAnswer, match="Invalid job id"):
        slurm.control("12")
    with pytest.raises(UserError, match="Invalid job id"):
        slurm.requeue("12")


def test_the_steps_that_each_attempt_saved(tmp_path: Path) -> None:
    folder = run_with(
        tmp_path, {"from": 0, "kind": "stopped", "last_step": 5}, {"from": 5, "kind": "failed", "last_step": 5}
    )
    make_attempt(folder, 3, Owner("12_3", 2, "gpu07", 1, 1.0))  # lost: no end
    runs.record_event(folder, "engine", attempt=3, resumes_from=5)
    runs.record_event(folder, "engine", attempt=4, resumes_from=9)
    make_attempt(folder, 4, Owner("12_3", 3, "gpu07", 1, 1.0))  # runs
    make_attempt(folder, 5, Owner("12_3", 4, "gpu07", 1, 1.0), {"kind": "failed", "why": "refused"})  # no engine
    run = runs.load(folder)
    assert requeue.saved_steps(run, runs.attempts(folder)) == [5, 0, 4, None, 0]
