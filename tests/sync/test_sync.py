"""`nano-exp sync` with wandb's own client, against a stand-in for W&B's service: wandb_service.py has what it lacks."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import core_case
import pytest
from wandb_service import Service, serving

from nano_exp.store import metrics_file, runs
from nano_exp.sync import ledger, offline
from nano_exp.sync.rows import Row, first_difference, merged

KEY = "0123456789abcdef0123456789abcdef01234567"
DONE = {"kind": "done", "last_step": 4}
FAILED = {"kind": "failed", "last_step": 2, "exit_code": 1}


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as made:
        yield made


def make_run(folder: Path, run: str = "r1", logger: Mapping[str, Any] | None = None) -> Path:
    """A run of the engine nemo_rl with W&B on, no attempts and no rows."""
    home = folder / "results" / "lr" / run
    config = {
        "grpo": {"max_num_steps": 100},
        "engine": {"name": "nemo_rl"},
        "model": {"name": "nano_9b"},
        "cluster": {"num_nodes": 1, "gpus_per_node": 8},
        "checkpointing": {"checkpoint_dir": str(home / "checkpoints")},
        "logger": {
            "wandb_enabled": True,
            "log_dir": str(home / "logs"),
            "wandb": {"project": "p", "group": "lr", "name": f"lr=1 seed=2 {run}", "id": f"lr-{run}", "tags": ["t"]},
            **(logger or {}),
        },
    }
    record = {"overrides": ["optimizer.lr=1e-6", "grpo.seed=2"], "launch": "L"}
    return core_case.make_run(folder / "results", name="lr", run=run, record=record, config=config)


def log(run_dir: Path, *steps: int, salt: float = 0.0) -> None:
    """Append rows; another salt gives other values."""
    with metrics_file.open_to_append(run_dir) as file:
        for step in steps:
            file.write(metrics_file.line({"step": step, "time": 1000.0 + step, "train/loss": step / 3 + salt}))


def save(run_dir: Path, step: int) -> None:
    """A whole checkpoint."""
    folder = run_dir / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "training_info.json").write_text("{}")


def ended(run_dir: Path, end: Mapping[str, Any], number: int = 1) -> None:
    core_case.make_attempt(run_dir, number, core_case.dead_process(), end)


def running(run_dir: Path, number: int = 1) -> None:
    core_case.make_attempt(run_dir, number, runs.this_process())


def sync(folder: Path, service: Service, *words: str, **env: str | None) -> list[dict[str, Any]]:
    """`nano-exp sync WORDS --json`: the outcomes."""
    done = command(folder, service, *words, "--json", **env)
    assert not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def command(folder: Path, service: Service, *words: str, **env: str | None) -> subprocess.CompletedProcess[str]:
    given = {"WANDB_MODE": None, "WANDB_BASE_URL": service.url, "WANDB_API_KEY": KEY, "HOME": str(folder), **env}
    return core_case.nano_exp(folder, "sync", *words, **given)


def losses(service: Service, run_id: str = "lr-r1") -> dict[int, float]:
    return {row["_step"]: row["train/loss"] for row in service.runs[run_id].history}


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_done_is_one_wandb_run_with_its_rows_and_identity(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2, 3)
    ended(run_dir, DONE)
    [outcome] = sync(tmp_path, service)
    assert (outcome["kind"], outcome["rows"], outcome["step"], outcome["waiting"]) == ("sent", 3, 3, 0)
    sent = service.runs["lr-r1"]
    assert sent.history == [
        {"_step": step, "train/loss": step / 3, "_timestamp": 1000.0 + step, "_runtime": row["_runtime"]}
        for step, row in zip((1, 2, 3), sent.history, strict=True)
    ]
    fields = {key: sent.fields[key] for key in ("project", "groupName", "displayName", "tags", "jobType")}
    assert fields == {
        "project": "p",
        "groupName": "lr",
        "displayName": "lr=1 seed=2 r1",
        "tags": ["t"],
        "jobType": "train",
    }
    about = sent.config["nano_exp"]
    assert about["overrides"] == ["optimizer.lr=1e-6", "grpo.seed=2"]
    assert (about["model"], about["cluster"], about["run"], about["launch"]) == ("nano_9b", "1n8g", "lr/r1", "L")
    assert sent.config["grpo"] == {"max_num_steps": 100} and sent.exit_code == 0
    assert KEY not in json.dumps([sent.config, sent.fields]) and KEY not in (run_dir / ledger.FILE).read_text()


def test_only_what_is_new_is_sent_and_what_is_not_new_asks_nobody(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2)
    save(run_dir, 2)
    running(run_dir)
    assert sync(tmp_path, service)[0]["rows"] == 2
    asked = len(service.requests)
    assert sync(tmp_path, service)[0]["kind"] == "current" and len(service.requests) == asked
    log(run_dir, 3, 4)
    save(run_dir, 4)
    assert sync(tmp_path, service)[0]["rows"] == 2
    assert service.runs["lr-r1"].steps == [1, 2, 3, 4]


def test_a_run_that_goes_on_is_sent_up_to_its_last_whole_checkpoint(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2, 3, 4, 5)
    save(run_dir, 3)
    (run_dir / "checkpoints/tmp_step_5").mkdir()
    (run_dir / "checkpoints/step_4").mkdir()  # what an interrupted removal left
    running(run_dir)
    [outcome] = sync(tmp_path, service)
    assert (outcome["rows"], outcome["waiting"]) == (3, 2) and "next checkpoint" in outcome["remark"]
    (run_dir / "attempts/1/end.json").write_text(json.dumps(DONE))
    assert sync(tmp_path, service)[0]["rows"] == 2
    assert service.runs["lr-r1"].steps == [1, 2, 3, 4, 5]


def test_a_run_that_failed_may_be_retried_so_its_tail_waits_for_all(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2, 3)
    save(run_dir, 2)
    ended(run_dir, FAILED)
    [outcome] = sync(tmp_path, service)
    assert (outcome["rows"], outcome["waiting"]) == (2, 1) and "--all" in outcome["remark"]
    assert service.runs["lr-r1"].exit_code == 1
    assert sync(tmp_path, service, "--all")[0]["rows"] == 1
    assert service.runs["lr-r1"].steps == [1, 2, 3]


def test_what_is_not_finite_arrives_as_such(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    with metrics_file.open_to_append(run_dir) as file:
        file.write(metrics_file.line({"step": 1, "time": 1.0, "train/loss": math.nan, "train/reward": 0.5}))
    ended(run_dir, DONE)
    sync(tmp_path, service)
    [row] = service.runs["lr-r1"].history
    assert math.isnan(row["train/loss"]) and row["train/reward"] == 0.5


def test_runs_without_wandb_and_runs_that_log_themselves_are_left_alone(tmp_path: Path, service: Service) -> None:
    off = make_run(tmp_path, "r1", {"wandb_enabled": False})
    live = make_run(tmp_path, "r2")
    for run_dir in (off, live):
        log(run_dir, 1)
        running(run_dir)
    runs.record_event(live, "engine", attempt=1, wandb="online")
    assert [outcome["kind"] for outcome in sync(tmp_path, service)] == ["off", "live"]
    assert not service.requests


# --- what was sent too far ------------------------------------------------------------------------------------------


def abandon(run_dir: Path, resumed: int, logged: int) -> None:
    """An attempt resumed below what the one before it had logged, and trains those steps again."""
    runs.record_event(run_dir, "engine", attempt=2, resumes_from=resumed, logged=logged)
    metrics_file.cut(run_dir, resumed)


@pytest.mark.parametrize("rewinds", [True, False])
def test_steps_that_were_trained_again_replace_what_was_sent(tmp_path: Path, service: Service, rewinds: bool) -> None:
    service.rewinds = rewinds
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2, 3, 4, 5)
    save(run_dir, 2)
    ended(run_dir, FAILED)
    assert sync(tmp_path, service, "--all")[0]["rows"] == 5
    abandon(run_dir, 2, 5)
    log(run_dir, 3, 4, 5, 6, salt=0.5)
    ended(run_dir, DONE, number=2)
    [outcome] = sync(tmp_path, service)
    truth = {step: step / 3 + (0.5 if step > 2 else 0.0) for step in range(1, 7)}
    if rewinds:
        assert outcome["rows"] == 4 and "from step 3 on" in outcome["remark"] and losses(service) == truth
    else:
        assert outcome["rows"] == 6 and "lr-r1-2" in outcome["remark"] and losses(service, "lr-r1-2") == truth
        assert losses(service) == {step: step / 3 for step in range(1, 6)}
    assert sync(tmp_path, service)[0]["kind"] == "current"


def test_an_abandoned_stretch_that_the_engine_sent_itself_is_taken_back(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2, 3, 4)
    save(run_dir, 2)
    ended(run_dir, DONE)
    sync(tmp_path, service)
    (run_dir / ledger.FILE).unlink()  # as if the engine had sent it
    runs.record_event(run_dir, "engine", attempt=1, wandb="online")
    abandon(run_dir, 2, 4)
    log(run_dir, 3, 4, 5, salt=0.5)
    [outcome] = sync(tmp_path, service)
    assert outcome["rows"] == 3 and "from step 3 on" in outcome["remark"]
    assert losses(service) == {1: 1 / 3, 2: 2 / 3, 3: 1.5, 4: 4 / 3 + 0.5, 5: 5 / 3 + 0.5}


def test_what_the_engine_sent_itself_is_not_sent_again(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2)
    ended(run_dir, DONE)
    sync(tmp_path, service)
    (run_dir / ledger.FILE).unlink()
    runs.record_event(run_dir, "engine", attempt=1, wandb="online")
    log(run_dir, 3)  # the network was away for the last step
    assert sync(tmp_path, service)[0]["rows"] == 1 and service.runs["lr-r1"].steps == [1, 2, 3]


# --- interruptions --------------------------------------------------------------------------------------------------


def test_a_push_that_is_killed_is_completed_by_the_next_one(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, *range(1, 2001))
    ended(run_dir, DONE)
    env = core_case.environment(
        WANDB_MODE=None,
        WANDB_BASE_URL=service.url,
        WANDB_API_KEY=KEY,
        HOME=str(tmp_path),
        PYTHONPATH=str(core_case.ROOT),
    )
    argv = [sys.executable, "-c", "import sys; from nano_exp.cli import main; sys.exit(main())", "sync"]
    pushing = subprocess.Popen(argv, cwd=tmp_path, env=env, start_new_session=True)
    core_case.wait_for(lambda: "lr-r1" in service.runs and service.runs["lr-r1"].lines, "the first rows", 60)
    os.killpg(pushing.pid, signal.SIGKILL)
    pushing.wait()
    time.sleep(0.5)  # what was on its way
    [outcome] = sync(tmp_path, service)
    assert outcome["step"] == 2000 and losses(service) == {step: step / 3 for step in range(1, 2001)}


def test_a_service_that_is_down_fails_the_run_and_the_others_are_not_tried_for_ever(
    tmp_path: Path, service: Service
) -> None:
    for number in range(5):
        log(make_run(tmp_path, f"r{number}"), 1)
        ended(tmp_path / f"results/lr/r{number}", DONE)
    service.down = True
    done = command(tmp_path, service, "--json", WANDB_INIT_TIMEOUT="1")
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert done.returncode == 1 and kinds == ["failed", "failed", "failed", "skipped", "skipped"]
    assert KEY not in done.stdout + done.stderr
    service.down = False
    assert [outcome["rows"] for outcome in sync(tmp_path, service)] == [1, 1, 1, 1, 1]


def test_two_of_them_at_once_send_once(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1)
    ended(run_dir, DONE)
    with ledger.lock(run_dir) as alone:
        assert alone
        assert sync(tmp_path, service)[0]["kind"] == "busy"
    assert not service.runs


def test_a_ledger_that_was_lost_or_damaged_is_made_anew(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2)
    ended(run_dir, DONE)
    sync(tmp_path, service)
    (run_dir / ledger.FILE).write_text("{")
    assert sync(tmp_path, service)[0]["rows"] == 2
    assert service.runs["lr-r1"].steps == [1, 2]


def test_without_a_key_it_says_what_to_type(tmp_path: Path, service: Service) -> None:
    make_run(tmp_path)
    done = command(tmp_path, service, WANDB_API_KEY=None)
    assert done.returncode == 2 and "wandb login" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
    assert command(tmp_path, service, WANDB_API_KEY=None).returncode == 0


def test_watch_ends_with_the_last_run(tmp_path: Path, service: Service) -> None:
    run_dir = make_run(tmp_path)
    log(run_dir, 1, 2)
    save(run_dir, 1)
    running(run_dir)
    env = core_case.environment(
        WANDB_MODE=None,
        WANDB_BASE_URL=service.url,
        WANDB_API_KEY=KEY,
        HOME=str(tmp_path),
        PYTHONPATH=str(core_case.ROOT),
    )
    argv = [sys.executable, "-c", "import sys; from nano_exp.cli import main; sys.exit(main())", "sync"]
    watching = subprocess.Popen([*argv, "--watch", "--every", "0.1"], cwd=tmp_path, env=env, stdout=subprocess.PIPE)
    core_case.wait_for(lambda: "lr-r1" in service.runs and service.runs["lr-r1"].steps == [1], "the first row", 60)
    (run_dir / "attempts/1/end.json").write_text(json.dumps(DONE))
    assert watching.wait(60) == 0
    assert service.runs["lr-r1"].steps == [1, 2]


# --- rows -----------------------------------------------------------------------------------------------------------


def test_one_row_a_step_whatever_the_lines_were() -> None:
    lines = [
        {"step": 0, "time": 1.0, "validation/accuracy": 0.5},
        {"step": 2, "time": 2.0, "validation/accuracy": 0.6},
        {"step": 2, "time": 3.0, "train/loss": None, "nonfinite": ["train/loss"]},
        {"step": 1, "time": 1.5, "train/loss": 0.25},
    ]
    zero, one, two = merged(lines)
    assert (zero, one) == (Row(0, {"validation/accuracy": 0.5}, 1.0), Row(1, {"train/loss": 0.25}, 1.5))
    assert two.step == 2 and two.time == 3.0 and two.values["validation/accuracy"] == 0.6
    assert math.isnan(two.values["train/loss"])


@pytest.mark.parametrize(
    ("sent", "there", "last", "step"),
    [
        ({1: "a", 2: "b"}, {1: "a", 2: "b"}, 2, None),
        ({1: "a", 2: "b"}, {1: "a", 2: "c"}, 2, 2),
        ({1: "a", 2: "b"}, {1: "a", 2: "c"}, 1, None),  # it did not arrive
        ({1: "a", 2: "b", 3: "c"}, {1: "a"}, 3, 2),  # abandoned, and not yet trained again
        ({1: "a", 3: "c"}, {1: "a", 2: "b", 3: "c"}, 3, 2),  # W&B has a hole
        ({}, {1: "a"}, 5, 1),  # nothing is known of what W&B has
        ({}, {1: "a"}, -1, None),
    ],
)
def test_where_wandb_and_the_store_part(
    sent: dict[int, str], there: dict[int, str], last: int, step: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = {number: Row(number, {"x": ord(mark)}, 0.0).mark for number, mark in there.items()}
    known = {number: Row(number, {"x": ord(mark)}, 0.0).mark for number, mark in sent.items()}
    rows = [Row(number, {"x": ord(mark)}, 0.0) for number, mark in there.items()]
    assert [row.mark for row in rows] == list(marks.values())
    assert first_difference(known, rows, last) == step


# --- what stands beside the numbers ---------------------------------------------------------------------------------

NEMO_RLS = """
import pathlib, sys
import numpy, wandb
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
run = wandb.init(id="lr-r1", project="p", mode="offline", dir=str(folder), settings=wandb.Settings(console="off"))
for step in map(int, sys.argv[2:]):
    run.log({"ray/node.0.gpu.0.util": 50 + step}, commit=False)
    run.log({"train/loss": step + 0.0625, "train/lengths": wandb.Histogram([1, 2, step])}, step=step)
    table = wandb.Table(columns=["prompt"], data=[["é" * step]])
    run.log({"train/samples": table}, step=step, commit=True)
pathlib.Path(run.dir, "uncommitted_changes_diff.txt").write_text("a diff")
run.finish()
"""


def nemo_rls(log_dir: Path, experiment: str, *steps: int) -> None:
    """What NeMo RL leaves below log_dir/exp_NNN: tables, histograms, a file, GPU use."""
    folder = log_dir / experiment / "wandb"
    argv = [sys.executable, "-c", NEMO_RLS, str(folder), *map(str, steps)]
    subprocess.run(argv, env=core_case.environment(WANDB_MODE=None), check=True, capture_output=True)


def test_tables_histograms_and_files_of_nemo_rl_go_along_without_what_was_abandoned(
    tmp_path: Path, service: Service
) -> None:
    run_dir = make_run(tmp_path)
    log_dir = run_dir / "logs"
    log(run_dir, 1, 2)
    nemo_rls(log_dir, "exp_001", 1, 2, 3)
    abandon(run_dir, 2, 4)
    nemo_rls(log_dir, "exp_002", 4)  # step 3's row was lost in a kill
    log(run_dir, 3, 4)
    ended(run_dir, DONE)
    assert sync(tmp_path, service)[0]["rows"] == 4
    sent = service.runs["lr-r1"]
    one, two, three, four = sent.history
    assert [row["train/loss"] for row in sent.history] == [1 / 3, 2 / 3, 1.0, 4 / 3]  # metrics.jsonl's, not wandb's
    assert one["train/lengths"]["_type"] == "histogram" and len(one["train/lengths"]["values"]) == 64
    assert two["ray/node.0.gpu.0.util"] == 52
    assert "train/samples" not in three
    for row, text in ((one, "é"), (two, "éé"), (four, "éééé")):
        assert row["train/samples"]["_type"] == "table-file"
        assert json.loads(sent.files[row["train/samples"]["path"]])["data"] == [[text]]
    assert sent.files["uncommitted_changes_diff.txt"] == b"a diff"


def test_an_offline_file_that_was_cut_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    nemo_rls(tmp_path, "exp_001", *range(1, 60))
    [path] = offline.paths(tmp_path)
    data = path.read_bytes()
    assert len(data) > 2 * offline.BLOCK
    whole = len(offline.read(path).rows)
    assert whole == 60  # and step 0, of the first GPU use
    for cut in (0, 3, 7, 20, offline.BLOCK - 3, offline.BLOCK + 5, len(data) - 1):
        path.write_bytes(data[:cut])
        assert len(offline.read(path).rows) <= whole
    path.write_bytes(data[: len(data) // 2])
    assert 10 < len(offline.read(path).rows) < whole


# --- all of it ------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_and_resumed_is_in_wandb_what_metrics_jsonl_says(
    tmp_path: Path, service: Service
) -> None:
    """Two attempts of the embedded engine, the first killed; each offline file, their union and W&B, key by key."""
    words = [word for word in core_case.TINY if not word.startswith("grpo.max_num_steps")]
    words += ["grpo.max_num_steps=40", "checkpointing.save_period=10", "grpo.val_period=5"]
    env = {"WANDB_MODE": None, "HOME": str(tmp_path)}
    launched = core_case.start_launch(tmp_path, *words, **env)
    core_case.wait_for(lambda: any(len(told_by(p.parent)) > 14 for p in rows_of(tmp_path)), "step 14", 120)
    run_dir = rows_of(tmp_path)[0].parent
    owner = runs.attempts(run_dir)[0].owner
    assert owner is not None
    for pid in (launched.pid, owner.pid):  # the engine dies with its attempt
        os.kill(pid, signal.SIGKILL)
    launched.wait()
    core_case.wait_for(lambda: runs.local_alive(owner) is False, "the attempt's death")
    time.sleep(1)
    core_case.wait_for(lambda: len(offline.load(run_dir / "logs")[0].rows) > 14, "wandb's own process", 30)
    told = told_by(run_dir)
    [first] = offline.load(run_dir / "logs")
    assert {step: first.rows[step] for step in told} == told
    sync(tmp_path, service)
    [sent] = service.runs.values()
    saved = max(int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*"))
    assert sent.steps == list(range(saved + 1))

    again = core_case.nano_exp(tmp_path, "retry", run_dir.name, timeout=120, **env)
    assert again.returncode == 0, again.stderr
    told = told_by(run_dir)
    union = offline.extras(offline.load(run_dir / "logs"), runs.load(run_dir))
    assert {step: extra.values for step, extra in union.items()} == told
    [outcome] = sync(tmp_path, service)
    assert outcome["kind"] == "sent" and sent.steps == list(range(41))
    for row in sent.history:
        assert {key: value for key, value in row.items() if not key.startswith("_")} == told[row["_step"]]


def rows_of(folder: Path) -> list[Path]:
    return list(folder.glob("results/*/*/metrics.jsonl"))


def told_by(run_dir: Path) -> dict[int, dict[str, Any]]:
    return {row.step: dict(row.values) for row in merged(metrics_file.read(run_dir))}
