"""The typed form of the YAML that the engine reads. `check` (keys.py) has already refused what cannot run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp.engines.embedded import schedule
from nano_exp.errors import UserError


@dataclass(frozen=True)
class WarmStart:
    """engine.warm_start: the supervised steps before GRPO. 0 steps: none."""

    steps: int = 150
    lr: float = 3e-3
    batch_size: int = 64


@dataclass(frozen=True)
class Settings:
    """Everything that the engine reads, each field under the name of its key or a longer one."""

    device: str
    threads: int
    warm_start: WarmStart
    seed: int
    prompts: int
    generations: int
    max_steps: int
    leave_one_out: bool
    normalize: bool
    advantage_clip: tuple[float | None, float | None]
    overlong_filtering: bool
    val_period: int
    val_at_start: bool
    val_at_end: bool
    val_batches: int
    val_batch_size: int
    loss: dict[str, Any]
    architecture: dict[str, Any]
    precision: str
    recompute: bool
    global_batch: int
    micro_batch: int
    logprob_batch: int
    max_grad_norm: float | None
    max_length: int
    max_new_tokens: int
    sampling: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: Any
    validation_share: float
    data_seed: int
    shuffle: bool
    checkpointing: bool
    checkpoint_dir: Path
    metric_name: str | None
    higher_is_better: bool
    keep_top_k: int | None
    save_period: int
    save_optimizer: bool
    must_save_by: int | None
    log_dir: Path
    wandb: dict[str, Any] | None
    samples_to_print: int
    raw: dict[str, Any] = field(repr=False)

    @property
    def answers(self) -> int:
        """Sequences of one rollout."""
        return self.prompts * self.generations


LOSS_KEYS = (
    "reference_policy_kl_penalty",
    "reference_policy_kl_type",
    "kl_input_clamp_value",
    "kl_output_clamp_value",
    "ratio_clip_min",
    "ratio_clip_max",
    "ratio_clip_c",
    "token_level_loss",
    "use_importance_sampling_correction",
)


def from_config(config: dict[str, Any]) -> Settings:
    """Settings from the sections of a checked config. Keys that may be absent take NeMo RL's default.

    Raises
    ------
    UserError: a folder is missing (a launch fills it in)
    """
    for section, key in (("checkpointing", "checkpoint_dir"), ("logger", "log_dir")):
        if not config[section].get(key):
            raise UserError(f"{section}.{key}=null", "the run needs a folder there", f"{section}.{key}=<folder>")
    grpo, policy, engine = config["grpo"], config["policy"], config["engine"]
    loss, data, saving, logger = config["loss_fn"], config["data"], config["checkpointing"], config["logger"]
    estimator = grpo.get("adv_estimator") or grpo
    generation, optimizer = policy["generation"], policy["optimizer"]["kwargs"]
    must_save_by = saving.get("checkpoint_must_save_by")
    samples = grpo.get("max_val_samples") or 0
    return Settings(
        device=engine.get("device", "auto"),
        threads=engine.get("threads", 1),
        warm_start=WarmStart(**(engine.get("warm_start") or {})),
        seed=grpo["seed"],
        prompts=grpo["num_prompts_per_step"],
        generations=grpo["num_generations_per_prompt"],
        max_steps=grpo["max_num_steps"],
        leave_one_out=estimator["use_leave_one_out_baseline"],
        normalize=estimator["normalize_rewards"],
        advantage_clip=(grpo.get("advantage_clip_low"), grpo.get("advantage_clip_high")),
        overlong_filtering=grpo.get("overlong_filtering", False),
        val_period=grpo["val_period"],
        val_at_start=grpo.get("val_at_start", False),
        val_at_end=grpo.get("val_at_end", False),
        val_batches=samples // grpo["val_batch_size"] if samples else 0,
        val_batch_size=grpo.get("val_batch_size") or 0,
        loss={key: loss[key] for key in LOSS_KEYS if key in loss},
        architecture=dict(policy["hf_config_overrides"]),
        precision=policy.get("precision", "float32"),
        recompute=(policy.get("dtensor_cfg") or {}).get("activation_checkpointing", False),
        global_batch=policy["train_global_batch_size"],
        micro_batch=policy["train_micro_batch_size"],
        logprob_batch=policy["logprob_batch_size"],
        max_grad_norm=policy.get("max_grad_norm"),
        max_length=policy["max_total_sequence_length"],
        max_new_tokens=generation["max_new_tokens"],
        sampling={key: generation[key] for key in ("temperature", "top_p", "top_k") if key in generation},
        optimizer=dict(optimizer),
        scheduler=policy.get("scheduler"),
        validation_share=data["train"]["split_validation_size"],
        data_seed=data["train"]["seed"],
        shuffle=data["shuffle"],
        checkpointing=saving["enabled"],
        checkpoint_dir=Path(saving["checkpoint_dir"]),
        metric_name=saving.get("metric_name"),
        higher_is_better=saving.get("higher_is_better", True),
        keep_top_k=saving.get("keep_top_k"),
        save_period=saving["save_period"],
        save_optimizer=saving.get("save_optimizer", True),
        must_save_by=None if must_save_by is None else schedule.seconds(must_save_by),
        log_dir=Path(logger["log_dir"]),
        wandb=dict(logger.get("wandb") or {}) if logger.get("wandb_enabled") else None,
        samples_to_print=logger.get("num_val_samples_to_print", 0),
        raw=config,
    )
