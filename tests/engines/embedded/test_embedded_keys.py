"""What the engine refuses, and that refusing needs no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nano_exp.engines import Refused, embedded
from nano_exp.engines.embedded import settings, task
from nano_exp.errors import UserError

WORDS = len(task.Vocabulary())
Make = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize("cluster", ["local", "1n1g", "1n8g"])
def test_the_tiny_runs_are_accepted(compose_tiny: Callable[..., dict[str, Any]], cluster: str) -> None:
    embedded.check(compose_tiny(f"cluster={cluster}"))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_fn.ratio_clip_c": 3.0, "loss_fn.token_level_loss": False},
        {"policy.train_global_batch_size": 32, "policy.train_micro_batch_size": 8, "policy.logprob_batch_size": 64},
        {"policy.generation.top_k": 5, "policy.generation.top_p": 0.9, "policy.generation.temperature": 0.7},
        {"checkpointing.checkpoint_must_save_by": "00:00:30:00", "checkpointing.keep_top_k": None},
        {"checkpointing.metric_name": "train:advantages/max"},
        {"policy.scheduler": None, "policy.max_grad_norm": None},
        {"policy.megatron_cfg.tensor_model_parallel_size": 8, "cluster.gpus_per_node": 8},
        {"logger.wandb.entity": "someone", "logger.wandb.job_type": "x"},
        {"policy.hf_config_overrides.hybrid_override_pattern": "ME*E"},
        {"grpo.skip_reference_policy_logprobs_calculation": True},
    ],
)
def test_accepted(default_config: Make, changes: dict[str, Any]) -> None:
    embedded.check(default_config(changes))


@pytest.mark.parametrize(
    ("changes", "found", "fix"),
    [
        # keys
        ({"grpo.num_generation_per_prompt": 8}, "grpo.num_generation_per_prompt=8", "grpo.num_generations_per_prompt"),
        ({"policy.generation.min_p": 0.1}, "policy.generation.min_p=0.1", "leave it out"),
        ({"policy.generation.vllm_cfg.tensor_parallel_size": 2}, "vllm_cfg.tensor_parallel_size=2", "engine=nemo_rl"),
        ({"policy.optimizer.kwargs.amsgrad": True}, "policy.optimizer.kwargs.amsgrad=true", "leave it out"),
        ({"policy.hf_config_overrides.rope_theta": 10000}, "rope_theta=10000", "leave it out"),
        ({"engine.thread": 2}, "engine.thread=2", "engine.threads"),
        ({"grop.seed": 1}, "grop.seed=1", "grpo.seed"),
        # values
        ({"policy.precision": "float16"}, "policy.precision=float16", "another value"),
        ({"policy.dtensor_cfg.activation_checkpointing": 1}, "activation_checkpointing=1", "another value"),
        (
            {"policy.dtensor_cfg.tensor_parallel_size": 2},
            "policy.dtensor_cfg.tensor_parallel_size=2",
            "policy.dtensor_cfg.tensor_parallel_size=1",
        ),
        (
            {"policy.megatron_cfg.enabled": True},
            "policy.megatron_cfg.enabled=true",
            "policy.megatron_cfg.enabled=false",
        ),
        ({"grpo.use_dynamic_sampling": True}, "grpo.use_dynamic_sampling=true", "grpo.use_dynamic_sampling=false"),
        ({"grpo.async_grpo.enabled": True}, "grpo.async_grpo.enabled=true", "grpo.async_grpo.enabled=false"),
        ({"policy.generation.backend": "vllm"}, "policy.generation.backend=vllm", "policy.generation.backend=hf"),
        ({"policy.generation.temperature": 0.0}, "policy.generation.temperature=0.0", "another value"),
        ({"policy.generation.top_p": 1.5}, "policy.generation.top_p=1.5", "another value"),
        ({"policy.generation.top_k": 0}, "policy.generation.top_k=0", "another value"),
        ({"policy.optimizer.kwargs.lr": "2e-3"}, "policy.optimizer.kwargs.lr=2e-3", "another value"),
        (
            {"policy.optimizer.name": "torch.optim.SGD"},
            "policy.optimizer.name=torch.optim.SGD",
            "policy.optimizer.name=torch.optim.AdamW",
        ),
        ({"loss_fn.reference_policy_kl_type": "k4"}, "loss_fn.reference_policy_kl_type=k4", "another value"),
        ({"loss_fn.ratio_clip_c": 0.5}, "loss_fn.ratio_clip_c=0.5", "another value"),
        (
            {"policy.model_name": "nvidia/NVIDIA-Nemotron-Nano-9B-v2"},
            "policy.model_name=nvidia",
            "policy.model_name=nano_tiny",
        ),
        ({"policy.hf_config_overrides.hybrid_override_pattern": "MX"}, "hybrid_override_pattern=MX", "another value"),
        ({"policy.hf_config_overrides.attention_dropout": 0.1}, "attention_dropout=0.1", "attention_dropout=0.0"),
        ({"logger.tensorboard_enabled": True}, "logger.tensorboard_enabled=true", "logger.tensorboard_enabled=false"),
        ({"checkpointing.checkpoint_must_save_by": "3h"}, "checkpointing.checkpoint_must_save_by=3h", "another value"),
        ({"engine.device": "tpu"}, "engine.device=tpu", "another value"),
        ({"cluster.num_nodes": 2}, "cluster.num_nodes=2", "cluster.num_nodes=1"),
        ({"policy.scheduler": [{"name": "StepLR", "kwargs": {}}]}, "policy.scheduler=", "another value"),
        # combinations
        ({"grpo.num_generations_per_prompt": 1}, "grpo.num_generations_per_prompt=1", "16"),
        ({"policy.train_global_batch_size": 48}, "train_global_batch_size=48", "train_global_batch_size=32"),
        ({"policy.train_micro_batch_size": 48}, "train_micro_batch_size=48", "train_micro_batch_size=32"),
        ({"policy.logprob_batch_size": 100}, "logprob_batch_size=100", "logprob_batch_size=64"),
        ({"grpo.num_prompts_per_step": 128}, "num_prompts_per_step=128", "120"),
        ({"grpo.max_num_epochs": 2}, "grpo.max_num_epochs=2", "grpo.max_num_epochs=8"),
        ({"grpo.max_val_samples": 20}, "grpo.max_val_samples=20", "grpo.val_batch_size=20"),
        ({"data.train.split_validation_size": 0}, "split_validation_size=0", "0.25"),
        ({"policy.generation.max_new_tokens": 6}, "policy.generation.max_new_tokens=6", "12"),
        (
            {"policy.generation.max_new_tokens": 30},
            "max_new_tokens=30",
            f"policy.max_total_sequence_length={task.longest_prompt() + 30}",
        ),
        ({"checkpointing.metric_name": "val:acuracy"}, "checkpointing.metric_name=val:acuracy", "val:accuracy"),
        ({"checkpointing.metric_name": "accuracy"}, "checkpointing.metric_name=accuracy", "val:accuracy"),
        ({"grpo.adv_estimator.normalize_rewards": False}, "normalize_rewards=true", "grpo.normalize_rewards=false"),
        (
            {"grpo.skip_reference_policy_logprobs_calculation": True, "loss_fn.reference_policy_kl_penalty": 0.1},
            "reference_policy_kl_penalty=0.1",
            "reference_policy_kl_penalty=0",
        ),
        ({"policy.hf_config_overrides.vocab_size": 10}, "vocab_size=10", f"vocab_size={WORDS}"),
        ({"policy.hf_config_overrides.num_key_value_heads": 3}, "num_key_value_heads=3", "num_key_value_heads=2"),
        (
            {"policy.hf_config_overrides.hybrid_override_pattern": "ME", "policy.hf_config_overrides.n_group": 4},
            "n_group=4",
            "n_group=1",
        ),
        ({"policy.optimizer.kwargs.lr": 1e-4}, "eta_min=0.002", "optimizer.min_lr"),
    ],
)
def test_refused(default_config: Make, changes: dict[str, Any], found: str, fix: str) -> None:
    with pytest.raises(UserError) as refusal:
        embedded.check(default_config(changes))
    assert found in refusal.value.found and fix in refusal.value.fix
    assert refusal.value.why and refusal.value.code == 2


def test_all_mistakes_are_reported_at_once(default_config: Make) -> None:
    """Keys, values, what is missing, and what values have in common where each of those is possible."""
    config = default_config(
        {
            "grpo.sed": 1,
            "policy.generation.vllm_cfg": {"precision": "fp8", "kwargs": {"x": 1}},
            "policy.precision": "float16",
            "grpo.num_prompts_per_step": 0,
            "policy.train_micro_batch_size": 48,
            "checkpointing.metric_name": "val:acuracy",
            "site.python": "/no/such/python",
        }
    )
    del config["grpo"]["seed"]
    with pytest.raises(Refused) as refusal:
        embedded.check(config)
    assert [mistake.keys for mistake in refusal.value.mistakes] == [
        ("grpo.sed",),
        ("policy.generation.vllm_cfg.precision", "policy.generation.vllm_cfg.kwargs.x"),
        ("grpo.num_prompts_per_step",),
        ("policy.precision",),
        ("grpo.seed",),
        ("policy.train_micro_batch_size", "policy.train_global_batch_size"),
        ("checkpointing.metric_name",),
        ("site.python",),
    ]
    assert str(refusal.value).count("error: ") == str(refusal.value).count("  fix: ") == 8


def test_a_missing_key_is_named(default_config: Make) -> None:
    config = default_config({})
    del config["grpo"]["seed"]
    with pytest.raises(UserError, match=r"grpo\.seed is missing"):
        embedded.check(config)


def test_every_neutral_key_says_why_and_none_is_supported() -> None:
    assert all(settings.NEUTRAL)
    assert not set(settings.PATTERNS) & set(settings.KEYS)


def test_check_imports_neither_torch_nor_transformers_nor_wandb() -> None:
    script = (
        "import sys; from nano_exp.engines import embedded\n"
        "try: embedded.check({'grpo': {'sed': 1}})\n"
        "except Exception as error: print(error)\n"
        "print({'torch', 'transformers', 'wandb', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "fix: grpo.seed=1" in done.stdout and done.stdout.endswith("set()\n")


def test_the_overlay_counts_from_now_to_the_allocations_end(default_config: Make, tmp_path: Path) -> None:
    import time

    from nano_exp.engines import Context
    from nano_exp.engines.embedded import schedule

    def overlay(deadline: float | None, own: str | None = None) -> dict[str, object]:
        context = Context(tmp_path, tmp_path / "attempts/1", 1, tmp_path / "nemo_rl.yaml", deadline)
        return embedded.overlay(default_config({"checkpointing.checkpoint_must_save_by": own}), context)

    key = "checkpointing.checkpoint_must_save_by"
    assert overlay(None) == {}
    text = str(overlay(time.time() + 3600)[key])
    assert 3500 <= schedule.seconds(text) <= 3600 - embedded.SAVE_MARGIN_S
    assert overlay(time.time() + 3600, "00:00:10:00")[key] == "00:00:10:00"
    assert overlay(time.time() - 5)[key] == "00:00:00:00"


def test_the_command_runs_this_code_with_the_sites_python(default_config: Make, tmp_path: Path) -> None:
    from nano_exp.engines import Context

    context = Context(tmp_path, tmp_path / "attempts/1", 1, tmp_path / "attempts/1/nemo_rl.yaml", None)
    config = default_config({"site.python": "/opt/python", "site.env": {"NCCL_DEBUG": "INFO"}})
    command = embedded.command(config, context)
    assert command.argv == [
        *("/opt/python", "-m", "nano_exp.engines.embedded", "--config", str(context.config_path)),
        *("--metrics", str(tmp_path / "metrics.jsonl")),
    ]
    assert command.env["NCCL_DEBUG"] == "INFO" and command.cwd == tmp_path
    assert command.env["PYTHONPATH"].split(":")[0] == str(Path(embedded.__file__).parents[3])
    assert embedded.command(default_config({}), context).argv[0] == sys.executable
    assert list(embedded.follow(default_config({}), context, ["step 1"])) == []
