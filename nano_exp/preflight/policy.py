"""What NeMo RL's policy asks of a config (nemo_rl/models/policy/lm_policy.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View, divisor, product

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


@rule(16)
def layout_divides_gpus(c: View) -> Iterator[Found]:
    """The training GPUs are cut into groups of tensor x pipeline x context parallel."""
    size = product(c.tp, c.pp, c.cp)
    if size is None or c.world is None or c.world % size == 0:
        return
    keys = [c.tp_key]
    if c.megatron:
        keys.append("policy.megatron_cfg.pipeline_model_parallel_size")
    keys += [f"{c.tp_key.rsplit('.', 1)[0]}.context_parallel_size", "cluster.num_nodes", "cluster.gpus_per_node"]
    parts = f"tensor {c.tp} x pipeline {c.pp} x context {c.cp} = {size}"
    why = "more than there are" if c.world < size else "which does not divide them"
    others = (c.pp or 1) * (c.cp or 1)
    fit = divisor(c.world // others, c.tp or 1) if c.world % others == 0 else 1
    yield Found(
        tuple(keys),
        f"{c.world} GPUs train, and one copy of the model takes {parts}, {why}",
        f"{c.tp_key}={fit}, another parallelism=, or more nodes (++cluster.num_nodes=N)",
    )


@rule(17, versions=">=v0.6.0")
def equal_micro_batches(c: View) -> Iterator[Found]:
    """With tensor parallel 4 and above, training and log probabilities have to see equal micro batches."""
    if c.tp is None or c.tp < 4 or c.mbs is None or c.lbs is None or c.mbs == c.lbs:
        return
    if c.on("loss_fn.force_on_policy_ratio") or c.variable("NRL_IGNORE_TP_ACCURACY_CHECK"):
        return
    yield Found(
        (c.tp_key, "policy.train_micro_batch_size", "policy.logprob_batch_size"),
        "results depend on the batch's size at tensor parallel 4 and above, so log probabilities of different "
        "micro batches do not agree; NeMo RL refuses it",
        f"policy.logprob_batch_size={c.mbs}; ++site.env.NRL_IGNORE_TP_ACCURACY_CHECK=1 takes the risk, as NVIDIA's own "
        "scripts of some recipes do",
    )


@rule(18)
def dynamic_batching(c: View) -> Iterator[Found]:
    """Dynamic batching goes neither with pipelining nor with packing."""
    if not c.dynamic:
        return
    if (c.pp or 1) > 1:
        yield Found(
            ("policy.dynamic_batching.enabled", "policy.megatron_cfg.pipeline_model_parallel_size"),
            "pipeline stages expect micro batches of one shape",
            "policy.dynamic_batching.enabled=false (policy.sequence_packing.enabled=true packs instead)",
        )
    if c.packing:
        yield Found(
            ("policy.dynamic_batching.enabled", "policy.sequence_packing.enabled"),
            "both decide what a micro batch is, and one can",
            "policy.dynamic_batching.enabled=false, or policy.sequence_packing.enabled=false",
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
