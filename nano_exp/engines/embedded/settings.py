"""Which of NeMo RL's keys this engine has: one table. What is refused, what has to be there and Settings come of it.

A field's key means what it means in NeMo RL v0.7.0, within the values that its kind allows; without a default it has to
be there. NEUTRAL keys cannot change this engine's result, for the reason given. Every other key is refused: one that is
ignored would lie. Imports no torch.
"""

# ruff: noqa: RUF009 (`key` and `section` make fields, as dataclasses.field does)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from nano_exp.engines.embedded import schedule, task
from nano_exp.engines.embedded.kinds import (
    Kind,
    anything,
    betas,
    choice,
    duration,
    enough,
    only,
    optional,
    pattern,
    real,
    scheduler,
    switch,
    text,
    top_k,
    whole,
)
from nano_exp.errors import UserError

TRAIN_METRICS = (
    *("loss", "kl_penalty", "probs_ratio", "probs_ratio_clamped", "probs_ratio_min", "probs_ratio_max"),
    *("probs_ratio_clamped_min", "probs_ratio_clamped_max", "token_mult_prob_error", "gen_kl_error"),
    *("policy_kl_error", "js_divergence_error", "sampling_importance_ratio", "approx_entropy", "num_valid_samples"),
    *("global_valid_toks", "global_valid_seqs", "grad_norm", "lr", "reward", "advantages/mean", "advantages/max"),
    *("advantages/min", "baseline_reward/pct_0", "baseline_reward/pct_1", "baseline_reward/pct_mixed"),
    *("mean_prompt_length", "total_num_tokens", "natural_termination_rate", "truncation_rate"),
    *("mean_total_tokens_per_sample", "mean_gen_tokens_per_sample", "max_gen_tokens_per_sample"),
)
#: Of a supervised step (engine.algorithm=sft).
SUPERVISED_METRICS = (
    *("loss", "grad_norm", "lr", "reward", "num_valid_samples", "global_valid_seqs", "global_valid_toks"),
    "total_num_tokens",
)
VALIDATION_METRICS = ("accuracy", "avg_length")


def key(name: str, kind: Kind, default: Any = MISSING) -> Any:
    """A field with the value of a dotted key."""
    return field(default=default, metadata={"key": name, "kind": kind})


def section(settings_class: type) -> Any:
    """A field that holds several keys."""
    return field(metadata={"section": settings_class})


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The supervised steps before GRPO. 0 steps: none."""

    steps: int = key("engine.warm_start.steps", whole(0), 150)
    lr: float = key("engine.warm_start.lr", real(above=0), 3e-3)
    batch_size: int = key("engine.warm_start.batch_size", whole(), 64)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The keys of `loss_fn` that this engine has, under their own names."""

    reference_policy_kl_penalty: float = key("loss_fn.reference_policy_kl_penalty", real(low=0), 0.01)
    reference_policy_kl_type: str = key("loss_fn.reference_policy_kl_type", choice("k1", "k2", "k3"), "k3")
    kl_input_clamp_value: float | None = key("loss_fn.kl_input_clamp_value", optional(real(above=0)), 20.0)
    kl_output_clamp_value: float | None = key("loss_fn.kl_output_clamp_value", optional(real(above=0)), 10.0)
    ratio_clip_min: float = key("loss_fn.ratio_clip_min", real(low=0), 0.2)
    ratio_clip_max: float = key("loss_fn.ratio_clip_max", real(low=0), 0.2)
    ratio_clip_c: float | None = key("loss_fn.ratio_clip_c", optional(real(above=1)), None)
    token_level_loss: bool = key("loss_fn.token_level_loss", switch, True)
    use_importance_sampling_correction: bool = key("loss_fn.use_importance_sampling_correction", switch, False)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """policy.generation's temperature, top_p and top_k (None or -1: off)."""

    temperature: float = key("policy.generation.temperature", real(above=0), 1.0)
    top_p: float = key("policy.generation.top_p", real(above=0, high=1), 1.0)
    top_k: int | None = key("policy.generation.top_k", top_k, None)

    @property
    def filters(self) -> bool:
        return self.top_p != 1.0 or (self.top_k is not None and self.top_k > 0)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """policy.optimizer.kwargs."""

    lr: float = key("policy.optimizer.kwargs.lr", real(low=0))
    weight_decay: float = key("policy.optimizer.kwargs.weight_decay", real(low=0))
    betas: list[float] = key("policy.optimizer.kwargs.betas", betas)
    eps: float = key("policy.optimizer.kwargs.eps", real(low=0))


_ALONE = "an answer is compared with the others to its prompt: with one every advantage is 0 and nothing is learned"
_SHORT = f"a right answer has {task.ANSWER_TOKENS} tokens, so no answer could earn a reward"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the engine reads. Keys that may be absent have NeMo RL's default."""

    device: str = key("engine.device", choice("cpu", "cuda", "auto"), "auto")
    threads: int = key("engine.threads", whole(), 1)
    algorithm: str = key("engine.algorithm", choice("grpo", "sft"), "grpo")
    init_from: str | None = key("engine.init_from", optional(text), None)  # filled in by the attempt
    warm_start: WarmStart = section(WarmStart)
    seed: int = key("grpo.seed", whole(0, 2**32 - 1))
    prompts: int = key("grpo.num_prompts_per_step", whole())
    generations: int = key("grpo.num_generations_per_prompt", enough(2, _ALONE, "2 or more (16 was measured to learn)"))
    max_steps: int = key("grpo.max_num_steps", whole())
    leave_one_out: bool = key("grpo.use_leave_one_out_baseline", switch)
    normalize: bool = key("grpo.normalize_rewards", switch)
    advantage_clip_low: float | None = key("grpo.advantage_clip_low", optional(real()), None)
    advantage_clip_high: float | None = key("grpo.advantage_clip_high", optional(real()), None)
    overlong_filtering: bool = key("grpo.overlong_filtering", switch, False)
    val_period: int = key("grpo.val_period", whole(0))
    val_at_start: bool = key("grpo.val_at_start", switch, False)
    val_at_end: bool = key("grpo.val_at_end", switch, False)
    val_samples: int | None = key("grpo.max_val_samples", optional(whole()), None)
    val_batch_size: int | None = key("grpo.val_batch_size", optional(whole()), None)
    loss: LossSettings = section(LossSettings)
    architecture: dict[str, Any]  # policy.hf_config_overrides: those of ARCHITECTURE that are there
    precision: str = key("policy.precision", choice("float32", "bfloat16"), "float32")
    recompute: bool = key("policy.dtensor_cfg.activation_checkpointing", switch, False)
    global_batch: int = key("policy.train_global_batch_size", whole())
    micro_batch: int = key("policy.train_micro_batch_size", whole())
    logprob_batch: int = key("policy.logprob_batch_size", whole())
    max_grad_norm: float | None = key("policy.max_grad_norm", optional(real(above=0)), None)
    max_length: int = key("policy.max_total_sequence_length", whole())
    max_new_tokens: int = key("policy.generation.max_new_tokens", enough(task.ANSWER_TOKENS, _SHORT, "12"))
    sampling: Sampling = section(Sampling)
    optimizer: AdamW = section(AdamW)
    scheduler: Any = key("policy.scheduler", scheduler, None)
    validation_share: float = key("data.train.split_validation_size", real(low=0, high=0.9))
    data_seed: int = key("data.train.seed", whole(0))
    shuffle: bool = key("data.shuffle", switch)
    checkpointing: bool = key("checkpointing.enabled", switch)
    checkpoint_dir: Path = key("checkpointing.checkpoint_dir", optional(text))
    metric_name: str | None = key("checkpointing.metric_name", optional(text), None)
    higher_is_better: bool = key("checkpointing.higher_is_better", switch, True)
    keep_top_k: int | None = key("checkpointing.keep_top_k", optional(whole()), None)
    save_period: int = key("checkpointing.save_period", whole())
    save_optimizer: bool = key("checkpointing.save_optimizer", switch, True)
    save_by: str | None = key("checkpointing.checkpoint_must_save_by", duration, None)
    log_dir: Path = key("logger.log_dir", optional(text))
    wandb_enabled: bool = key("logger.wandb_enabled", switch, False)
    samples_to_print: int = key("logger.num_val_samples_to_print", whole(0), 0)
    raw: dict[str, Any] = field(repr=False)

    @property
    def answers(self) -> int:
        """Sequences of one rollout."""
        return self.prompts * self.generations

    @property
    def val_batches(self) -> int:
        """Whole batches of one validation."""
        return (self.val_samples or 0) // (self.val_batch_size or 1)

    @property
    def must_save_by(self) -> int | None:
        """Seconds after which nothing more may be begun."""
        return None if self.save_by is None else schedule.seconds(self.save_by)

    @property
    def wandb(self) -> dict[str, Any] | None:
        """logger.wandb; None where W&B is off."""
        return dict(self.raw["logger"].get("wandb") or {}) if self.wandb_enabled else None


#: Where the architecture's keys are.
MODEL = "policy.hf_config_overrides"


class Key(NamedTuple):
    """What may stand in a key, and what is taken where it is absent (MISSING: it has to be there)."""

    kind: Kind
    default: Any = None


def _keys_of(settings_class: type) -> Iterator[tuple[str, Key]]:
    for one in fields(settings_class):
        if "section" in one.metadata:
            yield from _keys_of(one.metadata["section"])
        elif "key" in one.metadata:
            yield one.metadata["key"], Key(one.metadata["kind"], one.default)


def _each(names: str, kind: Kind, prefix: str = "") -> dict[str, Key]:
    return dict.fromkeys((prefix + name for name in names.split()), Key(kind))


_OFF = "the embedded engine does not have this part of NeMo RL"
_NOT_READ = "transformers' Nemotron-H does not read it"

ARCHITECTURE: dict[str, Key] = {
    **_each("hybrid_override_pattern", pattern),
    **_each("vocab_size hidden_size intermediate_size max_position_embeddings conv_kernel chunk_size", whole()),
    **_each("num_attention_heads num_key_value_heads head_dim mamba_num_heads mamba_head_dim n_groups", whole()),
    **_each("ssm_state_size n_routed_experts num_experts_per_tok n_group topk_group moe_intermediate_size", whole()),
    **_each("moe_shared_expert_intermediate_size", whole()),
    **_each("moe_latent_size", optional(whole())),
    **_each("time_step_min time_step_max time_step_floor initializer_range layer_norm_epsilon", real(above=0)),
    **_each("routed_scaling_factor", real(above=0)),
    **_each("attention_bias mlp_bias use_bias use_conv_bias norm_topk_prob rescale_prenorm_residual", switch),
    **_each("mlp_hidden_act", choice("relu2", "relu", "silu", "gelu")),
    **_each("mamba_hidden_act", choice("silu")),
    **_each("mamba_proj_bias residual_in_fp32 tie_word_embeddings", only(False, _NOT_READ)),
    **_each("n_shared_experts", only(1, _NOT_READ)),
    **_each("expand", only(2, _NOT_READ)),
    **_each("attention_dropout hidden_dropout", only(0.0, "GRPO compares log probabilities of the same weights")),
    **_each("num_nextn_predict_layers", only(0, _OFF)),
}

_WORDS = len(task.Vocabulary())
#: Every key of the engine: those of Settings, those that only refusals.py reads, and those with one possible value.
KEYS: dict[str, Key] = {
    **dict(_keys_of(Settings)),
    **{f"{MODEL}.{name}": of for name, of in ARCHITECTURE.items()},
    f"{MODEL}.hybrid_override_pattern": Key(pattern, MISSING),
    f"{MODEL}.vocab_size": Key(enough(_WORDS, f"the task has {_WORDS} tokens", f"{_WORDS} or more"), MISSING),
    f"{MODEL}.hidden_size": Key(whole(), MISSING),
    "engine.name": Key(choice("embedded"), MISSING),
    **_each("grpo.max_num_epochs", whole()),
    **_each("grpo.adv_estimator.normalize_rewards grpo.adv_estimator.use_leave_one_out_baseline", switch),
    **_each("grpo.skip_reference_policy_logprobs_calculation", anything),
    **_each("grpo.max_rollout_turns", only(1, "the task has one turn")),
    **_each("grpo.batch_multiplier", only(1, "it belongs to dynamic sampling")),
    **_each("grpo.adv_estimator.name", only("grpo", _OFF)),
    **_each("policy.model_name", only("nano_tiny", f"the weights are random and the architecture is {MODEL}")),
    **_each("policy.tokenizer.name", only("tool_calls", "the tokenizer is made in code")),
    **_each("policy.optimizer.name", only("torch.optim.AdamW", _OFF)),
    **_each(
        "policy.dtensor_cfg.tensor_parallel_size policy.dtensor_cfg.context_parallel_size cluster.num_nodes",
        only(1, "it trains in one process"),
    ),
    **_each("policy.generation.backend", only("hf", "it generates with transformers, in its own process")),
    **_each("policy.generation.colocated.enabled", only(True, "it generates in the process that trains")),
    **_each(
        "policy.generation.stop_token_ids policy.generation.stop_strings", only(None, "the end token ends an answer")
    ),
    **_each("data.train.dataset_name data.default.env_name", only(task.NAME, "the task is made in code")),
    **_each("data.validation", only(None, "data.train.split_validation_size holds requests out")),
    **_each("loss_fn.positive_example_nll_weight", only(0.0, _OFF)),
    **_each(
        """
        grpo.seq_logprob_error_threshold grpo.invalid_tool_call_advantage grpo.malformed_thinking_advantage
        loss_fn.truncated_importance_sampling_type loss_fn.truncated_importance_sampling_ratio
        loss_fn.truncated_importance_sampling_ratio_min on_policy_distillation
        """,
        only(None, _OFF),
    ),
    **_each(
        """
        grpo.use_dynamic_sampling grpo.reward_shaping.enabled grpo.reward_scaling.enabled grpo.async_grpo.enabled
        loss_fn.sequence_level_importance_ratios loss_fn.use_on_policy_kl_approximation loss_fn.force_on_policy_ratio
        loss_fn.use_kl_in_reward loss_fn.use_cispo loss_fn.disable_ppo_ratio policy.dtensor_cfg.lora_cfg.enabled
        policy.megatron_cfg.enabled policy.dynamic_batching.enabled policy.sequence_packing.enabled
        policy.draft.enabled data.use_multiple_dataloader data_plane.enabled logger.tensorboard_enabled
        logger.mlflow_enabled logger.swanlab_enabled
        """,
        only(False, _OFF),
    ),
}

#: Keys, or patterns of them, that are read nowhere here, by the reason why that changes nothing.
NEUTRAL: dict[str, str] = {
    "the process takes one GPU at most, however many the allocation has": "cluster.*",
    "the reward is made in code": "env.tool_calls",
    "the data is in memory": "data.num_workers",
    "no request is longer than policy.max_total_sequence_length": "data.max_input_seq_length",
    "the prompt is made in code": "data.default.prompt_file data.default.system_prompt_file data.default.processor",
    "only reinforce_plus_plus reads it": "grpo.adv_estimator.minus_baseline",
    "dynamic sampling is off": "grpo.dynamic_sampling_max_gen_batches",
    "its switch is off": "grpo.reward_shaping.* grpo.reward_scaling.* grpo.async_grpo.* policy.megatron_cfg.* "
    "policy.dynamic_batching.* policy.sequence_packing.* policy.draft.* logger.tensorboard* logger.mlflow* "
    "logger.swanlab* data_plane.*",
    "a place, not a value": "grpo.calculate_advantages_on_gpu policy.offload_optimizer_for_logprob",
    "how one process holds its weights": "policy.dtensor_cfg.*",
    "how log probabilities are cut, not their value": "policy.logprob_chunk_size",
    "sequences of a batch do not see each other": "policy.generation_batch_size",
    "padding is masked": "policy.make_sequence_length_divisible_by",
    "nothing is refitted": "policy.refit_buffer_size_gb",
    "it generates in the process that trains": "policy.generation.colocated.*",
    "no server is started": "policy.generation.port_range_*",
    "passed whole to wandb.init": "logger.wandb.*",
    "what is recorded, not what is trained": "logger.monitor_gpus logger.gpu_monitoring.*",
}
PATTERNS = tuple(name for names in NEUTRAL.values() for name in names.split())


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf. Lists and empty sections are leaves; so is all of policy.scheduler."""
    for name, value in config.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict) and value and dotted != "policy.scheduler":
            yield from leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def from_config(config: dict[str, Any]) -> Settings:
    """Settings from the sections of a config in which refusals.py found no mistake.

    Raises
    ------
    UserError: a folder is missing (a launch fills it in)
    """
    values = dict(leaves(config))
    for folder in ("checkpointing.checkpoint_dir", "logger.log_dir"):
        if not values[folder]:
            raise UserError(f"{folder}=null", "the run needs a folder there", f"{folder}=<folder>")
        values[folder] = Path(values[folder])
    architecture = {name: values[f"{MODEL}.{name}"] for name in ARCHITECTURE if f"{MODEL}.{name}" in values}
    return Settings(**_read(Settings, values), architecture=architecture, raw=config)


def _read(settings_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a settings class that `values` have."""
    arguments: dict[str, Any] = {}
    for one in fields(settings_class):
        if "section" in one.metadata:
            inner = one.metadata["section"]
            arguments[one.name] = inner(**_read(inner, values))
        elif (dotted := one.metadata.get("key")) in values:
            arguments[one.name] = values[dotted]
    return arguments
