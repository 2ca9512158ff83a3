"""Which of NeMo RL's keys this engine has. Everything else is refused: a key that is ignored would lie.

SUPPORTED keys mean what they mean in NeMo RL v0.7.0, within the values that their rule allows. NEUTRAL ones cannot
change this engine's result, for the reason given. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from nano_exp.engines.embedded import rules as r
from nano_exp.engines.embedded import task
from nano_exp.errors import UserError, nearest

SECTIONS = ("grpo", "loss_fn", "policy", "data", "env", "logger", "checkpointing", "cluster", "engine")

TRAIN_METRICS = (
    *("loss", "kl_penalty", "probs_ratio", "probs_ratio_clamped", "probs_ratio_min", "probs_ratio_max"),
    *("probs_ratio_clamped_min", "probs_ratio_clamped_max", "token_mult_prob_error", "gen_kl_error"),
    *("policy_kl_error", "js_divergence_error", "sampling_importance_ratio", "approx_entropy", "num_valid_samples"),
    *("global_valid_toks", "global_valid_seqs", "grad_norm", "lr", "reward", "advantages/mean", "advantages/max"),
    *("advantages/min", "baseline_reward/pct_0", "baseline_reward/pct_1", "baseline_reward/pct_mixed"),
    *("mean_prompt_length", "total_num_tokens", "natural_termination_rate", "truncation_rate"),
    *("mean_total_tokens_per_sample", "mean_gen_tokens_per_sample", "max_gen_tokens_per_sample"),
)
VALIDATION_METRICS = ("accuracy", "avg_length")

_OFF = "the embedded engine does not have this part of NeMo RL"
_NO_EFFECT = "transformers' Nemotron-H does not read it"

GRPO: dict[str, r.Rule] = {
    "num_prompts_per_step": r.integer(1),
    "num_generations_per_prompt": r.integer(1),
    "max_num_steps": r.integer(1),
    "max_num_epochs": r.integer(1),
    "max_rollout_turns": r.only(1, "the task has one turn"),
    "normalize_rewards": r.boolean,
    "use_leave_one_out_baseline": r.boolean,
    "adv_estimator.name": r.only("grpo", _OFF),
    "adv_estimator.normalize_rewards": r.boolean,
    "adv_estimator.use_leave_one_out_baseline": r.boolean,
    "advantage_clip_low": r.nullable(r.number()),
    "advantage_clip_high": r.nullable(r.number()),
    "overlong_filtering": r.boolean,
    "val_period": r.integer(0),
    "val_at_start": r.boolean,
    "val_at_end": r.boolean,
    "max_val_samples": r.nullable(r.integer(1)),
    "val_batch_size": r.nullable(r.integer(1)),
    "seed": r.integer(0, 2**32 - 1),
    "use_dynamic_sampling": r.only(False, _OFF),
    "batch_multiplier": r.only(1, "it belongs to dynamic sampling"),
    "reward_shaping.enabled": r.only(False, _OFF),
    "reward_scaling.enabled": r.only(False, _OFF),
    "async_grpo.enabled": r.only(False, _OFF),
    "seq_logprob_error_threshold": r.only(None, _OFF),
    "invalid_tool_call_advantage": r.only(None, _OFF),
    "malformed_thinking_advantage": r.only(None, _OFF),
    "skip_reference_policy_logprobs_calculation": r.anything,
}
LOSS: dict[str, r.Rule] = {
    "reference_policy_kl_penalty": r.number(low=0),
    "reference_policy_kl_type": r.one_of("k1", "k2", "k3"),
    "kl_input_clamp_value": r.nullable(r.number(above=0)),
    "kl_output_clamp_value": r.nullable(r.number(above=0)),
    "ratio_clip_min": r.number(low=0),
    "ratio_clip_max": r.number(low=0),
    "ratio_clip_c": r.nullable(r.number(above=1)),
    "token_level_loss": r.boolean,
    "use_importance_sampling_correction": r.boolean,
    "truncated_importance_sampling_type": r.only(None, _OFF),
    "truncated_importance_sampling_ratio": r.only(None, _OFF),
    "truncated_importance_sampling_ratio_min": r.only(None, _OFF),
    "sequence_level_importance_ratios": r.only(False, _OFF),
    "use_on_policy_kl_approximation": r.only(False, _OFF),
    "force_on_policy_ratio": r.only(False, _OFF),
    "use_kl_in_reward": r.only(False, _OFF),
    "use_cispo": r.only(False, _OFF),
    "disable_ppo_ratio": r.only(False, _OFF),
    "positive_example_nll_weight": r.only(0.0, _OFF),
}
ARCHITECTURE: dict[str, r.Rule] = {
    "hybrid_override_pattern": r.pattern,
    **dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
        r.integer(1),
    ),
    **dict.fromkeys(
        ("ssm_state_size", "mamba_num_heads", "mamba_head_dim", "n_groups", "conv_kernel", "chunk_size"), r.integer(1)
    ),
    **dict.fromkeys(
        ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
        r.integer(1),
    ),
    **dict.fromkeys(("n_group", "topk_group"), r.integer(1)),
    **dict.fromkeys(("time_step_min", "time_step_max", "time_step_floor"), r.number(above=0)),
    **dict.fromkeys(("initializer_range", "layer_norm_epsilon", "routed_scaling_factor"), r.number(above=0)),
    **dict.fromkeys(("attention_bias", "mlp_bias", "use_bias", "use_conv_bias"), r.boolean),
    **dict.fromkeys(("norm_topk_prob", "rescale_prenorm_residual"), r.boolean),
    "moe_latent_size": r.nullable(r.integer(1)),
    "mlp_hidden_act": r.one_of("relu2", "relu", "silu", "gelu"),
    "mamba_hidden_act": r.one_of("silu"),
    "mamba_proj_bias": r.only(False, _NO_EFFECT),
    "residual_in_fp32": r.only(False, _NO_EFFECT),
    "tie_word_embeddings": r.only(False, _NO_EFFECT),
    "n_shared_experts": r.only(1, _NO_EFFECT),
    "expand": r.only(2, _NO_EFFECT),
    "attention_dropout": r.only(0.0, "GRPO compares log probabilities of the same weights"),
    "hidden_dropout": r.only(0.0, "GRPO compares log probabilities of the same weights"),
    "num_nextn_predict_layers": r.only(0, _OFF),
    "max_position_embeddings": r.integer(1),
}
POLICY: dict[str, r.Rule] = {
    "model_name": r.only("nano_tiny", "the weights are random and the architecture is policy.hf_config_overrides"),
    "tokenizer.name": r.only("tool_calls", "the tokenizer is made in code"),
    "train_global_batch_size": r.integer(1),
    "train_micro_batch_size": r.integer(1),
    "logprob_batch_size": r.integer(1),
    "max_total_sequence_length": r.integer(1),
    "precision": r.one_of("float32", "bfloat16"),
    "max_grad_norm": r.nullable(r.number(above=0)),
    "optimizer.name": r.only("torch.optim.AdamW", _OFF),
    "optimizer.kwargs.lr": r.number(low=0),
    "optimizer.kwargs.weight_decay": r.number(low=0),
    "optimizer.kwargs.betas": r.numbers(2, 0.0, 1.0),
    "optimizer.kwargs.eps": r.number(low=0),
    "scheduler": r.scheduler,
    "dtensor_cfg.tensor_parallel_size": r.only(1, "it trains in one process"),
    "dtensor_cfg.context_parallel_size": r.only(1, "it trains in one process"),
    "dtensor_cfg.activation_checkpointing": r.boolean,
    "dtensor_cfg.lora_cfg.enabled": r.only(False, _OFF),
    "megatron_cfg.enabled": r.only(False, _OFF),
    "dynamic_batching.enabled": r.only(False, _OFF),
    "sequence_packing.enabled": r.only(False, _OFF),
    "draft.enabled": r.only(False, _OFF),
    "generation.backend": r.only("hf", "it generates with transformers, in its own process"),
    "generation.max_new_tokens": r.integer(1),
    "generation.temperature": r.number(above=0),
    "generation.top_p": r.number(above=0, high=1),
    "generation.top_k": r.top_k,
    "generation.stop_token_ids": r.only(None, "the end token ends an answer"),
    "generation.stop_strings": r.only(None, "the end token ends an answer"),
    "generation.colocated.enabled": r.only(True, "it generates in the process that trains"),
    **{f"hf_config_overrides.{name}": rule for name, rule in ARCHITECTURE.items()},
}
DATA: dict[str, r.Rule] = {
    "train.dataset_name": r.only(task.NAME, "the task is made in code"),
    "train.split_validation_size": r.number(low=0, high=0.9),
    "train.seed": r.integer(0),
    "validation": r.only(None, "data.train.split_validation_size holds requests out"),
    "default.env_name": r.only(task.NAME, "the task is made in code"),
    "shuffle": r.boolean,
    "use_multiple_dataloader": r.only(False, _OFF),
}
CHECKPOINTING: dict[str, r.Rule] = {
    "enabled": r.boolean,
    "checkpoint_dir": r.nullable(r.text),
    "metric_name": r.nullable(r.text),
    "higher_is_better": r.boolean,
    "keep_top_k": r.nullable(r.integer(1)),
    "save_period": r.integer(1),
    "save_optimizer": r.boolean,
    "checkpoint_must_save_by": r.duration,
}
LOGGER: dict[str, r.Rule] = {
    "log_dir": r.nullable(r.text),
    "wandb_enabled": r.boolean,
    "tensorboard_enabled": r.only(False, _OFF),
    "mlflow_enabled": r.only(False, _OFF),
    "swanlab_enabled": r.only(False, _OFF),
    "num_val_samples_to_print": r.integer(0),
}
ENGINE: dict[str, r.Rule] = {
    "name": r.one_of("embedded"),
    "device": r.one_of("cpu", "cuda", "auto"),
    "threads": r.integer(1),
    "warm_start.steps": r.integer(0),
    "warm_start.lr": r.number(above=0),
    "warm_start.batch_size": r.integer(1),
}
SUPPORTED: dict[str, r.Rule] = {
    f"{section}.{name}": rule
    for section, table in (
        ("grpo", GRPO),
        ("loss_fn", LOSS),
        ("policy", POLICY),
        ("data", DATA),
        ("checkpointing", CHECKPOINTING),
        ("logger", LOGGER),
        ("engine", ENGINE),
        ("cluster", {"num_nodes": r.only(1, "it trains in one process")}),
        ("data_plane", {"enabled": r.only(False, _OFF)}),
    )
    for name, rule in table.items()
} | {"on_policy_distillation": r.only(None, _OFF)}

NEUTRAL: dict[str, str] = {
    "cluster.*": "the process takes one GPU at most, however many the allocation has",
    "env.tool_calls": "the reward is made in code",
    "data.num_workers": "the data is in memory",
    "data.max_input_seq_length": "no request is longer than policy.max_total_sequence_length",
    "data.default.prompt_file": "the prompt is made in code",
    "data.default.system_prompt_file": "the prompt is made in code",
    "data.default.processor": "the prompt is made in code",
    "grpo.adv_estimator.minus_baseline": "only reinforce_plus_plus reads it",
    "grpo.dynamic_sampling_max_gen_batches": "dynamic sampling is off",
    "grpo.reward_shaping.*": "reward shaping is off",
    "grpo.reward_scaling.*": "reward scaling is off",
    "grpo.async_grpo.*": "async GRPO is off",
    "grpo.calculate_advantages_on_gpu": "a place, not a value",
    "policy.dtensor_cfg.*": "how one process holds its weights",
    "policy.megatron_cfg.*": "Megatron is off",
    "policy.dynamic_batching.*": "dynamic batching is off",
    "policy.sequence_packing.*": "sequence packing is off",
    "policy.draft.*": "the draft model is off",
    "policy.logprob_chunk_size": "how log probabilities are cut, not their value",
    "policy.generation_batch_size": "sequences of a batch do not see each other",
    "policy.make_sequence_length_divisible_by": "padding is masked",
    "policy.offload_optimizer_for_logprob": "a place, not a value",
    "policy.refit_buffer_size_gb": "nothing is refitted",
    "policy.generation.colocated.*": "it generates in the process that trains",
    "policy.generation.port_range_*": "no server is started",
    "logger.wandb.*": "passed whole to wandb.init",
    "logger.tensorboard*": "off",
    "logger.mlflow*": "off",
    "logger.swanlab*": "off",
    "logger.monitor_gpus": "what is recorded, not what is trained",
    "logger.gpu_monitoring.*": "what is recorded, not what is trained",
    "data_plane.*": "the data plane is off",
}

REQUIRED = (
    *(f"grpo.{name}" for name in ("num_prompts_per_step", "num_generations_per_prompt", "max_num_steps", "seed")),
    *(f"grpo.{name}" for name in ("val_period", "normalize_rewards", "use_leave_one_out_baseline")),
    *(f"policy.{name}" for name in ("train_global_batch_size", "train_micro_batch_size", "logprob_batch_size")),
    *(f"policy.{name}" for name in ("max_total_sequence_length", "generation.max_new_tokens")),
    *(f"policy.optimizer.kwargs.{name}" for name in ("lr", "weight_decay", "betas", "eps")),
    *(f"policy.hf_config_overrides.{name}" for name in ("hybrid_override_pattern", "vocab_size", "hidden_size")),
    *("data.train.split_validation_size", "data.train.seed", "data.shuffle"),
    *("checkpointing.enabled", "checkpointing.checkpoint_dir", "checkpointing.save_period", "logger.log_dir"),
    "engine.name",
)


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf. Lists and empty sections are leaves; so is all of policy.scheduler."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key != "policy.scheduler":
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def refuse_unknown(key: str, value: Any) -> None:
    """Raise for a key that is neither supported nor neutral."""
    if key in SUPPORTED or value == {} or any(fnmatchcase(key, name) for name in NEUTRAL):
        return
    near = nearest(key, SUPPORTED, n=1)
    fix = f"{near[0]}={r.show(value)}, or leave it out" if near else "leave it out"
    raise UserError(
        f"{key}={r.show(value)}",
        "the embedded engine has no such key; it might change the result, so it is refused and not ignored",
        f"{fix}; NeMo RL itself runs with engine=nemo_rl",
    )


def check_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Refuse unknown keys, values outside their rule and missing keys; return the leaves."""
    own = {name: section for name, section in config.items() if name in SECTIONS}
    others = set(config) - set(own)
    if others - {"data_plane", "on_policy_distillation"}:
        # Only at launch are there sections that are not the engine's.
        from nano_exp.freeze import LAUNCHER_KEYS

        others -= set(LAUNCHER_KEYS)
    own |= {name: config[name] for name in others}
    flat = dict(leaves(own))
    for key, value in flat.items():
        refuse_unknown(key, value)
    for key, value in flat.items():
        problem = SUPPORTED[key](value) if key in SUPPORTED else None
        if problem:
            raise UserError(f"{key}={r.show(value)}", problem, f"{key}=<another value>, or leave the override out")
    missing = [key for key in REQUIRED if key not in flat]
    if missing:
        raise UserError(
            f"{missing[0]} is missing", "the embedded engine has no default for it", f"+{missing[0]}=<value>"
        )
    return flat
