"""What NeMo RL's Megatron worker asks of a config (nemo_rl/models/megatron/setup.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

CFG = "policy.megatron_cfg"
OPTIMIZER = f"{CFG}.optimizer"
YARN = (
    *("factor", "rope_theta", "original_max_position_embeddings", "truncate", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim"),
)


@rule(versions=">=v0.8.0")
def offloaded_optimizer(c: View) -> Iterator[Mistake]:
    """An optimizer on the host is Adam or SGD, distributed; transfers overlap only there.

    _validate_optimizer_config (models/megatron/setup.py).
    """
    offload, overlap = f"{OPTIMIZER}.optimizer_cpu_offload", f"{OPTIMIZER}.overlap_cpu_optimizer_d2h_h2d"
    if not c.megatron:
        return
    if not c.on(offload):
        if c.on(overlap):
            yield Mistake(
                (overlap, offload), "nothing is transferred to overlap with; NeMo RL stops", f"{overlap}=false"
            )
        return
    kind, distributed = f"{OPTIMIZER}.optimizer", f"{OPTIMIZER}.use_distributed_optimizer"
    if c.get(kind) not in ("adam", "sgd"):
        yield Mistake((offload, kind), "the host has Adam and SGD alone", f"{kind}=adam, or {offload}=false")
    if not c.on(distributed):
        yield Mistake(
            (offload, distributed),
            "only a distributed one can be on the host",
            f"{distributed}=true, or {offload}=false",
        )


@rule(versions=">=v0.8.0")
def fused_logprobs(c: View) -> Iterator[Mistake]:
    """The fused loss takes sequences unpacked, and sampling without top-p and top-k (grpo.py, setup)."""
    key = f"{CFG}.use_fused_linear_logprobs"
    if not c.megatron or not c.on(key):
        return
    if c.packing:
        yield Mistake(
            (key, "policy.sequence_packing.enabled"),
            "it would mix sequences that are packed together; NeMo RL stops",
            f"policy.sequence_packing.enabled=false, or {key}=false",
        )
    for name, plain in (("top_p", 1.0), ("top_k", None)):
        sampling = f"policy.generation.{name}"
        value = c.get(sampling)
        if value not in (plain, *((-1, 0) if name == "top_k" else ())):
            yield Mistake(
                (key, sampling),
                "its log probabilities are of all tokens, and those sampled are of some; NeMo RL stops",
                f"{sampling}={'null' if plain is None else plain}, or {key}=false",
            )


@rule(35, versions=">=v0.6.0")
def yarn_fields(c: View) -> Iterator[Mistake]:
    """YaRN under Megatron needs every one of its fields."""
    scaling = "policy.hf_config_overrides.rope_scaling"
    if not c.megatron or c.get(f"{scaling}.rope_type") != "yarn":
        return
    missing = [name for name in YARN if not c.has(f"{scaling}.{name}")]
    if missing:
        yield Mistake(
            (f"{scaling}.rope_type",),
            f"Megatron is given each field of YaRN, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing",
            " ".join(f"++{scaling}.{name}=..." for name in missing),
        )
