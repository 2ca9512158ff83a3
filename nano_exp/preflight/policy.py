"""What NeMo RL's policy asks of a config (nemo_rl/models/policy/lm_policy.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View

MEGATRON, DTENSOR = "policy.megatron_cfg.enabled", "policy.dtensor_cfg.enabled"


@rule(14)
def one_backend(c: View) -> Iterator[Found]:
    """Exactly one backend trains."""
    if c.on(MEGATRON) == c.on(DTENSOR):
        both = c.on(MEGATRON)
        yield Found(
            (MEGATRON, DTENSOR),
            "both backends are on, and one trains" if both else "no backend is on, so nothing trains",
            "a whole layout: parallelism=megatron_tp2, parallelism=fsdp2, ...; by hand, one of the two true and the "
            "other false",
        )


@rule(15)
def arch_list(c: View) -> Iterator[Found]:
    """Megatron's kernels are compiled for the GPUs that TORCH_CUDA_ARCH_LIST names."""
    if c.megatron and not c.site_env.get("TORCH_CUDA_ARCH_LIST", "the engine's own"):
        yield Found(
            (MEGATRON,),
            "NeMo RL does not start Megatron without the variable; it is set unless the site takes it away",
            "leave site.env.TORCH_CUDA_ARCH_LIST out, or ++site.env.TORCH_CUDA_ARCH_LIST='9.0 10.0'",
            "site.env.TORCH_CUDA_ARCH_LIST is empty",
        )


@rule(19)
def dtensor_v1_limits(c: View) -> Iterator[Found]:
    """LoRA and replicated FSDP are DTensor v2's."""
    if not c.dtensor or c.on("policy.dtensor_cfg._v2"):
        return
    if c.on("policy.dtensor_cfg.lora_cfg.enabled"):
        yield Found(
            ("policy.dtensor_cfg.lora_cfg.enabled", "policy.dtensor_cfg._v2"),
            "the first DTensor worker has no LoRA",
            "++policy.dtensor_cfg._v2=true",
        )
    if (c.number("policy.dtensor_cfg.dp_replicate_size") or 1) > 1 and c.version >= (0, 7, 0):
        yield Found(
            ("policy.dtensor_cfg.dp_replicate_size", "policy.dtensor_cfg._v2"),
            "the first DTensor worker cannot replicate shards",
            "++policy.dtensor_cfg._v2=true",
        )


@rule(19, versions=">=v0.6.0")
def draft_model(c: View) -> Iterator[Found]:
    """A draft model is trained by Megatron, without packing."""
    if not c.on("policy.draft.enabled"):
        return
    if not c.megatron:
        yield Found(
            ("policy.draft.enabled", MEGATRON), "only Megatron trains a draft model", "policy.draft.enabled=false"
        )
    if c.packing:
        yield Found(
            ("policy.draft.enabled", "policy.sequence_packing.enabled"),
            "a draft model is not trained on packed sequences",
            "policy.sequence_packing.enabled=false, or policy.draft.enabled=false",
        )
