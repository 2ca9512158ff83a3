"""The model's shape against parallelism: heads, groups, experts and layers (facts of conf/model)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight import vllm
from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View, divisor, product

MEGATRON = "policy.megatron_cfg"
PP = f"{MEGATRON}.pipeline_model_parallel_size"


def _number(c: View, name: str) -> int | None:
    value = c.model.get(name)
    return value if type(value) is int and value > 0 else None


def _shared(c: View, tp: int, names: dict[str, str]) -> list[tuple[int, str]]:
    """What of the model a tensor parallel size does not share equally: (count, in words)."""
    counts = ((_number(c, name), words) for name, words in names.items())
    return [(count, words) for count, words in counts if count is not None and count % tp]


def _fitting(c: View, tp: int, names: dict[str, str]) -> int:
    sizes = range(min(tp, 1024), 0, -1)
    return next((size for size in sizes if tp % size == 0 and not _shared(c, size, names)), 1)


def _unequal(c: View, key: str, tp: int, names: dict[str, str], ranks: str) -> Iterator[Found]:
    """What `tp` ranks would not share equally, with the largest size below it that they would."""
    odd = _shared(c, tp, names)
    if odd:
        counted = ", ".join(f"{n} {words}" for n, words in odd)
        yield Found(
            (key,),
            f"{c.model.get('name')} has {counted}, which {tp} {ranks} do not share equally",
            f"{key}={_fitting(c, tp, names)}",
        )


SHARED_BY_MEGATRON = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key and value heads",
    "n_groups": "Mamba groups",
    "mamba_num_heads": "Mamba heads",
    "intermediate_size": "columns of the MLP",
}
#: vLLM copies key and value heads where there are fewer than ranks, and so does Megatron.
SHARED_BY_VLLM = {name: words for name, words in SHARED_BY_MEGATRON.items() if name != "num_key_value_heads"}


@rule()
def heads_and_tensor_parallel(c: View) -> Iterator[Found]:
    """Megatron's tensor parallel ranks share heads, groups and columns equally."""
    if not c.megatron or c.tp is None or c.tp < 2:
        return
    names = SHARED_BY_MEGATRON
    key_values = _number(c, "num_key_value_heads")
    # From core 0.16 on ranks may be a multiple of them (planner.layouts.tensor_divides has the source).
    if c.version >= (0, 6, 0) and key_values and c.tp % key_values == 0:
        names = SHARED_BY_VLLM
    yield from _unequal(c, c.tp_key, c.tp, names, "ranks")


@rule()
def layers_and_pipeline(c: View) -> Iterator[Found]:
    """Pipeline stages have equal numbers of layers, unless the first or last is set apart."""
    layers = _number(c, "num_hidden_layers")
    if not c.megatron or c.pp is None or c.pp < 2 or layers is None:
        return
    ends = [c.number(f"{MEGATRON}.num_layers_in_{end}_pipeline_stage") for end in ("first", "last")]
    inner, stages = layers - sum(n or 0 for n in ends), c.pp - sum(n is not None for n in ends)
    if (inner % stages if stages > 0 else inner) or inner < stages:
        yield Found(
            (PP, *(f"{MEGATRON}.num_layers_in_{end}_pipeline_stage" for end in ("first", "last"))),
            f"{c.model.get('name')} has {layers} layers; {inner} of them do not make {stages} equal stages",
            f"{PP}={divisor(layers, c.pp)}, or set the first and last stage apart so that the rest divides",
        )


@rule()
def experts_and_expert_parallel(c: View) -> Iterator[Found]:
    """Experts are spread over ranks that exist, and a dense model has none."""
    if c.ep is None or c.ep < 2:
        return
    experts = _number(c, "n_routed_experts")
    if experts is None:
        if c.model.get("model_type"):
            yield Found(
                (c.ep_key,), f"{c.model.get('name')} is a dense model: it has no experts to spread", f"{c.ep_key}=1"
            )
        return
    if experts % c.ep:
        yield Found(
            (c.ep_key,),
            f"{c.model.get('name')} has {experts} experts, which {c.ep} ranks do not share equally",
            f"{c.ep_key}={divisor(experts, c.ep)}",
        )
    if c.world is None:
        return
    inside = (c.number(f"{MEGATRON}.expert_tensor_parallel_size") or 1) * (c.pp or 1) if c.megatron else 1
    size = product(c.ep, inside)
    if size is not None and c.world % size:
        yield Found(
            (c.ep_key, "cluster.num_nodes", "cluster.gpus_per_node"),
            f"{c.world} GPUs train, and experts are spread over groups of {size} of them",
            f"{c.ep_key}={divisor(max(1, c.world // inside), c.ep)}",
        )


@rule()
def experts_need_sequence_parallel(c: View) -> Iterator[Found]:
    """Megatron trains experts with tensor parallel only with sequence parallel."""
    if not c.megatron or _number(c, "n_routed_experts") is None or (c.tp or 1) < 2:
        return
    if not c.on(f"{MEGATRON}.sequence_parallel"):
        yield Found(
            (c.tp_key, f"{MEGATRON}.sequence_parallel"),
            "without it every tensor parallel rank would send the same tokens to the experts; Megatron refuses to "
            "train so",
            f"{MEGATRON}.sequence_parallel=true",
        )


@rule()
def heads_and_engines(c: View) -> Iterator[Found]:
    """vLLM's tensor parallel ranks share heads, groups and columns equally."""
    if not c.vllm or c.vtp is None or c.vtp < 2:
        return
    yield from _unequal(c, vllm.TP, c.vtp, SHARED_BY_VLLM, "ranks of an engine")


@rule(versions="<v0.6.0")
def experts_on_dtensor(c: View) -> Iterator[Found]:
    """Before v0.6.0 Automodel's own mixture-of-experts models go without tensor and context parallel."""
    if not c.dtensor or _number(c, "n_routed_experts") is None or not c.on("policy.dtensor_cfg._v2"):
        return
    if c.on("policy.dtensor_cfg.automodel_kwargs.force_hf"):
        return
    for size, name in ((c.tp, "tensor_parallel_size"), (c.cp, "context_parallel_size")):
        if (size or 1) > 1:
            yield Found(
                (f"policy.dtensor_cfg.{name}",),
                "this version refuses it for Automodel's mixture-of-experts models",
                f"policy.dtensor_cfg.{name}=1 with policy.dtensor_cfg.expert_parallel_size",
            )


@rule(severity="warning")
def mamba_and_context_parallel(c: View) -> Iterator[Found]:
    """DTensor's context parallel cuts attention alone, and a Mamba layer needs the whole sequence."""
    if c.dtensor and (c.cp or 1) > 1 and "M" in str(c.model.get("hybrid_override_pattern") or ""):
        yield Found(
            ("policy.dtensor_cfg.context_parallel_size",),
            f"{c.model.get('name')}'s Mamba layers carry their state along the sequence; cut over ranks, each part "
            "would start from nothing and train something else",
            "policy.dtensor_cfg.context_parallel_size=1, or Megatron (parallelism=megatron_tp2_pp2_cp2_ep8)",
        )
