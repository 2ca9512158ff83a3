"""Lines of status: why, GPU-hours, what to do next, filters and orders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, aged, dead_process, intend, make_attempt, make_run

from nano_exp import files, slurm
from nano_exp.errors import UserError
from nano_exp.report import status, table
from nano_exp.report.next_step import ending
from nano_exp.report.status import Line
from nano_exp.slurm import Ended
from nano_exp.store import metrics_file, phase, predecessors, runs, state
from nano_exp.store.predecessors import Wait
from nano_exp.store.runs import Owner

NOW = 2e9
JOB = state.job_name("L", 0, "name")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A launch of two nodes with eight GPUs each, sent as array 12."""
    folder = runs.launch_dir(tmp_path, "L")
    folder.mkdir(parents=True)
    files.write_json(folder / "manifest.json", {"arrays": [{"shape": {"nodes": 2, "gpus_per_node": 8}, "runs": []}]})
    runs.record_job(tmp_path, "L", 0, "12")
    return tmp_path


def sent(results: Path, task: int = 0, **record: Any) -> Path:
    folder = make_run(results, run=f"r{task}", record={"max_steps": 10, "created": 1.0, **record})
    intend(folder, array=0, task=task)
    return folder


def tried(folder: Path, number: int = 1, end: Mapping[str, Any] | None = None, task: int = 0) -> Path:
    made = make_attempt(folder, number, Owner(f"12_{task}", 0, "node1", 7, 1.0), end)
    runs.record_event(folder, "start", durable=False, attempt=number, launch="L")
    return made


def line(results: Path, *queue: str) -> Line:
    (found,) = status.lines(results, [], Answer(queue))
    return found


# --- why, and what next ---------------------------------------------------------------------------------------------

DIAGNOSIS = {"cause": "gpu_oom", "title": "out of GPU memory", "remedy": "policy.x=1", "fault": "config"}


def test_a_failure_is_named_with_its_remedy(results: Path) -> None:
    tried(sent(results), end={"kind": "failed", "why": "exit code 1", "diagnosis": DIAGNOSIS})
    found = line(results)
    assert (found.state, found.why, found.cause) == ("failed", "out of GPU memory", "gpu_oom")
    assert found.next == "fix: policy.x=1"


def test_where_slurm_is_silent_the_last_attempts_end_is_told_all_the_same(results: Path) -> None:
    tried(sent(results), end={"kind": "failed", "why": "exit code 1", "diagnosis": DIAGNOSIS})
    (found,) = status.lines(results, [], Answer(None))
    assert (found.state, found.cause) == ("unknown", "gpu_oom")
    assert found.why == "Slurm does not answer; attempt 1 failed: out of GPU memory"
    assert found.next == "the same again when Slurm answers"


def test_a_fault_of_the_cluster_is_tried_again(results: Path) -> None:
    tried(sent(results), end={"kind": "failed", "diagnosis": {**DIAGNOSIS, "fault": "infrastructure"}})
    assert line(results).next == "nano-exp retry r0"


def test_a_failure_without_a_diagnosis_has_its_log(results: Path) -> None:
    tried(sent(results), end={"kind": "failed", "why": "exit code 1"})
    found = line(results)
    assert (found.why, found.next) == ("exit code 1", "nano-exp logs r0")


def test_what_slurm_was_asked_to_start_again_needs_nobody(results: Path) -> None:
    folder = sent(results)
    tried(folder, end={"kind": "stopped", "why": "time limit"})
    runs.record_event(folder, "requeue", attempt=1, by="attempt", why="time limit, with steps left")
    found = line(results, f"12_0|PENDING|{JOB}|BeginTime")
    assert (found.state, found.why, found.next) == (
        "pending",
        "its start time has not come (BeginTime)",
        "starts again by itself",
    )


@pytest.mark.parametrize(
    ("queued", "why", "then"),
    [
        ("PENDING|NAME|Priority", "others in the queue come first (Priority)", ""),
        ("PENDING|NAME|JobHeldUser", "held by its user (JobHeldUser)", "scontrol release 12_0"),
        ("PENDING|NAME|launch failed requeued held", "launch failed requeued held", "scontrol release 12_0"),
        ("PENDING|NAME|launch_failed_requeued_held", "launch failed requeued held", "scontrol release 12_0"),
        ("REQUEUE_HOLD|NAME|None", "requeue hold", "scontrol release 12_0"),
        (
            "PENDING|NAME|DependencyNeverSatisfied",
            "waits for a job that will not end as it must (DependencyNeverSatisfied)",
            "nano-exp cancel r0",
        ),
        ("CONFIGURING|NAME|None", "configuring", ""),
    ],
)
def test_a_waiting_run_says_for_what(results: Path, queued: str, why: str, then: str) -> None:
    sent(results)
    found = line(results, f"12_[0-9%4]|{queued.replace('NAME', JOB)}")
    assert (found.state, found.why, found.job) == ("pending", why, "12_0")
    assert found.next == then if not then.startswith("nano-exp") else found.next.startswith(then)


def test_a_run_that_stalls_says_since_when_until_a_step_comes(results: Path) -> None:
    folder = sent(results)
    tried(folder)
    (folder / runs.METRICS).write_text('{"step": 3, "train/reward": 0.5}\n')
    runs.record_event(folder, "stalled", attempt=1, seconds=1800.0, step=3)
    found = line(results, f"12_0|RUNNING|{JOB}|None")
    assert (found.state, found.stalled_s) == ("running", 1800.0)
    assert found.why == "stalled: no step after 3 for 30 min or longer"
    assert found.next == "nano-exp logs r0"
    assert status.filtered([found], "stalled") == [found]
    (folder / runs.METRICS).write_text('{"step": 4, "train/reward": 0.5}\n')
    found = line(results, f"12_0|RUNNING|{JOB}|None")
    assert (found.stalled_s, found.why) == (None, "")


def test_a_run_that_waits_for_a_cache_says_for_whom_until_it_goes_on(results: Path) -> None:
    folder = sent(results)
    tried(folder)
    runs.record_event(folder, "waiting", attempt=1, what="mcore that run r5 (job 12_1) makes")
    assert line(results, f"12_0|RUNNING|{JOB}|None").why == "waits for mcore that run r5 (job 12_1) makes"
    runs.record_event(folder, "waiting", attempt=1, what="")
    assert line(results, f"12_0|RUNNING|{JOB}|None").why == ""


def test_a_run_that_executes_says_in_which_phase_it_is(results: Path) -> None:
    folder = sent(results)
    attempt, queue = tried(folder), Answer([f"12_0|RUNNING|{JOB}|None"])
    phase.write(attempt, phase.Now("vllm", NOW - 90.0))
    (found,) = status.lines(results, [], queue, now=NOW)
    assert (found.why, found.phase, found.phase_s) == ("starting vLLM for 1 min 30 s", "vllm", 90.0)
    runs.record_event(folder, "stalled", attempt=1, seconds=1800.0, step=0, phase="vllm", number=1)
    (found,) = status.lines(results, [], queue, now=NOW)
    assert (found.why, found.stalled_s) == ("stalled: starting vLLM for 30 min or longer", 1800.0)
    phase.write(attempt, phase.Now("policy", NOW - 5.0))
    (found,) = status.lines(results, [], queue, now=NOW)
    assert (found.why, found.stalled_s) == ("loading the model for 5 s", None), "it has got on"
    phase.write(attempt, phase.Now("step", NOW))
    (found,) = status.lines(results, [], queue, now=NOW)
    assert (found.why, found.phase) == ("", "step")


def test_a_loss_that_is_not_finite_is_said_while_it_runs_and_when_it_is_done(results: Path) -> None:
    folder = sent(results)
    attempt = tried(folder)
    with metrics_file.open_to_append(folder) as file:
        file.write(metrics_file.line({"step": 2, "train/reward": 0.5}))
        file.write(metrics_file.line({"step": 3, "train/reward": float("nan"), "train/loss": float("nan")}))
    found = line(results, f"12_0|RUNNING|{JOB}|None")
    assert (found.state, found.step, found.reward) == ("running", 3, 0.5)
    assert found.why == "train/reward is not finite in step 3"
    files.write_json(attempt / "end.json", {"kind": "done", "why": "", "nonfinite": "train/loss was not finite"})
    found = line(results, "")
    assert (found.state, found.why) == ("done", "train/loss was not finite")


def test_another_job_that_has_the_number_by_now_is_not_taken_for_the_runs(results: Path) -> None:
    folder = sent(results)
    assert line(results, "12_0|RUNNING|somebody else's|None").state == "unstarted"
    tried(folder)
    assert line(results, "12_0|RUNNING|somebody else's|None").state == "lost"
    assert line(results, f"12_0|RUNNING|{JOB}|None").state == "running"


def test_an_attempt_in_another_job_than_the_submissions_has_a_name_of_its_own(results: Path) -> None:
    folder = sent(results)
    make_attempt(folder, 1, Owner("99", 0, "node1", 7, 1.0))  # as a canary's
    assert line(results, "99|RUNNING|another name|None").state == "running"


# --- accounting -----------------------------------------------------------------------------------------------------

SACCT = f"""12_0|OUT_OF_MEMORY|0:125|node1|{JOB}
12_1|CANCELLED by 4294967|0:0|None assigned|{JOB}
12_2|NODE_FAIL|0:0|node[1-2]|{JOB}
12_2|RUNNING|0:0|node[1-2]|{JOB}
12_3|TIMEOUT|0:0|node1|somebody else's
12_4|FAILED|1:0|node1|{JOB}
12_4|COMPLETED|0:0|node1|{JOB}
12_5|CANCELLED by 0|0:0|None assigned|allocation
garbage
"""


def test_recorded_lines_of_sacct() -> None:
    names = {f"12_{task}": JOB for task in range(6)}
    found = slurm.parse_accounting(SACCT, names)
    assert found == {
        "12_0": Ended("OUT_OF_MEMORY", "0:125", "node1"),
        "12_1": Ended("CANCELLED by 4294967", "0:0", "None assigned"),
        "12_2": Ended("NODE_FAIL", "0:0", "node[1-2]"),
        "12_4": Ended("COMPLETED", "0:0", "node1"),
        "12_5": Ended("CANCELLED by 0", "0:0", "None assigned"),
    }
    assert set(slurm.parse_accounting(SACCT, {})) == {*names}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("OUT_OF_MEMORY", "0:125", "node1", ""), "out of host memory on node1 (OUT_OF_MEMORY)"),
        (("NODE_FAIL", "0:0", "n[1-2]", ""), "its node failed on n[1-2] (NODE_FAIL)"),
        (("TIMEOUT", "0:0", "n1", ""), "ended by its time limit (TIMEOUT)"),
        (("CANCELLED by 1001", "0:0", "None assigned", ""), "cancelled by uid 1001"),
        (("CANCELLED by 0", "0:0", "None assigned", "root"), "cancelled by root"),
        (("FAILED", "1:0", "n1", ""), "its batch script failed (exit code 1:0)"),
        (("NEW_STATE", "0:0", "n1", ""), "new state (NEW_STATE)"),
    ],
)
def test_how_a_job_ended_in_words(columns: tuple[str, str, str, str], said: str) -> None:
    assert ending(*columns) == said


@pytest.fixture
def sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sacct and squeue that print $tmp_path/bin/NAME.txt, and the file of the calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sacct", SACCT), ("squeue", "")):
        (folder / f"{name}.txt").write_text(text)
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\nexec cat {folder}/{name}.txt\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "calls"


def test_accounting_says_why_runs_vanished_with_one_question_and_once(results: Path, sacct: Path) -> None:
    for task in range(4):
        tried(sent(results, task), task=task)
    sent(results, 6)
    aged(results)
    for _ in range(2):
        whys = [found.why for found in status.lines(results, [], status.QueueLookup(), now=NOW)]
        assert whys[:3] == [
            "out of host memory on node1 (OUT_OF_MEMORY)",
            "cancelled by uid 4294967",
            "its node failed on node[1-2] (NODE_FAIL)",
        ]
        assert "killed, or its node died" in whys[3], "the record is another job's"
        assert "left the queue" in whys[4], "there is no record"
    calls = [call.split()[0] for call in sacct.read_text().splitlines()]
    assert calls == ["squeue", "sacct"] * 2, "the second time for those without a record"
    (sacct.parent / "sacct.txt").write_text(SACCT + f"12_3|TIMEOUT|0:0|node1|{JOB}\n12_6|PREEMPTED|0:0||{JOB}\n")
    for _ in range(2):
        assert status.lines(results, [], status.QueueLookup(), now=NOW)[3].why == "ended by its time limit (TIMEOUT)"
    calls = [call.split()[0] for call in sacct.read_text().splitlines()][4:]
    assert calls == ["squeue", "sacct", "squeue"]


def test_where_squeue_is_silent_sacct_is_not_waited_for_too(results: Path, sacct: Path) -> None:
    tried(make_run(results, run="local"), task=0)
    (sacct.parent / "squeue").write_text(f'#!/bin/sh\necho "squeue" >> {sacct}\necho down >&2\nexit 1\n')
    asked = status.QueueLookup()
    (found,) = status.lines(results, [], asked, now=NOW)
    assert found.state == "unknown"
    assert asked.error == "down"
    assert sacct.read_text().split() == ["squeue"]


# --- GPU-hours ------------------------------------------------------------------------------------------------------


def test_gpu_hours_are_those_of_all_attempts_and_of_the_running_one_until_now(results: Path) -> None:
    folder = sent(results)
    tried(folder, 1, {"kind": "stopped", "seconds": 1800.0})
    tried(folder, 2)
    (run,) = status.lines(
        results, [], Answer([f"12_0|RUNNING|{JOB}|None"]), now=runs.load(folder).events[-1].time + 900
    )
    assert run.gpu_hours == pytest.approx(16 * (1800 + 900) / 3600)


def test_an_attempt_that_vanished_counts_until_it_last_printed(results: Path) -> None:
    import os

    folder = sent(results)
    made = tried(folder)
    (made / "stdout.log").write_text("x")
    began = runs.load(folder).events[-1].time
    os.utime(made / "stdout.log", (began + 360, began + 360))
    assert line(results).gpu_hours == pytest.approx(1.6, rel=1e-3)


def test_where_nothing_tells_the_gpus_there_are_no_gpu_hours(tmp_path: Path) -> None:
    make_attempt(make_run(tmp_path), 1, dead_process(), {"kind": "done", "seconds": 5})
    assert line(tmp_path).gpu_hours is None


# --- which, and in which order --------------------------------------------------------------------------------------


def lines_of(results: Path) -> list[Line]:
    tried(sent(results, 0), end={"kind": "failed"}, task=0)
    for task, reward in ((1, 0.25), (2, 0.75)):
        folder = sent(results, task, created=float(task))
        tried(folder, end={"kind": "done", "seconds": 10.0 * task}, task=task)
        (folder / runs.METRICS).write_text(json.dumps({"step": task, "train/reward": reward}) + "\n")
    sent(results, 3)
    return status.lines(results, [], Answer([f"12_3|PENDING|{JOB}|Priority"]))


def test_lines_are_filtered_by_state(results: Path) -> None:
    found = lines_of(results)

    def ids(states: str) -> list[str]:
        return [line.run for line in status.filtered(found, states)]

    assert ids("done") == ["r1", "r2"]
    assert ids("failed, active") == ["r0", "r3"]
    with pytest.raises(UserError) as caught:
        ids("faild")
    assert caught.value.fix == "--state failed"


@pytest.mark.parametrize(
    ("by", "ids"),
    [
        ("reward", ["r2", "r1", "r0", "r3"]),
        ("-reward", ["r1", "r2", "r0", "r3"]),
        ("state", ["r1", "r2", "r0", "r3"]),
        ("step", ["r2", "r1", "r0", "r3"]),
        ("gpu-hours", ["r2", "r1", "r0", "r3"]),
    ],
)
def test_lines_are_ordered_and_what_has_no_value_comes_last(results: Path, by: str, ids: list[str]) -> None:
    assert [line.run for line in status.ordered(lines_of(results), by)] == ids


def test_runs_stand_as_they_were_launched_and_are_ordered_by_an_axis(results: Path) -> None:
    for place, lr in enumerate(("5e-6", "1e-6", "1e-5")):
        record = {"launch": "L", "place": place, "overrides": [f"optimizer.lr={lr}"]}
        make_run(results, name="lr", run=f"r{9 - place}", record=record)
    base = make_run(results, name="lr", run="r0", record={"launch": "M"}, config={"optimizer": {"lr": 2e-6}})
    found = status.lines(results, ["lr"], Answer([]))

    def ids(by: str) -> list[str]:
        return [line.run for line in status.ordered(found, by)]

    assert ids("name") == ["r9", "r8", "r7", "r0"]
    assert ids("-name") == ["r0", "r7", "r8", "r9"]
    assert ids("lr") == ids("optimizer.lr") == ["r7", "r9", "r0", "r8"]
    assert ids("-lr") == ["r8", "r0", "r9", "r7"]
    assert [line.point for line in status.lines(results, ["r0"], Answer([]))] == [{"optimizer.lr": 2e-6}], "of its name"
    (base / "config.yaml").unlink()
    shutil.rmtree(results / ".cache", ignore_errors=True)
    assert status.lines(results, ["r0"], Answer([]))[0].point == {"optimizer.lr": "?"}


def test_an_order_that_is_not_there_is_answered_with_the_nearest(results: Path) -> None:
    with pytest.raises(UserError) as caught:
        status.ordered([], "rewrad")
    assert caught.value.fix == "--sort reward"


def test_runs_of_the_launching_machine_count_no_gpu_hours(results: Path) -> None:
    folder = sent(results)
    tried(folder, 1, {"kind": "done", "seconds": 1800.0})
    assert line(results).gpu_hours == pytest.approx(8)
    manifest = next((results / runs.LAUNCHES).glob("*/manifest.json"))
    files.write_json(manifest, {**files.read_json(manifest), "where": "local"})
    assert line(results).gpu_hours is None


# --- one id under two names, and what comes after what ----------------------------------------------------------------


def test_what_to_type_names_one_run_also_where_another_name_has_its_id(results: Path) -> None:
    tried(sent(results), end={"kind": "failed", "why": "exit code 1"})
    make_run(results, name="other", run="r0")
    found = {line.name: line.next for line in status.lines(results, [], Answer([]))}
    assert found == {"name": "nano-exp logs name/r0", "other": "nano-exp retry other/r0"}


def test_a_dependency_says_what_it_waits_for_and_what_brings_it_on(results: Path) -> None:
    for task in range(2):
        sent(results, task)
    post = make_run(results, name="post", run="r9", record={"max_steps": 10, "created": 1.0})
    runs.record_event(post, "submit", launch="M", array=0, task=None, after_attempt=0, after=["afterok:12"])
    folder = runs.launch_dir(results, "M")
    folder.mkdir()
    runs.record_job(results, "M", 0, "20")
    predecessors.write(folder, [Wait("afterok", run="name/r0"), Wait("afterok", run="name/r1")])

    def looked(*queue: str) -> tuple[str, str, str]:
        (found,) = status.lines(results, ["post"], Answer(queue))
        return found.state, found.why, found.next

    waiting = f"20|PENDING|{state.job_name('M', 0, 'post')}|Dependency"
    running, second = f"12_0|RUNNING|{JOB}|None", f"12_1|PENDING|{JOB}|Priority"
    assert looked(running, second, waiting) == ("pending", "waits for name/r0 (running), name/r1 (pending)", "")
    runs.record_event(results / "name/r1", "cancel", job="12_1")
    said = "name/r1 (cancelled), name/r0 (running)"
    assert looked(running, waiting) == ("pending", f"waits for {said}", "nano-exp retry name/r1")
    gone = ("unstarted", f"did not start: it came after {said}", "nano-exp retry name/r1 r9")
    assert looked(running) == gone
    runs.record_event(post, "cancel", why="it comes after name/r1 (cancelled)")
    assert looked(running) == ("cancelled", "it comes after name/r1 (cancelled)", "nano-exp retry name/r1 r9")


def test_an_array_that_waits_for_its_canary_says_so(results: Path) -> None:
    folder = make_run(results, run="r0", record={"max_steps": 10})
    runs.record_event(folder, "submit", launch="L", array=0, task=0, after_attempt=0, canary=True)
    waiting = f"12_0|PENDING|{JOB}|Dependency"
    assert line(results, waiting).why == "waits for its launch's canary (not started)"
    runs.record_job(results, "L", runs.CANARY, "11")
    canary = make_run(runs.launch_dir(results, "L") / runs.CANARY, run="r0-canary")
    made = make_attempt(canary, 1, Owner("11", 0, "node1", 7, 1.0))
    assert line(results, waiting).why == "waits for its launch's canary (job 11, started)"
    for kind, said in (("failed", "failed"), ("done", "came through")):
        files.write_json(made / "end.json", {"kind": kind})
        assert line(results, waiting).why == f"waits for its launch's canary (job 11, {said})"


def test_runs_that_ended_and_recorded_wandb_offline_are_to_be_sent_until_they_were(results: Path) -> None:
    folder = sent(results)
    with metrics_file.open_to_append(folder) as file:
        file.write(metrics_file.line({"step": 4, "train/reward": 0.5}))
    made = tried(folder)
    assert not line(results, f"12_0|RUNNING|{JOB}|None").unsent
    (made / "end.json").write_text(json.dumps({"kind": "done", "wandb": "offline"}))
    found = line(results)
    assert found.unsent and table.unsent([found]) == "W&B lacks steps of 1 run that has ended: nano-exp sync name"
    [before] = status.lines(results, [], Answer(()), NOW)
    runs.record_event(folder, "synced", step=4)
    [found] = status.lines(results, [], Answer(()), NOW)
    assert not found.unsent and table.unsent([found]) == "" and found.age_s == before.age_s


@pytest.mark.parametrize("mode", ["online", "", "disabled"])
def test_runs_that_logged_to_wandb_or_have_it_off_are_not_to_be_sent(results: Path, mode: str) -> None:
    folder = sent(results)
    with metrics_file.open_to_append(folder) as file:
        file.write(metrics_file.line({"step": 4, "train/reward": 0.5}))
    tried(folder, end={"kind": "done", "wandb": mode})
    assert not line(results).unsent
