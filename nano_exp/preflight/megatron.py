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


@rule(versions=">=v0.8.0")
def offloaded_optimizer(c: View) -> Iterator[Found]:
    """An optimizer on the host is Adam or SGD, distributed; transfers overlap only there.

    _validate_optimizer_config (models/megatron/setup.py).
    """
    offload, overlap = f"{OPTIMIZER}.optimizer_cpu_offload", f"{OPTIMIZER}.overlap_cpu_optimizer_d2h_h2d"
    if not c.megatron:
        return
    if not c.on(offload):
        if c.on(overlap):
            yield Found((overlap, offload), "nothing is transferred to overlap with; NeMo RL stops", f"{overlap}=false")
        return
    kind, distributed = f"{OPTIMIZER}.optimizer", f"{OPTIMIZER}.use_distributed_optimizer"
    if c.get(kind) not in ("adam", "sgd"):
        yield Found((offload, kind), "the host has Adam and SGD alone", f"{kind}=adam, or {offload}=false")
    if not c.on(distributed):
        yield Found(
            (offload, distributed),
            "only a distributed one can be on the host",
            f"{distributed}=true, or {offload}=false",
        )


@rule(versions=">=v0.8.0")
def fused_logprobs(c: View) -> Iterator[Found]:
    """The fused loss takes sequences unpacked, and sampling without top-p and top-k (grpo.py, setup)."""
    key = f"{CFG}.use_fused_linear_logprobs"
    if not c.megatron or not c.on(key):
        return
    if c.packing:
        yield Found(
            (key, "policy.sequence_packing.enabled"),
            "it would mix sequences that are packed together; NeMo RL stops",
            f"policy.sequence_packing.enabled=false, or {key}=false",
        )
    for name, plain in (("top_p", 1.0), ("top_k", None)):
        sampling = f"policy.generation.{name}"
        value = c.get(sampling)
        if value not in (plain, *((-1, 0) if name == "top_k" else ())):
            yield Found(
                (key, sampling),
                "its log probabilities are of all tokens, and those sampled are of some; NeMo RL stops",
                f"{sampling}={'null' if plain is None else plain}, or {key}=false",
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
