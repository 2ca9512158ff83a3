"""What NeMo RL's DTensor workers ask of a config (models/automodel/setup.py, models/dtensor/parallelize.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View, divisor, product

CFG = "policy.dtensor_cfg"
TP, CP = f"{CFG}.tensor_parallel_size", f"{CFG}.context_parallel_size"


@rule(36)
def dtensor_packing_and_context(c: View) -> Iterator[Found]:
    """Under DTensor, packing and context parallel exclude each other."""
    if c.dtensor and c.packing and (c.cp or 1) > 1:
        yield Found(
            ("policy.sequence_packing.enabled", CP),
            "DTensor's context parallel does not work with packed sequences",
            f"policy.sequence_packing.enabled=false, or {CP}=1",
        )


@rule(36)
def dtensor_context_and_sequence(c: View) -> Iterator[Found]:
    """Under DTensor, context parallel and sequence parallel exclude each other."""
    if c.dtensor and (c.cp or 1) > 1 and (c.tp or 1) > 1 and c.on(f"{CFG}.sequence_parallel"):
        yield Found(
            (CP, TP, f"{CFG}.sequence_parallel"),
            "both cut the sequence, which the DTensor worker does not combine",
            f"{CFG}.sequence_parallel=false, or {CP}=1",
        )


@rule(36, versions=">=v0.6.0")
def offload_on_one_gpu(c: View) -> Iterator[Found]:
    """Parameters are not offloaded from a single GPU."""
    if c.dtensor and c.world == 1 and c.on(f"{CFG}.cpu_offload") and c.on(f"{CFG}._v2"):
        yield Found(
            (f"{CFG}.cpu_offload", "cluster.gpus_per_node"),
            "offloading comes with sharding, and one GPU has nothing to shard over",
            f"{CFG}.cpu_offload=false, or more GPUs",
        )


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


@rule(36, versions=">=v0.7.0")
def replicated_shards(c: View) -> Iterator[Found]:
    """Replicas divide the data parallel ranks."""
    replicas = c.number(f"{CFG}.dp_replicate_size")
    size = product(c.tp, c.cp, c.ep)
    if not c.dtensor or replicas is None or replicas < 2 or size is None or c.world is None:
        return
    ranks = c.world // size
    if ranks % replicas:
        yield Found(
            (f"{CFG}.dp_replicate_size", TP, CP, c.ep_key),
            f"there are {ranks} data parallel ranks, which {replicas} replicas do not share equally",
            f"{CFG}.dp_replicate_size={divisor(ranks, replicas) if ranks else 1}",
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
    """The first DTensor worker shards Nemotron-H by a plan of its own, without sequence parallel."""
    if not c.dtensor or c.on(f"{CFG}._v2") or c.model.get("model_type") != "nemotron_h":
        return
    if c.on(f"{CFG}.sequence_parallel"):
        yield Found(
            (f"{CFG}.sequence_parallel", f"{CFG}._v2"),
            "its Mamba layers need whole sequences",
            f"{CFG}.sequence_parallel=false",
        )
    if c.has(f"{CFG}.custom_parallel_plan") and c.get(f"{CFG}.custom_parallel_plan", "a plan") is not None:
        yield Found(
            (f"{CFG}.custom_parallel_plan", f"{CFG}._v2"),
            "the plan for Nemotron-H is NeMo RL's own",
            f"{CFG}.custom_parallel_plan=null",
        )


@rule(38)
def heads_on_dtensor_v1(c: View) -> Iterator[Found]:
    """The first DTensor worker cuts attention by heads, so they divide."""
    if not c.dtensor or c.on(f"{CFG}._v2") or c.tp is None or c.model.get("model_type") == "nemotron_h":
        return
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = c.model.get(name)
        if type(heads) is int and heads % c.tp:
            yield Found(
                (TP, f"{CFG}._v2"),
                f"{heads} {name.removeprefix('num_').replace('_', ' ')} are not shared equally by {c.tp} ranks",
                f"{TP}={divisor(heads, c.tp)}, or ++{CFG}._v2=true",
            )
