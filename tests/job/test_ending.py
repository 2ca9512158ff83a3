"""An attempt that is told to end: what it leaves when SIGKILL comes before it could say how it ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from core_case import (
    Answer,
    attempt,
    intend,
    make_attempt,
    make_run,
    prepared,
    standin,
    start_attempt,
    wait_for,
)

from nano_exp import slurm
from nano_exp.job import ending, postmortem
from nano_exp.store import metrics_file, runs, state
from nano_exp.store.queue_lookup import job_lookup
from nano_exp.store.runs import Owner

#: Hangs in step 3 and heeds no SIGTERM; an attempt that resumes has no fault.
DEAF = {"STANDIN_FAIL_AT_STEP": "3", "STANDIN_FAULT": "deaf", "STANDIN_FAIL_ONCE": "1"}
OWNER = Owner("12", 0, "node1", 7, 1.0)
END = {"attempt": 1, "kind": "stopped", "why": "SIGTERM; checkpoint of step 2 of 4", "signal": 15, "last_step": 2}


@pytest.fixture
def scontrol(tmp_path: Path) -> dict[str, str]:
    """An environment whose scontrol says what the file `job` has, and notes what it was asked; KillWait is 4 s."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/asked\ncase "$*" in\n  "show config") echo "KillWait = 4 sec";;\n'
        f"  *show\\ job*) cat {folder}/job;;\nesac\n"
    )
    (folder / "scontrol").chmod(0o755)
    (folder / "job").write_text("JobId=12 JobState=RUNNING Reason=None Restarts=0 PreemptTime=None\n")
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}


def launched(folder: Path, checkout: Path) -> tuple[Path, Path]:
    """A launch's folder and its run's."""
    few = ("grpo.max_num_steps=4", "checkpointing.save_period=1", "site.fence_s=0", "engine.ray_address=none")
    launch = prepared(folder, *standin(checkout), *few)
    return launch.dir, launch.arrays[0].rows[0].dir


def state_of(run: Path) -> state.State:
    return state.state(runs.load(run), runs.attempts(run), job_lookup(run.parent.parent), Answer([]))


@pytest.mark.parametrize(
    ("job", "restarts", "stopped", "asked"),
    [
        ("JobState=COMPLETING Reason=None Restarts=1 PreemptTime=None", "1", "slurm", False),
        ("JobState=TIMEOUT Reason=TimeLimit Restarts=0 PreemptTime=None", "1", "time_limit", True),
        ("JobState=COMPLETING Reason=None Restarts=0 PreemptTime=2026-01-01T00:00:00", "1", "preempted", True),
    ],
    ids=["requeue", "time limit", "preemption"],
)
def test_killed_before_its_engine_had_ended_it_has_an_end_all_the_same(
    tmp_path: Path, checkout: Path, scontrol: dict[str, str], job: str, restarts: str, stopped: str, asked: bool
) -> None:
    launch, run = launched(tmp_path, checkout)
    process = start_attempt(launch, **scontrol, **DEAF)
    log = run / "attempts" / "1" / "stdout.log"
    wait_for(lambda: log.is_file() and "heeds no SIGTERM" in log.read_text(), "the engine hangs")
    (tmp_path / "bin" / "job").write_text(f"JobId=12 {job}\n")
    process.send_signal(signal.SIGTERM)
    said = "starting again" if asked else "at most 2 s"
    wait_for(lambda: (e := runs.load(run).last("ending")) and e.data["end"]["stopped"], "word of the coming end")
    wait_for(lambda: said in (run / "attempts" / "1" / "attempt.log").read_text(), said)
    process.kill()  # Slurm's KillWait is over
    process.communicate()
    assert "at most 2 s" in (run / "attempts" / "1" / "attempt.log").read_text()
    assert runs.attempts(run)[0].end is None
    now = state_of(run)
    assert (now.kind, now.why.partition(";")[0]) == ("stopped", ending.WORDS[stopped])
    assert ("requeue 12" in (tmp_path / "bin" / "asked").read_text()) == asked

    done = attempt(launch, **scontrol, SLURM_RESTART_COUNT=restarts, **DEAF)
    assert done.returncode == 0, done.stdout
    end = runs.attempts(run)[0].end
    assert end is not None
    assert (end["kind"], end["stopped"], end["last_step"], end["cut_off"]) == ("stopped", stopped, 2, True)
    assert runs.load(run).last("lost") is None
    assert state_of(run).kind == "done"
    assert [row["step"] for row in metrics_file.read(run) if "train/reward" in row] == [1, 2, 3, 4]


def test_an_engine_that_ends_in_time_corrects_what_was_foreseen(
    tmp_path: Path, checkout: Path, scontrol: dict[str, str]
) -> None:
    launch, run = launched(tmp_path, checkout)
    hang = {**DEAF, "STANDIN_FAULT": "hang"}
    process = start_attempt(launch, **scontrol, **hang)
    wait_for(lambda: (run / "checkpoints" / "step_2").is_dir(), "step 2")
    (tmp_path / "bin" / "job").write_text("JobId=12 JobState=CANCELLED Reason=None Restarts=0 PreemptTime=None\n")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    end = runs.attempts(run)[0].end
    assert end is not None
    assert (end["kind"], end["stopped"], end["exit_code"], "cut_off" in end) == ("cancelled", "cancelled", 143, False)
    assert end["why"] == "scancel; SIGTERM; checkpoint of step 2 of 4"


def test_an_engine_whose_step_slurm_ended_first_is_named_by_what_slurm_did(
    tmp_path: Path, checkout: Path, scontrol: dict[str, str]
) -> None:
    """Its traceback is that of processes that were being ended; the attempt's own signal has not come yet."""
    (tmp_path / "bin" / "job").write_text("JobId=12 JobState=COMPLETING Reason=None Restarts=1 PreemptTime=None\n")
    launch, run = launched(tmp_path, checkout)
    done = attempt(launch, **scontrol, STANDIN_FAIL_AT_STEP="3")
    end = runs.attempts(run)[0].end
    assert end is not None
    assert (end["kind"], end["stopped"], end.get("diagnosis")) == ("stopped", "slurm", None), done.stdout
    assert end["why"].startswith("Slurm starts the job again; its processes were ended")


def test_a_failure_that_slurm_has_no_part_in_stays_one(
    tmp_path: Path, checkout: Path, scontrol: dict[str, str]
) -> None:
    launch, run = launched(tmp_path, checkout)
    attempt(launch, **scontrol, STANDIN_FAIL_AT_STEP="3")
    end = runs.attempts(run)[0].end
    assert end is not None
    assert (end["kind"], end["stopped"]) == ("failed", "")


# --- who learns what the signal meant, and how ------------------------------------------------------------------------


def killed(tmp_path: Path, **end: Any) -> runs.Run:
    """A run whose first attempt announced an end and was killed."""
    folder = make_run(tmp_path / "results")
    intend(folder)
    make_attempt(folder, 1, OWNER)
    runs.record_event(folder, "ending", end={**END, "stopped": "", **end})
    return runs.load(folder)


@pytest.mark.parametrize(
    ("next_job", "slurms_word", "kind", "stopped"),
    [
        ("12", "", "stopped", "slurm"),
        ("13", "TIMEOUT", "stopped", "time_limit"),
        ("13", "PREEMPTED", "stopped", "preempted"),
        ("13", "CANCELLED by 1001", "cancelled", "cancelled"),
        ("13", "FAILED", "stopped", ""),
        ("13", "", "stopped", ""),
    ],
)
def test_the_next_attempt_finds_out_what_the_signal_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_job: str, slurms_word: str, kind: str, stopped: str
) -> None:
    known = {"12": slurm.Ended(slurms_word, "0:15")} if slurms_word else {}
    monkeypatch.setattr(slurm, "accounting", lambda jobs, **_: known)
    run = killed(tmp_path)
    end = ending.of_killed(run, runs.attempts(run.dir)[0], Owner(next_job, 1, "node2", 8, 2.0))
    assert end is not None
    assert (end["kind"], end["stopped"]) == (kind, stopped)
    assert end["why"].endswith("SIGTERM; checkpoint of step 2 of 4")


def test_an_end_that_another_attempt_announced_is_not_this_ones(tmp_path: Path) -> None:
    run = killed(tmp_path, attempt=2)
    assert ending.of_killed(run, runs.attempts(run.dir)[0], OWNER) is None
    assert state_of(run.dir).kind == "lost"


@pytest.mark.parametrize(("next_job", "cause"), [("12", "requeued"), ("13", "killed")])
def test_the_job_of_an_attempt_without_a_word_that_starts_again_was_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_job: str, cause: str
) -> None:
    """Whatever the last traceback in its logs says; there is no accounting."""
    monkeypatch.setattr(slurm, "accounting", lambda jobs, **_: {})
    run = killed(tmp_path, attempt=2)
    (before,) = runs.attempts(run.dir)
    (before.dir / "stderr.log").write_text(
        "Exception in thread wandb-exit:\nTraceback (most recent call last):\n"
        '  File "/venv/wandb/sdk/lib/service.py", line 1, in teardown\n    self._client.send()\n'
        "ConnectionResetError: [Errno 104] Connection reset by peer\n"
        if cause == "requeued"
        else ""
    )
    assert postmortem.lost(before, {}, Owner(next_job, 1, "node2", 8, 2.0)).cause == cause


def test_a_full_disk_does_not_keep_an_attempt_from_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "record_event", full)
    said: list[str] = []
    stop: Any = SimpleNamespace(signal=15)
    ahead = ending.Ending(tmp_path, 1, Owner(None, 0, "h", 1, 1.0), stop, None, {}, 0.0, said.append)
    ahead.announce({"kind": "stopped", "why": "SIGTERM"}, 1.0)
    assert said == ["the coming end could not be recorded: [Errno 28] No space left on device"]
