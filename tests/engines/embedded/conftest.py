"""A tiny config made from the project's own conf tree, and runs in forked children (torch is imported once)."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import core_case
import pytest
import yaml

from nano_exp import dotted
from nano_exp.compose import conf_tree, freeze
from nano_exp.store import run_config

Config = dict[str, Any]

SMALL = (
    "policy.hf_config_overrides.hybrid_override_pattern=M*",
    "policy.hf_config_overrides.hidden_size=16",
    "policy.hf_config_overrides.num_attention_heads=2",
    "policy.hf_config_overrides.num_key_value_heads=1",
    "policy.hf_config_overrides.head_dim=8",
    "policy.hf_config_overrides.intermediate_size=16",
    "policy.hf_config_overrides.mamba_num_heads=2",
    "policy.hf_config_overrides.mamba_head_dim=8",
    "policy.hf_config_overrides.ssm_state_size=8",
    "grpo.num_prompts_per_step=2",
    "grpo.num_generations_per_prompt=4",
    "grpo.max_num_steps=7",
    "grpo.val_period=2",
    "grpo.max_val_samples=4",
    "grpo.val_batch_size=4",
    "policy.train_global_batch_size=4",
    "policy.train_micro_batch_size=2",
    "loss_fn.reference_policy_kl_penalty=0.05",
    "checkpointing.save_period=2",
    "checkpointing.keep_top_k=2",
    "engine.warm_start.steps=3",
    "engine.warm_start.batch_size=4",
    "engine.device=cpu",
    "logger.wandb_enabled=false",
)


def composed(*overrides: str) -> Config:
    """The frozen config of `python launch.py <overrides>`."""
    with conf_tree.loader() as config_loader:
        [point] = core_case.compose_points(config_loader, [["model=nano_tiny", *overrides]])
    return freeze.freeze(point, Path("/nowhere")).config


@pytest.fixture(scope="session")
def compose_tiny() -> Callable[..., Config]:
    """`composed`, for tests."""
    return composed


@pytest.fixture(scope="session")
def _default_config() -> Config:
    return composed()


@pytest.fixture(scope="session")
def _small_config() -> Config:
    return composed(*SMALL)


def changed(config: Config, changes: dict[str, Any]) -> Config:
    new = copy.deepcopy(config)
    for key, value in changes.items():
        dotted.set_dotted(new, key, value)
    return new


@pytest.fixture
def default_config(_default_config: Config) -> Callable[[dict[str, Any]], Config]:
    """The default run's config with dotted keys changed."""
    return lambda changes: changed(_default_config, changes)


@pytest.fixture
def small_config(_small_config: Config, tmp_path: Path) -> Callable[..., Config]:
    """A run of seconds, in a folder of its own."""

    def make(changes: dict[str, Any] | None = None, folder: str = "run") -> Config:
        own = {
            "checkpointing.checkpoint_dir": str(tmp_path / folder / "checkpoints"),
            "logger.log_dir": str(tmp_path / folder / "logs"),
        }
        return run_config.engine_config(changed(_small_config, own | (changes or {})))

    return make


class Runner:
    """Runs the engine's main in a forked child, as `python -m nano_exp.engines.embedded` would."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    def start(self, config: Config, folder: str, before: Callable[[], None] = lambda: None) -> int:
        """Start a child and return its process id. `before` runs in the child first."""
        import torch

        from nano_exp.engines.embedded import __main__, rollout, train

        assert train
        torch.set_num_threads(1)
        run = self.tmp_path / folder
        run.mkdir(exist_ok=True)
        (run / "nemo_rl.yaml").write_text(yaml.safe_dump(config))
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            out = os.open(run / "stdout.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            # So few steps never write a right call; a reward of chance gives every step advantages to learn from.
            rollout.reward = lambda example, text, done: float(len(text) % 3 == 0)
            before()
            code = __main__.main(["--config", str(run / "nemo_rl.yaml"), "--metrics", str(run / "metrics.jsonl")])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def run(self, config: Config, folder: str = "run", before: Callable[[], None] = lambda: None) -> int:
        """Run to the end; the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(config, folder, before), 0)[1])

    def output(self, folder: str = "run") -> str:
        return (self.tmp_path / folder / "stdout.log").read_text()

    def rows(self, folder: str = "run") -> list[Config]:
        return [json.loads(line) for line in (self.tmp_path / folder / "metrics.jsonl").read_text().splitlines()]

    def numbers(self, folder: str = "run") -> list[Config]:
        """Rows without what a clock decides."""
        return [
            {name: value for name, value in row.items() if name != "time" and not name.startswith("timing/")}
            for row in self.rows(folder)
        ]

    def checkpoints(self, folder: str = "run") -> list[str]:
        return sorted(path.name for path in (self.tmp_path / folder / "checkpoints").iterdir())


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)
