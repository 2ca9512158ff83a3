"""Attempts: real processes that execute the stand-in from a launch's own copy of the code, without Slurm."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from core_case import (
    Answer,
    attempt,
    attempt_env,
    copy_standin,
    dead_process,
    environment,
    everything_below,
    make_attempt,
    make_run,
    prepared,
    standin,
    start_attempt,
    wait_for,
)
from pace import limit, paced

from nano_exp import dotted, files
from nano_exp.errors import UserError
from nano_exp.job import attempt as module
from nano_exp.job import child, ending, engine_run, watchdog
from nano_exp.job import claim as claiming
from nano_exp.launch import executors, job_arrays
from nano_exp.report import status
from nano_exp.store import metrics_file, run_config, runs, state, trackers
from nano_exp.store.queue_lookup import job_lookup
from nano_exp.store.runs import Owner
from nano_exp.text import dd_hh_mm_ss

STEPS = 4
SHORT = (f"grpo.max_num_steps={STEPS}", "checkpointing.save_period=1", "grpo.val_period=2")


def launched(folder: Path, checkout: Path, *overrides: str, **more: Any) -> job_arrays.Launch:
    return prepared(folder, *standin(checkout), *SHORT, *overrides, **more)


class NeverStopped:
    """Stands in for a Stop, which takes over this process's signal handlers."""

    signal = 0


def run_of(launch: job_arrays.Launch) -> Path:
    return launch.arrays[0].rows[0].dir


def state_of(run: Path) -> state.State:
    return state.state(runs.load(run), runs.attempts(run), job_lookup(run.parent.parent), Answer([]))


def learned(run: Path) -> dict[tuple[int, str], float]:
    """(step, metric) -> value of all rows, without times; fails where a step was logged twice."""
    found: dict[tuple[int, str], float] = {}
    for row in metrics_file.read(run):
        for key, value in row.items():
            if key not in ("step", "time") and not key.startswith(("timing/", "performance/")):
                assert (row["step"], key) not in found, f"step {row['step']} logged twice"
                found[row["step"], key] = value
    return found


def steps(run: Path) -> list[int]:
    return [row["step"] for row in metrics_file.read(run) if "train/reward" in row]


def descendants(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(folder.name), *descendants(int(folder.name))]
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> dict[tuple[int, str], float]:
    launch = launched(tmp_path_factory.mktemp("uninterrupted"), checkout)
    assert attempt(launch.dir).returncode == 0
    return learned(run_of(launch))


# --- done -----------------------------------------------------------------------------------------------------------


def test_an_attempt_executes_its_run_to_the_end(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    done = attempt(launch.dir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state_of(run).kind == "done"
    assert steps(run) == [1, 2, 3, 4]
    assert [row["step"] for row in metrics_file.read(run) if "validation/accuracy" in row] == [2, 4]

    folder = run / "attempts" / "1"
    assert {"owner.json", "end.json", "attempt.log", "stdout.log", "stderr.log", "nemo_rl.yaml"} <= set(
        everything_below(folder)
    )
    assert (run / "attempts" / "latest").resolve() == folder.resolve()
    assert "STAND-IN" in (folder / "stdout.log").read_text()
    end = files.read_json(folder / "end.json")
    assert (end["kind"], end["exit_code"], end["last_step"], end["max_steps"]) == ("done", 0, 4, 4)
    assert [e.kind for e in runs.load(run).events] == ["submit", "start", "engine", "end"]
    assert (run / "checkpoints" / "step_4").is_dir()

    # A pure projection of the frozen config, and what W&B is told of the run: nothing else reaches the engine.
    config = runs.load(run).config()
    told = trackers.overlay(runs.load(run), config)
    assert set(told) == {f"logger.wandb.{key}" for key in ("name", "notes", "job_type", "config")}
    for key, value in told.items():
        dotted.set_dotted(config, key, value)
    assert files.read_yaml(folder / "nemo_rl.yaml") == run_config.engine_config(config)


def test_a_run_that_is_done_with_a_loss_that_is_nan_says_so(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    assert attempt(launch.dir, STANDIN_FAIL_AT_STEP="3", STANDIN_FAULT="nan").returncode == 0
    assert "NaN" not in (run / runs.METRICS).read_text()
    assert [row.get("nonfinite") for row in metrics_file.read(run) if "train/loss" in row] == [
        None,
        None,
        ["train/loss"],
        ["train/loss"],
    ]
    end = files.read_json(run / "attempts" / "1" / "end.json")
    assert (end["kind"], end["why"]) == ("done", "train/loss was not finite in 2 steps, first in step 3")
    (line,) = status.lines(run.parent.parent, [], Answer([]))
    assert (line.state, line.why) == ("done", end["why"])


def test_a_run_that_is_done_is_not_executed_again(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    assert attempt(launch.dir).returncode == 0
    before = {p: (run / p).stat().st_mtime_ns for p in everything_below(run)}
    again = attempt(launch.dir)
    assert again.returncode == 0
    assert "is done; nothing to do" in again.stdout
    assert {p: (run / p).stat().st_mtime_ns for p in everything_below(run)} == before


def test_each_task_of_an_array_executes_its_own_run(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout, "grpo.max_num_steps=1", points=[["grpo.seed=1"], ["grpo.seed=2"]])
    first, second = (row.dir for row in launch.arrays[0].rows)
    assert attempt(launch.dir, 0, "--task", "1").returncode == 0
    assert (state_of(first).kind, state_of(second).kind) == ("unstarted", "done")
    # Slurm's own way; its commands are not asked, for no earlier attempt is there.
    ids = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "14", "SLURM_JOB_END_TIME": ""}
    assert attempt(launch.dir, 0, PATH=str(tmp_path), **ids).returncode == 0
    assert state_of(first).kind == "done"
    owner = runs.attempts(first)[0].owner
    assert owner is not None
    assert (owner.job, owner.restart) == ("12_0", 0)


# --- failed ---------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_says_so_and_the_next_one_goes_on(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float]
) -> None:
    launch = launched(tmp_path, checkout, "checkpointing.save_period=2")
    run = run_of(launch)
    failed = attempt(launch.dir, STANDIN_FAIL_AT_STEP="4")
    assert failed.returncode == 1
    now = state_of(run)
    assert now.kind == "failed"
    assert "exit code 1" in now.why
    assert "checkpoint of step 2 of 4" in now.why
    assert steps(run) == [1, 2, 3], "the third is after the checkpoint, and will be done and logged again"
    assert "stand-in fault at step 4" in (run / "attempts" / "1" / "stderr.log").read_text()
    assert attempt(launch.dir).returncode == 0
    assert [a.end["kind"] for a in runs.attempts(run) if a.end] == ["failed", "done"]
    assert learned(run) == uninterrupted
    assert (run / "attempts" / "latest").resolve().name == "2"


@pytest.mark.parametrize(
    ("cause", "mode", "then"),
    [("wandb_unreachable", "", "offline"), ("wandb_unreachable", "online", "online"), ("killed", "", "")],
)
def test_the_attempt_after_one_that_wandb_kept_from_starting_records_offline(
    tmp_path: Path, checkout: Path, cause: str, mode: str, then: str
) -> None:
    launch = launched(tmp_path, checkout, "grpo.max_num_steps=1")
    run = run_of(launch)
    make_attempt(run, 1, dead_process(), {"kind": "failed", "diagnosis": {"cause": cause, "title": "x"}})
    done = attempt(launch.dir, WANDB_MODE=mode, WANDB_API_KEY="k" * 40, STANDIN_HASH="WANDB_MODE")
    assert done.returncode == 0, done.stdout + done.stderr
    digest = hashlib.sha256(then.encode()).hexdigest()
    assert digest[:8] in (run / "attempts" / "2" / "stdout.log").read_text()
    assert ("records offline" in done.stdout) == (then == "offline")


def test_an_engine_that_cannot_start_is_a_failed_attempt_with_what_to_type(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    # The place is the launch's: a run that is submitted again goes where the new launch says.
    manifest = files.read_json(launch.dir / "manifest.json")
    manifest["arrays"][0]["site"]["python"] = "/nowhere/bin/python"
    files.write_json(launch.dir / "manifest.json", manifest)
    failed = attempt(launch.dir)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "site.python=/path/to" in (run / "attempts" / "1" / "attempt.log").read_text()
    assert state_of(run).kind == "failed"
    assert "/nowhere/bin/python" in state_of(run).why


def test_a_fault_of_our_own_leaves_an_end_and_its_traceback(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    config = runs.load(run).config()
    del config["checkpointing"]
    files.write_text(run / "config.yaml", files.dump_yaml(config))
    assert attempt(launch.dir).returncode == 70
    assert state_of(run).kind == "failed"
    assert "KeyError" in state_of(run).why
    assert "Traceback" in (run / "attempts" / "1" / "attempt.log").read_text()


def test_a_run_that_is_sent_again_goes_by_the_place_it_is_sent_to(tmp_path: Path, checkout: Path) -> None:
    """The site is no part of a run's identity: another one mends a run that failed for the first one's sake."""
    bad = launched(tmp_path, checkout, "+site.env.STANDIN_FAIL_AT_STEP=1")
    assert attempt(bad.dir).returncode == 1
    good = launched(tmp_path, checkout)
    assert run_of(good) == run_of(bad)
    done = attempt(good.dir)
    assert done.returncode == 0, done.stdout
    assert state_of(run_of(good)).kind == "done"


@pytest.mark.parametrize(
    "damage", ["no manifest", "half a manifest", "no such array", "no such task", "config.yaml", "run.json"]
)
def test_what_cannot_be_read_is_said_and_nothing_is_claimed(tmp_path: Path, checkout: Path, damage: str) -> None:
    launch = launched(tmp_path, checkout)
    run, manifest = run_of(launch), launch.dir / "manifest.json"
    array, task = 0, ["--task", "0"]
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_text(manifest.read_text()[:100])
    elif damage == "no such array":
        array = 1
    elif damage == "no such task":
        task = ["--task", "5"]
    else:
        (run / damage).write_text("{[")
    done = attempt(launch.dir, array, *task)
    assert done.returncode == 2
    assert done.stderr.startswith("nano-exp: ")
    assert "Traceback" not in done.stderr
    assert not (run / "attempts").exists()


# --- stopped, killed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_attempt_whole_and_the_next_one_goes_on(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float], number: signal.Signals
) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    process = start_attempt(launch.dir, STANDIN_STEP_SECONDS=str(paced(0.3)))
    wait_for(lambda: len(steps(run)) >= 1, "a first step")
    children = descendants(process.pid)
    process.send_signal(number)
    out, _ = process.communicate(timeout=limit(20))
    assert process.returncode == 0, out
    now = state_of(run)
    assert now.kind == "stopped"
    assert number.name in now.why
    assert children
    assert not [pid for pid in children if runs.process_start(pid)]
    assert attempt(launch.dir).returncode == 0
    assert state_of(run).kind == "done"
    assert learned(run) == uninterrupted


def test_a_killed_attempt_takes_its_engine_with_it_and_the_next_one_goes_on(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float]
) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    process = start_attempt(launch.dir, STANDIN_STEP_SECONDS=str(paced(0.6)))
    wait_for(lambda: len(steps(run)) >= 1, "a first step")
    children = descendants(process.pid)
    process.kill()
    process.communicate()
    assert children
    wait_for(lambda: not [pid for pid in children if runs.process_start(pid)], "the engine's end", 5)
    assert state_of(run).kind == "lost"
    # It may have been killed between reading a step in the engine's output and writing it down.
    (run / "metrics.jsonl").write_text('{"step": 1, "tra')
    assert attempt(launch.dir).returncode == 0
    assert learned(run) == uninterrupted


def test_an_attempt_saves_and_ends_before_its_allocation_does(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float]
) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    ends = str(int(time.time() + paced(3)))
    done = attempt(launch.dir, SLURM_JOB_END_TIME=ends, STANDIN_STEP_SECONDS=str(paced(0.7)))
    assert done.returncode == 0, done.stdout
    assert time.time() < float(ends) + limit(1)
    now = state_of(run)
    assert now.kind == "stopped"
    assert "saved before the time limit" in now.why
    given = files.read_yaml(run / "attempts" / "1" / "nemo_rl.yaml")
    assert given["checkpointing"]["checkpoint_must_save_by"] <= dd_hh_mm_ss(paced(3))
    assert attempt(launch.dir).returncode == 0
    assert learned(run) == uninterrupted


def test_a_run_that_stops_for_good_is_no_success_to_a_job_that_waits_for_it(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout, "slurm.requeue=false")
    ids = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_END_TIME": str(int(time.time() + paced(3))),
        "STANDIN_STEP_SECONDS": str(paced(0.7)),
    }
    done = attempt(launch.dir, PATH=f"{tmp_path}:/usr/bin:/bin", **ids)
    assert state_of(run_of(launch)).kind == "stopped", done.stdout
    assert done.returncode == module.NOT_DONE


# --- one at a time --------------------------------------------------------------------------------------------------


def test_a_second_attempt_does_nothing_while_the_first_is_alive(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    first = start_attempt(launch.dir, STANDIN_STEP_SECONDS=str(paced(1.5)))
    try:
        wait_for(lambda: len(steps(run)) >= 1, "a first step")
        second = attempt(launch.dir)
        assert second.returncode == module.NOT_DONE
        assert f"is being executed by process {first.pid}" in second.stdout
        assert [a.number for a in runs.attempts(run)] == [1]
        note = runs.load(run).last("note")
        assert note is not None
        assert "did not execute it" in note.data["text"]
    finally:
        out, _ = first.communicate(timeout=limit(90))
    assert first.returncode == 0, out
    assert steps(run) == [1, 2, 3, 4]


def test_an_attempt_that_was_followed_while_it_waited_leaves_the_metrics_alone(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launched(tmp_path, checkout)
    folder = run_of(launch)
    rows = '{"step": 1, "train/reward": 0.5}\n'
    (folder / "metrics.jsonl").write_text(rows)

    def followed(*_: object) -> None:
        make_attempt(folder, 2, runs.this_process())

    monkeypatch.setattr(module, "_bury_lost", followed)
    order = module.find(launch.dir, 0, None)
    assert module.execute(order, NeverStopped()) == 0  # type: ignore[arg-type]
    assert (folder / "metrics.jsonl").read_text() == rows
    assert not (folder / "attempts/1/end.json").exists()
    assert [e.kind for e in runs.load(folder).events] == ["submit", "start"]


def test_of_attempts_started_at_once_one_executes(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    started = [start_attempt(launch.dir, STANDIN_STEP_SECONDS=str(paced(0.3))) for _ in range(4)]
    said = [process.communicate(timeout=limit(60))[0] for process in started]
    assert sorted(process.returncode for process in started) == [0, *[module.NOT_DONE] * 3], said
    assert sum("is being executed by" in text for text in said) == 3
    assert [a.number for a in runs.attempts(run)] == [1]
    assert steps(run) == [1, 2, 3, 4]


JOB = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "15"}


def as_job(monkeypatch: pytest.MonkeyPatch, restart: int, **ids: str) -> None:
    for name, value in {**JOB, **ids, "SLURM_RESTART_COUNT": str(restart)}.items():
        monkeypatch.setenv(name, value)


def owned(folder: Path, job: str | None, restart: int = 0) -> runs.Run:
    run = make_run(folder)
    make_attempt(run, 1, Owner(job, restart, "node1", 7, 1.0))
    return runs.load(run)


def test_a_requeued_job_takes_its_run_up_again_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    as_job(monkeypatch, 1)
    number, folder, owner = module.claim(owned(tmp_path, "12_3", 0))
    assert (number, folder.name, owner.job, owner.restart) == (2, "2", "12_3", 1)


def test_the_same_job_does_not_execute_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_job(monkeypatch, 1)
    with pytest.raises(module.Refuse, match="by this same job"):
        module.claim(owned(tmp_path, "12_3", 1))


def test_without_an_answer_from_slurm_another_jobs_run_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    monkeypatch.setattr(claiming, "TRIES_S", 0.2)
    monkeypatch.setattr(claiming, "POLL_S", 0.1)
    as_job(monkeypatch, 0)
    run = owned(tmp_path, "11")
    with pytest.raises(module.Refuse, match=r"by job 11 \(or may be: Slurm does not answer\)"):
        module.claim(run)
    assert [a.number for a in runs.attempts(run.dir)] == [1]


@pytest.mark.parametrize(
    ("line", "claimed"),
    [
        ("11|RUNNING|n|None", False),
        ("11|COMPLETING|n|None", False),
        ("11|PENDING|n|None", True),
        ("99|RUNNING|n|None", True),
    ],
)
def test_slurm_decides_whether_another_jobs_attempt_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, claimed: bool
) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\necho '{line}'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    as_job(monkeypatch, 0)
    run = owned(tmp_path, "11")
    if claimed:
        assert module.claim(run)[0] == 2
    else:
        with pytest.raises(module.Refuse, match="job 11"):
            module.claim(run)


def test_an_attempt_that_ended_is_in_nobodys_way(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_attempt(run, 1, runs.this_process(), {"kind": "failed"})
    make_attempt(run, 2, dead_process())
    assert module.claim(runs.load(run))[0] == 3


@pytest.mark.parametrize(
    ("env", "job"),
    [({}, None), ({"SLURM_JOB_ID": "15"}, "15"), (JOB, "12_3"), ({**JOB, "SLURM_ARRAY_TASK_ID": ""}, "12")],
    ids=["none", "job", "task", "odd"],
)
def test_who_an_attempt_is(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], job: str | None) -> None:
    for name in JOB:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    owner = module.slurm_owner()
    assert (owner.job, owner.restart, owner.pid) == (job, 0, os.getpid())


# --- what was submitted is what runs --------------------------------------------------------------------------------


def test_only_the_launchs_own_copy_of_the_code_runs(tmp_path: Path, checkout: Path) -> None:
    """The batch script's very command, started in a folder with another nano_exp and with one on PYTHONPATH."""
    launch = launched(tmp_path, checkout, "grpo.max_num_steps=1")
    elsewhere = tmp_path / "edited"
    (elsewhere / "nano_exp" / "job").mkdir(parents=True)
    for name in ("__init__", "job/__init__", "job/attempt"):
        (elsewhere / "nano_exp" / f"{name}.py").write_text("raise SystemExit('the edited code ran')\n")
    copied = launch.dir / "code" / "nano_exp" / "job" / "attempt.py"
    copied.write_text(copied.read_text().replace("def main(", "print('the copy ran', flush=True)\n\n\ndef main(", 1))
    done = subprocess.run(
        ["/bin/sh", "-c", executors.attempt_command(launch.dir, 0)],
        cwd=elsewhere,
        env=environment(PYTHONPATH=str(elsewhere), STANDIN_STEP_SECONDS="0.01"),
        capture_output=True,
        text=True,
        timeout=limit(60),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("the copy ran\n")
    assert state_of(run_of(launch)).kind == "done"
    assert not (launch.dir / "code" / "conf").exists(), "there is nothing to compose from"


def test_what_keeps_the_attempt_apart_does_not_reach_the_engine(tmp_path: Path, checkout: Path) -> None:
    """Under PYTHONSAFEPATH a script does not find the files beside it: NeMo RL's and NeMo Gym's would fail."""
    launch = launched(tmp_path, checkout)
    process = start_attempt(launch.dir, STANDIN_STEP_SECONDS=str(paced(0.3)))
    try:
        wait_for(lambda: steps(run_of(launch)), "a first step")
        engine = descendants(process.pid)[0]
        env = dict(e.split("=", 1) for e in Path(f"/proc/{engine}/environ").read_text().split("\0") if "=" in e)
    finally:
        process.terminate()
        process.communicate(timeout=limit(20))
    assert "PYTHONSAFEPATH" not in env
    assert str(launch.dir) not in env.get("PYTHONPATH", "")


def test_the_attempt_needs_neither_hydra_nor_torch(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    code = "import sys, nano_exp.job.attempt, nano_exp.engines.nemo_rl.engine; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**attempt_env(launch.dir)),
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "nano_exp.job.attempt" in imported
    assert not imported & {"torch", "transformers", "wandb", "ray", "numpy", "submitit", "hydra", "omegaconf", "antlr4"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The stand-in as a git repository of its own, as NeMo RL's checkout is."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = copy_standin(tmp_path / "RL")
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "note.txt").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", text)
    return git(folder, "rev-parse", "HEAD")


def test_an_engine_of_another_commit_is_refused(tmp_path: Path, repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    launch = launched(tmp_path, repository)
    run = run_of(launch)
    assert runs.load(run).record["checkout_commit"] == before
    now = commit(repository, "second")
    done = attempt(launch.dir)
    assert done.returncode == 2
    assert state_of(run).kind == "failed"
    assert now in state_of(run).why
    assert before in state_of(run).why
    assert f"checkout {before}" in (run / "attempts" / "1" / "attempt.log").read_text()
    assert not (run / "attempts" / "1" / "stdout.log").exists(), "the engine was not started"
    git(repository, "checkout", "-q", before)
    assert attempt(launch.dir).returncode == 0


def test_a_site_may_go_on_with_another_commit_and_it_is_said(tmp_path: Path, repository: Path) -> None:
    launch = launched(tmp_path, repository, "site.changed_checkout=continue", "grpo.max_num_steps=1")
    run = run_of(launch)
    now = commit(repository, "second")
    done = attempt(launch.dir)
    assert done.returncode == 0
    assert "warning" in done.stdout
    note = runs.load(run).last("note")
    assert note is not None
    assert now in note.data["text"]


# --- small parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("done", 0, 4, 4, 0), ""),
        (("done", 0, 3, 4, 0), "ended by itself at step 3 of at most 4"),
        (("stopped", -15, 2, 4, signal.SIGTERM), "SIGTERM; checkpoint of step 2 of 4"),
        (("stopped", 0, 2, 4, 0), "saved before the time limit; checkpoint of step 2 of 4"),
        (("failed", 1, 0, 4, 0), "engine: exit code 1; no checkpoint yet"),
        (("failed", -9, 2, 4, 0), "engine: killed by SIGKILL; checkpoint of step 2 of 4"),
    ],
)
def test_an_end_in_words(arguments: tuple[str, int, int, int, int], why: str) -> None:
    end = ending.describe(*arguments)
    assert end["why"] == why
    assert end["exit_code"] == (arguments[1] if arguments[1] >= 0 else 128 - arguments[1])


def test_lines_of_a_growing_file_come_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("")
    ended, got = threading.Event(), []
    thread = threading.Thread(target=lambda: got.extend(child._lines(path, ended)))
    thread.start()
    with path.open("a", buffering=1) as file:
        for part in ("one\ntw", "o\n", "thr"):
            file.write(part)
            file.flush()
            time.sleep(0.02)
        file.write("ee")
    ended.set()
    thread.join(timeout=limit(5))
    assert [line for line in got if line is not None] == ["one", "two"]  # the third is cut off


def test_saved_steps_are_remembered_over_attempts_that_say_nothing_of_them(tmp_path: Path) -> None:
    config = {"checkpointing": {"checkpoint_dir": "/not/mounted"}}
    first, second = make_run(tmp_path, run="r1"), make_run(tmp_path, run="r2")
    make_attempt(first, 1, Owner("11", 0, "node1", 7, 1.0), {"kind": "stopped", "last_step": 5})
    make_attempt(first, 2, Owner("12", 0, "node1", 7, 1.0), {"kind": "failed", "exit_code": 2})
    make_attempt(second, 1, Owner("13", 0, "node1", 7, 1.0))
    runs.record_event(second, "engine", attempt=1, resumes_from=50)
    for run, step in ((first, 5), (second, 50)):
        with pytest.raises(UserError, match=f"where step {step} was saved"):
            engine_run._require_checkpoints(runs.load(run), config, 0)
        engine_run._require_checkpoints(runs.load(run), config, step)


def test_rows_are_recovered_past_an_attempt_whose_engine_never_began(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_attempt(run, 1, Owner("11", 0, "node1", 7, 1.0))
    make_attempt(run, 2, Owner("12", 0, "node1", 7, 1.0), {"kind": "failed"})
    (run / "attempts" / "1" / "stdout.log").write_text("1\n2\n3")
    runs.record_event(run, "engine", attempt=1, resumes_from=6)

    class Engine:
        def follow(self, config: Any, ctx: Any, lines: Any) -> Any:
            return (
                {"step": ctx.resumes_from + int(n), "time": 2e12, "train/reward": 0.5, "train/loss": 1.0} for n in lines
            )

    with metrics_file.open_to_append(run) as file:
        file.write(metrics_file.line({"step": 7, "time": 3.0, "train/reward": 0.5}))
    child.recover_rows(Engine(), {}, run, 2)  # type: ignore[arg-type]
    child.recover_rows(Engine(), {}, run, 2)  # type: ignore[arg-type]
    first, *others = metrics_file.read(run)
    assert first == {"step": 7, "time": 3.0, "train/reward": 0.5}
    ended = (run / "attempts" / "1" / "stdout.log").stat().st_mtime
    assert others == [
        {"step": 7, "time": ended, "train/loss": 1.0},
        {"step": 8, "time": ended, "train/reward": 0.5, "train/loss": 1.0},
    ]


def test_a_checkpoint_that_a_kill_cut_off_is_removed_by_the_next_attempt(tmp_path: Path, checkout: Path) -> None:
    launch = launched(tmp_path, checkout)
    run = run_of(launch)
    first = attempt(launch.dir, STANDIN_FAIL_AT_STEP="3")
    assert first.returncode != 0
    torn = run / "checkpoints" / "tmp_step_3"
    (torn / "policy").mkdir(parents=True)
    second = attempt(launch.dir)
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"removed {torn}: a checkpoint that was cut off" in second.stdout
    assert not torn.exists() and (run / "checkpoints" / "step_4").is_dir()


# --- hangs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["STANDIN_HANG_ONCE", "STANDIN_HANG"])
def test_a_hang_in_set_up_is_reported_and_the_run_goes_on_in_its_next_attempt_unless_that_hangs_too(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Without Slurm, in one process: report, report again, restart; the same hang once more is the end."""
    monkeypatch.setattr(child, "LOOK_S", 0.1)
    monkeypatch.setattr(watchdog, "TIMES", (1.0, 1.1, 1.2))
    monkeypatch.setenv(variable, "cluster")
    monkeypatch.setenv("STANDIN_STEP_SECONDS", "0.02")
    launch = launched(tmp_path, checkout, "engine.patience_min.ray=0.04", where="local")
    code = module.execute(module.find(launch.dir, 0, None), NeverStopped())  # type: ignore[arg-type]
    run = run_of(launch)
    ends = [attempt.end for attempt in runs.attempts(run)]
    reports = [
        (e.data["attempt"], e.data["phase"], e.data["number"]) for e in runs.load(run).events if e.kind == "stalled"
    ]
    assert reports[:3] == [(1, "ray", 1), (1, "ray", 2), (1, "ray", 3)]
    first = run / "attempts" / "1"
    assert sorted(path.name for path in first.glob("stacks-*")) == [f"stacks-ray-{n}.txt" for n in (1, 2, 3)]
    assert "in begin" in (first / "stderr.log").read_text(), "the driver's own last words"
    assert ends[0] is not None and (ends[0]["kind"], ends[0]["stalled"]) == ("failed", "ray")
    assert ends[0]["diagnosis"]["cause"] == "stalled"
    assert ends[0]["diagnosis"]["title"].startswith("stalled: starting Ray for ")
    if variable == "STANDIN_HANG_ONCE":
        assert (code, len(ends)) == (0, 2)
        assert ends[1] is not None and ends[1]["kind"] == "done"
        assert steps(run) == list(range(1, STEPS + 1))
        return
    assert (code != 0, len(ends)) == (True, 2)
    assert ends[1] is not None and ends[1]["diagnosis"]["title"].endswith(", as attempt 1 was")
    note = runs.load(run).last("note")
    assert note is not None and "2 attempts in a row stalled at the same place" in note.data["text"]
    assert state_of(run).kind == "failed"
