"""Rules of layouts: what of a model is cut over GPUs: its heads, layers and experts. `rules` names the sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nano_exp.layout.case import GPUS, NODES, Case, Problem, rule
from nano_exp.layout.divisors import divisor
from nano_exp.layout.layouts import FSDP2, MEGATRON, Layout

Parts = list[tuple[int, str]]


def unequal(model: str, key: str, size: int, parts: Callable[[int], Parts], ranks: str = "ranks") -> Iterator[Problem]:
    """What of a model `size` ranks would not share equally, with the largest size below theirs that they would.

    Parameters
    ----------
    parts: what they have to share, for a size: (how many, of what)
    """
    odd = ", ".join(f"{count} {words}" for count, words in parts(size) if count % size)
    if odd:
        smaller = (less for less in range(min(size, 1024), 1, -1) if size % less == 0)
        fit = next((less for less in smaller if not any(count % less for count, _ in parts(less))), 1)
        yield Problem((key,), f"{model} has {odd}, which {size} {ranks} do not share equally", f"{key}={fit}")


@rule()
def heads_and_tensor_parallel(c: Case) -> Iterator[Problem]:
    """Megatron's tensor parallel ranks share heads, groups and columns equally.

    MC core/ssm/mamba_mixer.py: heads and groups divide by TP. core/transformer/transformer_config.py: attention heads
    divide by TP; key-value heads too, or (core 0.16, from NeMo RL v0.6.0) TP is a multiple of them.
    """
    a, n = c.architecture, c.layout
    if a is None or n.backend != MEGATRON:
        return

    def parts(size: int) -> Parts:
        shares = [(a.heads, "attention heads"), (a.intermediate, "columns of the MLP")]
        if c.shape.version < (0, 6) or size % a.kv_heads:
            shares.insert(1, (a.kv_heads, "key and value heads"))
        return shares + ([(a.groups, "Mamba groups"), (a.mamba_heads, "Mamba heads")] if a.hybrid else [])

    yield from unequal(a.name, n.key("tensor"), n.tensor, parts)


@rule(38)
def heads_on_dtensor(c: Case) -> Iterator[Problem]:
    """DTensor cuts MLPs by columns, and attention (not Nemotron-H's) by heads, so they divide.

    RL models/dtensor/parallelize.py; AM components/distributed/parallelizer.py, validate_tp_mesh: both workers. Of
    Nemotron-H they shard the MLP and the output layer alone.
    """
    a, n = c.architecture, c.layout
    if a is None or n.backend != FSDP2:
        return
    heads = [] if a.hybrid else [(a.heads, "attention heads"), (a.kv_heads, "key and value heads")]
    parts = [*heads, (a.intermediate, "columns of the MLP")]
    yield from unequal(a.name, n.key("tensor"), n.tensor, lambda _: parts)


@rule()
def layers_and_pipeline(c: Case) -> Iterator[Problem]:
    """Pipeline stages have equal numbers of layers, unless the first or last is set apart.

    MC core/ssm/mamba_block.py: the layer pattern is cut into equal stages.
    """
    a, n = c.architecture, c.layout
    if a is None or n.pipeline == 1:
        return
    ends = [size for size in (n.first_stage, n.last_stage) if size is not None]
    inner, stages = a.depth - sum(ends), n.pipeline - len(ends)
    if (inner % stages if stages > 0 else inner) or inner < stages:
        key = n.key("pipeline")
        yield Problem(
            (key, *(f"{n.section}.num_layers_in_{end}_pipeline_stage" for end in ("first", "last"))),
            f"{a.name} has {a.depth} layers; {inner} of them do not make {stages} equal stages",
            f"{key}={divisor(a.depth, n.pipeline)}, or set the first and last stage apart so that the rest divides",
        )


@rule()
def experts_and_expert_parallel(c: Case) -> Iterator[Problem]:
    """Experts are spread over ranks that exist, and a dense model has none.

    MC core/transformer/moe/moe_layer.py: experts divide by EP; core/parallel_state.py: GPUs by EP x ETP x PP. AM
    components/moe: experts and GPUs divide by EP.
    """
    a, n, key = c.architecture, c.layout, c.layout.key("expert")
    if a is None:
        return
    if n.expert > 1 and not a.experts:
        yield Problem((key,), f"{a.name} is a dense model: it has no experts to spread", f"{key}=1")
        return
    if a.experts % n.expert:
        yield Problem(
            (key,),
            f"{a.name} has {a.experts} experts, which {n.expert} ranks do not share equally",
            f"{key}={divisor(a.experts, n.expert)}",
        )
    inside = n.expert_tensor * n.pipeline
    size, gpus = n.expert * inside, c.shape.world
    if gpus is None or gpus % size == 0 or n.expert == n.expert_tensor == 1:
        return
    within = n.key("expert_tensor")
    yield Problem(
        (key, *((within,) if n.expert_tensor > 1 else ()), NODES, GPUS),
        f"{gpus} GPUs train, and experts are spread over groups of {size} of them",
        f"{key}={divisor(max(1, gpus // inside), n.expert)}" if n.expert > 1 else f"{within}=1",
    )


@rule()
def experts_need_sequence_parallel(c: Case) -> Iterator[Problem]:
    """Megatron trains experts with tensor parallel only with sequence parallel.

    MC core/transformer/moe/moe_layer.py.
    """
    n = c.layout
    if n.backend == MEGATRON and c.experts and n.tensor > 1 and not n.sequence_parallel:
        yield Problem(
            (n.key("tensor"), f"{n.section}.sequence_parallel"),
            "without it every tensor parallel rank would send the same tokens to the experts; Megatron refuses to "
            "train so",
            f"{n.section}.sequence_parallel=true",
        )


@rule()
def experts_on_dtensor(c: Case) -> Iterator[Problem]:
    """DTensor spreads the experts of Automodel's own modules, and with expert parallel cuts nothing else of them.

    RL v0.5.0 dtensor_policy_worker_v2.py: neither TP nor CP, with or without EP. AM components/moe/parallelizer.py: no
    TP, at each pin; _transformers/capabilities.py: no EP of Hugging Face's modules.
    """
    n, old = c.layout, c.shape.version < (0, 6)
    if not c.experts or n.backend != FSDP2 or not n.second_worker:
        return
    if not c.own_modules:
        if n.expert > 1:
            hugging_face = f"{n.section}.automodel_kwargs.force_hf"
            yield Problem(
                (n.key("expert"), hugging_face),
                "Hugging Face's own modules have no expert parallel",
                f"{n.key('expert')}=1, or {hugging_face}=false",
            )
        return
    if n.tensor > 1 and (old or n.expert > 1):
        yield _only_expert_parallel(n, "tensor")
    if n.context > 1 and old:
        yield _only_expert_parallel(n, "context")


def _only_expert_parallel(n: Layout, kind: str) -> Problem:
    return Problem(
        (n.key(kind), n.key("expert")),
        f"Automodel's mixture-of-experts models have no {kind} parallel in this version",
        f"{n.key(kind)}=1 with {n.key('expert')}",
    )
