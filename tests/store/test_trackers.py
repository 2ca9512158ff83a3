"""What trackers are told of a run, and where a run's W&B rows go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import core_case
import pytest

from nano_exp import files
from nano_exp.preflight import tokens
from nano_exp.store import runs, trackers

OVERRIDES = ["model=nano_9b", "optimizer.lr=1e-6", "grpo.seed=2"]


def made(
    folder: Path, logger: dict[str, Any], axes: list[str] | None = None, overrides: list[str] | None = None
) -> Path:
    """A run with two attempts on Slurm, and its launch."""
    name = "optimizer.lr=1e-6 seed=2 r1"
    config = {
        "engine": {"name": "nemo_rl"},
        "model": {"name": "nano_9b"},
        "cluster": {"num_nodes": 2, "gpus_per_node": 8},
        "grpo": {"seed": 2},
        "logger": {"wandb": {"name": name}, **logger},
    }
    record = {"overrides": overrides or OVERRIDES, "launch": "L", "nemo_rl": "v0.7.0", "checkout_commit": "c" * 40}
    run_dir = core_case.make_run(folder, name="lr", run="r1", record=record, config=config)
    launch = runs.launch_dir(folder, "L")
    files.make_dir(launch)
    typed = ["-m", "model=nano_9b", "optimizer.lr=1e-6,5e-6", "grpo.seed=2"]
    files.write_json(launch / "manifest.json", {"where": "slurm", "overrides": typed, "axes": axes or []})
    files.write_json(launch / "git.json", {"commit": "a" * 40, "dirty": True})
    core_case.intend(run_dir)
    for number, (job, host) in enumerate((("12_3", "n1"), ("12_3", "n2")), 1):
        runs.record_event(run_dir, "start", attempt=number, job=job, host=host)
    return run_dir


def overlay(run_dir: Path) -> dict[str, object]:
    run = runs.load(run_dir)
    return trackers.overlay(run, run.config())


def test_wandb_is_told_what_a_person_filters_by(tmp_path: Path) -> None:
    told = overlay(made(tmp_path, {"wandb_enabled": True, "wandb": {"name": "x r1"}}, ["optimizer.lr"]))
    assert told["logger.wandb.name"] == "lr=1e-6 r1"  # what differs, not all that was typed
    assert told["logger.wandb.notes"] == "python launch.py -m model=nano_9b optimizer.lr=1e-6,5e-6 grpo.seed=2"
    assert told["logger.wandb.job_type"] == "train"
    assert told["logger.wandb.config"] == {
        "nano_exp": {
            "run": "lr/r1",
            "launch": "L",
            "overrides": OVERRIDES,
            "axes": {"optimizer.lr": 1e-6},
            "commit": "a" * 40,
            "uncommitted_changes": True,
            "nemo_rl": "v0.7.0",
            "nemo_rl_commit": "c" * 40,
            "engine": "nemo_rl",
            "model": "nano_9b",
            "cluster": "2n8g",
            "slurm_jobs": ["12_3"],
            "hosts": ["n1", "n2"],
            "attempts": 2,
            "user": "somebody",
        }
    }


def test_an_axis_that_a_run_was_not_given_has_its_configs_value(tmp_path: Path) -> None:
    told = overlay(made(tmp_path, {"wandb_enabled": True}, ["grpo.seed"], ["model=nano_9b"]))
    config = told["logger.wandb.config"]
    assert isinstance(config, dict) and config["nano_exp"]["axes"] == {"grpo.seed": 2}


def test_what_the_user_chose_for_wandb_stands(tmp_path: Path) -> None:
    own = {"name": "mine-r1", "notes": "why", "job_type": "sft", "config": {"team": "a"}}
    told = overlay(made(tmp_path, {"wandb_enabled": True, "wandb": own}, ["optimizer.lr"]))
    assert [told[f"logger.wandb.{key}"] for key in ("name", "notes", "job_type")] == ["mine-r1", "why", "sft"]
    config = told["logger.wandb.config"]
    assert isinstance(config, dict) and config["team"] == "a" and config["nano_exp"]["run"] == "lr/r1"


def test_a_secret_in_what_was_typed_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "abcdefgh12345")
    typed = ["optimizer.lr=1e-6", "grpo.note=abcdefgh12345"]
    told = overlay(made(tmp_path, {"wandb_enabled": True}, ["grpo.note"], typed))
    assert "abcdefgh12345" not in str(told)


def test_swanlab_is_one_experiment_and_mlflow_has_the_runs_name(tmp_path: Path) -> None:
    logger = {"swanlab_enabled": True, "mlflow_enabled": True, "mlflow": {"run_name": "grpo-dev-logger"}}
    run_dir = made(tmp_path, logger, ["optimizer.lr"])
    told = overlay(run_dir)
    assert told["logger.swanlab.name"] == told["logger.mlflow.run_name"] == "lr=1e-6 r1"
    assert told["logger.swanlab.resume"] == "allow" and told["logger.swanlab.id"] == trackers.swanlab_id(
        runs.load(run_dir)
    )
    assert len(str(told["logger.swanlab.id"])) == 21 and str(told["logger.swanlab.id"]).isalnum()
    assert "logger.mlflow.run_id" not in told and not any(key.startswith("logger.wandb") for key in told)


def test_a_typed_mlflow_name_is_kept_apart_by_the_runs_id(tmp_path: Path) -> None:
    logger = {"mlflow_enabled": True, "mlflow": {"run_name": "mine"}}
    assert overlay(made(tmp_path, logger, [], ["logger.mlflow.run_name=mine"])) == {"logger.mlflow.run_name": "mine-r1"}


def test_nothing_is_told_where_every_tracker_is_off_or_the_store_is_damaged(tmp_path: Path) -> None:
    run_dir = made(tmp_path, {"wandb_enabled": False})
    assert overlay(run_dir) == {}
    (runs.launch_dir(tmp_path, "L") / "manifest.json").write_text("{")
    run = runs.load(run_dir)
    assert trackers.describe(run, run.config()).notes == ""


@pytest.mark.parametrize(
    ("logger", "environ", "mode"),
    [
        ({"wandb_enabled": False}, {"WANDB_API_KEY": "k"}, ""),
        ({"wandb_enabled": True}, {}, "offline"),
        ({"wandb_enabled": True}, {"WANDB_API_KEY": "k"}, "online"),
        ({"wandb_enabled": True}, {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ({"wandb_enabled": True, "wandb": {"mode": "disabled"}}, {"WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_how_a_run_records(logger: dict[str, Any], environ: dict[str, str], mode: str) -> None:
    assert trackers.wandb_mode({"logger": logger}, environ) == mode


def test_a_key_is_found_in_the_environment_or_a_netrc_of_the_right_host(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password 0123\n")
    where = {"NETRC": str(netrc)}
    assert trackers.wandb_key({"WANDB_API_KEY": "k"}) == "WANDB_API_KEY"
    assert trackers.wandb_key(where) == str(netrc)
    assert trackers.wandb_key({**where, "WANDB_BASE_URL": "https://wandb.example.org"}) == ""
    assert trackers.wandb_key({"NETRC": str(tmp_path / "none")}) == ""


@pytest.mark.parametrize(
    ("environ", "env_yaml", "words"),
    [
        ({}, (), ["HF_TOKEN is not set: the hub gives public", "WANDB_API_KEY is not set: W&B is recorded offline"]),
        ({"HF_TOKEN": "t", "WANDB_API_KEY": "k"}, (), ["HF_TOKEN is set", "WANDB_API_KEY is set: runs log to W&B"]),
        ({}, ("HF_TOKEN", "WANDB_API_KEY"), ["HF_TOKEN is set", "WANDB_API_KEY is set: runs log to W&B"]),
        (
            {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"},
            (),
            ["HF_TOKEN is not", "WANDB_API_KEY is set: W&B is recorded"],
        ),
    ],
)
def test_preflight_says_which_tokens_there_are(
    environ: dict[str, str], env_yaml: tuple[str, ...], words: list[str], tmp_path: Path
) -> None:
    config = {"engine": {"name": "nemo_rl"}, "logger": {"wandb_enabled": True}}
    said = tokens.lines([config], {"NETRC": str(tmp_path / "none"), **environ}, env_yaml)
    assert len(said) == 2 and all(line.startswith(start) for line, start in zip(said, words, strict=True))
    assert not any(value in line for line in said for value in ("=t", "=k"))


def test_preflight_says_nothing_of_tokens_that_no_run_uses() -> None:
    assert tokens.lines([{"engine": {"name": "embedded"}, "logger": {"wandb_enabled": False}}], {}, ()) == []
