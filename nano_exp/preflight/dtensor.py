"""What NeMo RL's DTensor workers ask of a config (models/automodel/setup.py, models/dtensor/parallelize.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View

CFG = "policy.dtensor_cfg"
TP, CP = f"{CFG}.tensor_parallel_size", f"{CFG}.context_parallel_size"


@rule(36)
def lora_kernels(c: View) -> Iterator[Found]:
    """LoRA's Triton kernels do not know tensor parallel."""
    lora = f"{CFG}.lora_cfg"
    if c.dtensor and c.on(f"{lora}.enabled") and (c.tp or 1) > 1 and c.on(f"{lora}.use_triton"):
        yield Found((f"{lora}.use_triton", TP), "its Triton kernels work on whole matrices", f"{lora}.use_triton=false")


@rule(36, versions=">=v0.6.0")
def dtensor_yarn(c: View) -> Iterator[Found]:
    """YaRN is Megatron's."""
    key = "policy.hf_config_overrides.rope_scaling.rope_type"
    if c.dtensor and c.get(key) == "yarn":
        yield Found(
            (key, f"{CFG}.enabled"), "DTensor's worker has no YaRN", "a Megatron layout: parallelism=megatron_tp2"
        )


@rule()
def save_format_needs_v2(c: View) -> Iterator[Found]:
    """A format of the saved weights is DTensor v2's to choose.

    `raise ValueError("model_save_format must be None or omitted if using DTensorPolicyWorker (_v2=False).")`
    (lm_policy.py, save_checkpoint, all versions), for Megatron too, where it looks at the same key.
    """
    key = "checkpointing.model_save_format"
    if c.on("checkpointing.enabled") and c.get(key) is not None and not c.get(f"{CFG}._v2", False):
        yield Found(
            (key, f"{CFG}._v2"),
            "found out at the first save, after hours of training: NeMo RL takes a format only with DTensor's second "
            "worker, and stops",
            f"{key}=null, or ++{CFG}._v2=true",
        )


@rule(37)
def hybrid_on_dtensor_v1(c: View) -> Iterator[Found]:
    """The first DTensor worker shards Nemotron-H by a plan of its own."""
    if not c.dtensor or c.on(f"{CFG}._v2") or c.model.get("model_type") != "nemotron_h":
        return
    if c.has(f"{CFG}.custom_parallel_plan") and c.get(f"{CFG}.custom_parallel_plan", "a plan") is not None:
        yield Found(
            (f"{CFG}.custom_parallel_plan", f"{CFG}._v2"),
            "the plan for Nemotron-H is NeMo RL's own",
            f"{CFG}.custom_parallel_plan=null",
        )
