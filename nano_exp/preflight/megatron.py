"""What NeMo RL's Megatron worker asks of a config (nemo_rl/models/megatron/setup.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View

CFG = "policy.megatron_cfg"
OPTIMIZER = f"{CFG}.optimizer"
YARN = (
    *("factor", "rope_theta", "original_max_position_embeddings", "truncate", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim"),
)


@rule(33)
def chunked_log_probabilities(c: View) -> Iterator[Found]:
    """Log probabilities in chunks need logits that are not yet in fp32."""
    size = c.number("policy.logprob_chunk_size")
    if c.megatron and size is not None and size > 0 and not c.on(f"{CFG}.defer_fp32_logits"):
        yield Found(
            ("policy.logprob_chunk_size", f"{CFG}.defer_fp32_logits"),
            "chunks save memory only where the whole logits are not turned to fp32 first",
            f"{CFG}.defer_fp32_logits=true",
        )


@rule(34)
def optimizer_precision(c: View) -> Iterator[Found]:
    """The optimizer's precision is the model's."""
    if not c.megatron:
        return
    precision = c.get("policy.precision")
    own = {"bfloat16": "bf16", "float16": "fp16"}.get(str(precision))
    if own is not None and c.on(f"{OPTIMIZER}.use_precision_aware_optimizer") and not c.on(f"{OPTIMIZER}.{own}"):
        yield Found(
            ("policy.precision", f"{OPTIMIZER}.use_precision_aware_optimizer", f"{OPTIMIZER}.{own}"),
            f"the precision-aware optimizer keeps what the {precision} weights lack, so it has to know that they are",
            f"{OPTIMIZER}.{own}=true",
        )
    if precision == "float32":
        for name in ("bf16", "fp16"):
            if c.on(f"{OPTIMIZER}.{name}"):
                yield Found(
                    ("policy.precision", f"{OPTIMIZER}.{name}"),
                    "the weights are fp32 and the optimizer is told otherwise",
                    f"{OPTIMIZER}.{name}=false",
                )


@rule(35, versions=">=v0.7.0")
def recompute_granularity(c: View) -> Iterator[Found]:
    """Activations are recomputed in full or selectively."""
    key = f"{CFG}.recompute_granularity"
    if c.megatron and c.on(f"{CFG}.activation_checkpointing") and c.get(key, "full") not in ("full", "selective"):
        yield Found((key,), "there are two ways to recompute activations: full and selective", f"{key}=full")


@rule(35)
def megatron_reward_model(c: View) -> Iterator[Found]:
    """Megatron trains no reward model."""
    if c.megatron and c.on("policy.reward_model_cfg.enabled"):
        yield Found(
            ("policy.reward_model_cfg.enabled", f"{CFG}.enabled"),
            "NeMo RL's Megatron worker has no reward models",
            "policy.reward_model_cfg.enabled=false, or parallelism=fsdp2",
        )


@rule(35, versions=">=v0.6.0")
def yarn_fields(c: View) -> Iterator[Found]:
    """YaRN under Megatron needs every one of its fields."""
    scaling = "policy.hf_config_overrides.rope_scaling"
    if not c.megatron or c.get(f"{scaling}.rope_type") != "yarn":
        return
    missing = [name for name in YARN if not c.has(f"{scaling}.{name}")]
    if missing:
        yield Found(
            (f"{scaling}.rope_type",),
            f"Megatron is given each field of YaRN, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing",
            " ".join(f"++{scaling}.{name}=..." for name in missing),
        )
