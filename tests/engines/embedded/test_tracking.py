"""metrics.jsonl and W&B: rows survive what runs do to them, keys stay out, failures do not reach training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nano_exp.engines.embedded import tracking
from nano_exp.store import metrics_file
from nano_exp.sync import offline
from nano_exp.sync.rows import merged


def write(path: Path, *steps: int) -> None:
    file = tracking.MetricsFile(path, clock=lambda: 5.0)
    for step in steps:
        file.write(step, {"train/loss": 0.1 + step})
    file.sync()
    file.close()


def test_a_row_is_one_json_object_in_full_precision(tmp_path: Path) -> None:
    path = tmp_path / "run/metrics.jsonl"
    write(path, 1, 2)
    assert path.read_text().splitlines()[0] == '{"step": 1, "time": 5.0, "train/loss": 1.1}'
    file = tracking.MetricsFile(path)
    row = file.write(3, {"x": 1 / 3})
    assert json.loads(path.read_text().splitlines()[2]) == row
    file.close()


def test_what_is_not_finite_is_null_beside_its_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = tracking.MetricsFile(path, clock=lambda: 5.0)
    file.write(4, {"train/loss": float("nan"), "train/grad_norm": float("-inf"), "train/reward": 0.5})
    file.close()
    values = {"train/loss": None, "train/grad_norm": None, "train/reward": 0.5}
    assert strict(path) == [{"step": 4, "time": 5.0, **values, "nonfinite": ["train/loss", "train/grad_norm"]}]


def strict(path: Path) -> list[dict[str, object]]:
    """Rows as a reader has them that knows JSON and nothing else."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


OFFLINE = """
import sys, pathlib
from nano_exp.engines.embedded import tracking
folder = pathlib.Path(sys.argv[1])
options = {"project": "p", "name": "the name", "id": "run-1", "group": "a sweep", "tags": ["t"], "resume": "allow"}
wandb = tracking.Wandb(options, {"grpo": {"seed": 1}}, folder, run="run-1")
assert wandb.active
wandb.log(1, {"train/reward": 0.5, "validation/accuracy": 0.25})
wandb.finish({"reward_after": 0.5})
"""


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "HOME": str(tmp_path), **more}


def test_offline_without_a_key_writes_the_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "logs")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [record] = (tmp_path / "logs/wandb").glob("offline-run-*-run-1/run-run-1.wandb")
    content = record.read_bytes()
    for text in (b"the name", b"a sweep", b"train/reward", b"validation/accuracy", b"reward_after"):
        assert text in content


KILLED = """
import os, signal, sys, pathlib, time
from nano_exp.engines.embedded import tracking
run_dir = pathlib.Path(sys.argv[1])
file = tracking.MetricsFile(run_dir / "metrics.jsonl")
wandb = tracking.Wandb({"project": "p", "id": "run-1", "resume": "allow"}, {}, run_dir / "logs")
for step in range(1, 51):
    metrics = {"train/reward": step / 7, "train/loss": step / 1e9, "timing/train/total_step_time": 1 / step}
    file.write(step, metrics)
    wandb.log(step, metrics)
time.sleep(10 * tracking.FLUSH_S)
os.killpg(0, signal.SIGKILL)
"""


def test_a_kill_loses_no_row_of_the_offline_file(tmp_path: Path) -> None:
    """Read back with wandb's own protobuf, and compared with metrics.jsonl key by key."""
    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(argv, env=environment(tmp_path), start_new_session=True, capture_output=True)
    assert done.returncode == -9
    [recorded] = offline.load(tmp_path / "logs")
    told = {row.step: dict(row.values) for row in merged(metrics_file.read(tmp_path))}
    assert len(told) == 50 and recorded.rows == told


def test_a_users_mode_wins_and_the_key_is_written_nowhere(tmp_path: Path) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "logs")],
        env=environment(tmp_path, WANDB_API_KEY=key, WANDB_MODE="offline"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    assert not [path for path in written if key.encode() in path.read_bytes()]
    assert key not in done.stdout + done.stderr


def test_an_unreachable_server_is_said_and_the_run_recorded_offline(tmp_path: Path) -> None:
    key = "0123456789abcdef0123456789abcdef01234567"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE.replace("options =", "tracking.INIT_TIMEOUT_S = 3; options ="), str(tmp_path)],
        env=environment(tmp_path, WANDB_API_KEY=key, WANDB_BASE_URL="http://127.0.0.1:9"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: W&B cannot be reached") == 1 and "nano-exp sync run-1" in done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*-run-1/run-run-1.wandb"))
    assert key not in done.stdout + done.stderr


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    wandb = tracking.Wandb({"project": "p"}, {}, tmp_path / "file/logs", said.append)
    wandb.log(1, {"x": 1.0})
    wandb.finish({})
    assert not wandb.active
    assert len(said) == 1 and "training goes on" in said[0] and "metrics.jsonl" in said[0]


def test_no_options_no_wandb() -> None:
    assert not tracking.Wandb(None, {}, Path("/nowhere")).active


class Broken:
    """A W&B run whose disk is full, and which repeats the key in its error."""

    def log(self, metrics: dict[str, float], step: int, commit: bool) -> None:
        raise OSError("no space left; key secret-key-of-a-user")


def test_a_failure_while_logging_ends_tracking_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-key-of-a-user")
    said: list[str] = []
    wandb = tracking.Wandb(None, {}, tmp_path, said.append)
    wandb._run = Broken()
    wandb.log(1, {"x": 1.0})
    wandb.log(2, {"x": 1.0})
    assert len(said) == 1 and "no space left" in said[0]
    assert "secret-key-of-a-user" not in said[0]
