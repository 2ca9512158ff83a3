"""A small frozen config for the engine nemo_rl, on the stand-in checkout, and a way to run one attempt of it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pace import limit

from nano_exp.engines import Command, Context
from nano_exp.engines.nemo_rl import engine

STANDIN = Path(__file__).resolve().parents[1] / "standin"
SECTIONS = ("policy", "loss_fn", "env", "data", "grpo", "logger", "cluster", "checkpointing")


def make_config(tmp: Path, gym: bool = True, **changes: Any) -> dict[str, Any]:
    """A config whose runs write below `tmp`; `changes` are dotted paths with __ for the dot: grpo__max_num_steps=3."""
    required = yaml.safe_load((STANDIN / "required.yaml").read_text())
    config: dict[str, Any] = {}
    for path in required["always"] + required["megatron"] + required["grpo_script"]:
        put(config, path, False)
    values = {
        "nemo_rl": {
            "version": "v0.7.0",
            "scripts": {"gym": "examples/nemo_gym/run_grpo_nemo_gym.py", "grpo": "examples/run_grpo.py"},
        },
        "engine": {"name": "nemo_rl", "setup_margin_min": 15, "save_margin_min": 10, "ray_address": "local"},
        "site": {
            "checkout": str(STANDIN),
            "python": sys.executable,
            "hf_home": str(tmp / "hf"),
            "env": {"STANDIN_STEP_SECONDS": "0.01"},
            "setup": [],
        },
        "env": {"should_use_nemo_gym": gym, "should_log_nemo_gym_responses": gym, "nemo_gym": {}},
        "data.train": {"data_path": "train.jsonl"},
        "policy.model_name": "org/model",
        "policy.megatron_cfg.enabled": True,
        "policy.megatron_cfg.optimizer.lr": 5e-6,
        "policy.generation.backend": "vllm",
        "policy.generation.vllm_cfg": {},
        "grpo.num_prompts_per_step": 4,
        "grpo.num_generations_per_prompt": 8,
        "grpo.max_num_epochs": 1,
        "grpo.max_num_steps": 8,
        "grpo.max_val_samples": None,
        "grpo.val_period": 3,
        "grpo.val_at_start": True,
        "grpo.seed": 42,
        "logger.log_dir": str(tmp / "logs"),
        "cluster": {"num_nodes": 1, "gpus_per_node": 8},
        "checkpointing": {
            "enabled": True,
            "checkpoint_dir": str(tmp / "checkpoints"),
            "metric_name": None,
            "higher_is_better": True,
            "save_period": 3,
            "keep_top_k": None,
            "save_optimizer": True,
            "checkpoint_must_save_by": None,
        },
    }
    for path, value in values.items():
        put(config, path, value)
    for name, value in changes.items():
        put(config, name.replace("__", "."), value)
    return config


def put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for part in parents:
        if not isinstance(config.get(part), dict):
            config[part] = {}
        config = config[part]
    config[leaf] = value


def make_context(config: dict[str, Any], tmp: Path, number: int = 1, deadline: float | None = None) -> Context:
    """An attempt's folder with its YAML: the engine's sections and the overlay, as the attempt writes it."""
    attempt = tmp / "attempts" / str(number)
    attempt.mkdir(parents=True, exist_ok=True)
    ctx = Context(tmp, attempt, number, attempt / "nemo_rl.yaml", deadline)
    flat = json.loads(json.dumps({name: config[name] for name in SECTIONS}))
    for path, value in engine.overlay(config, ctx).items():
        put(flat, path, value)
    ctx.config_path.write_text(yaml.safe_dump(flat))
    return ctx


def start(command: Command) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command.argv, env=command.env, cwd=command.cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(config: dict[str, Any], tmp: Path, number: int = 1, deadline: float | None = None) -> tuple[int, str, str]:
    """One attempt to its end: exit code, stdout, stderr."""
    process = start(engine.command(config, make_context(config, tmp, number, deadline)))
    out, err = process.communicate(timeout=limit(30))
    return process.returncode, out, err


def followed(config: dict[str, Any], tmp: Path, printed: str, resumes_from: int = 0) -> list[dict[str, Any]]:
    """Rows of an attempt that has ended, by what it printed and logged."""
    ctx = Context(tmp, tmp, 1, tmp / "nemo_rl.yaml", resumes_from=resumes_from)
    return list(engine.follow(config, ctx, printed.splitlines()))


def float32(row: dict[str, Any]) -> dict[str, Any]:
    """A row's metrics as TensorBoard keeps them."""
    single = struct.Struct("<f")
    return {n: v if isinstance(v, int) else single.unpack(single.pack(v))[0] for n, v in row.items()}


def logged(tmp: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """The stand-in's own metrics over all its log folders, the later start winning: (step, kind) -> row."""
    rows = {}
    for folder in sorted((tmp / "logs").glob("exp_*")):
        for line in (folder / "standin_metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            rows[row["step"], "train" if "train/loss" in row else "validation"] = row
    return rows
