"""The rulebook: which layouts are valid, for preflight, `nano-exp plan` and parallelism=auto alike.

Each rule is a small function with its source, registered under its own name. It gets a `Case` and yields a `Problem`
for each thing that is wrong; it knows nothing of memory, and what a case does not say it does not judge.

    problems(layout, architecture, shape)   every Problem of a layout on a cluster with a batch

Sources: MC = NVIDIA/Megatron-LM at the pins of NeMo RL v0.5.0-v0.7.0; RL = NVIDIA-NeMo/RL at v0.7.0; AM =
NVIDIA-NeMo/Automodel at the pins of NeMo RL v0.5.0-v0.7.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from nano_exp.layout.architecture import Architecture
from nano_exp.layout.case import (
    DYNAMIC_BATCHING,
    FUSED_LOSS,
    GBS,
    GENERATIONS,
    GPUS,
    LATE,
    LBS,
    MBS,
    NODES,
    PACKING,
    PADDING,
    PROMPTS,
    RULES,
    TOP_K,
    TOP_P,
    UNEQUAL,
    Case,
    Problem,
    Shape,
    rule,
)
from nano_exp.layout.divisors import divisor, next_multiple
from nano_exp.layout.layouts import DYNAMIC, FIXED, FSDP2, MEGATRON, PACKED, Layout, packed_parts
from nano_exp.nemo_rl import versions


def problems(layout: Layout, architecture: Architecture | None, shape: Shape) -> list[Problem]:
    """Every rule that a layout breaks; an empty list for a valid one."""
    case = Case(layout, architecture, shape)
    return [
        problem._replace(rule=one.name)
        for one in RULES.values()
        if versions.holds(one.versions, shape.version)
        for problem in one.check(case)
        if problem.severity == "error"
    ]


# --- the GPUs -------------------------------------------------------------------------------------------------------


@rule(16)
def layout_divides_gpus(c: Case) -> Iterator[Problem]:
    """The training GPUs are cut into groups of tensor x pipeline x context parallel."""
    n, gpus = c.layout, c.shape.world
    size = n.model_parallel
    if gpus is None or gpus % size == 0:
        return
    kinds = ("tensor", "pipeline", "context") if n.backend == MEGATRON else ("tensor", "context")
    parts = f"tensor {n.tensor} x pipeline {n.pipeline} x context {n.context} = {size}"
    why = "more than there are" if gpus < size else "which does not divide them"
    others = n.pipeline * n.context
    fit = divisor(gpus // others, n.tensor) if gpus % others == 0 else 1
    yield Problem(
        (*map(n.key, kinds), NODES, GPUS),
        f"{gpus} GPUs train, and one copy of the model takes {parts}, {why}",
        f"{n.key('tensor')}={fit}, another parallelism=, or more nodes (++{NODES}=N)",
    )


@rule(36, versions=">=v0.6.0")
def offload_on_one_gpu(c: Case) -> Iterator[Problem]:
    """Parameters are not offloaded from a single GPU."""
    n = c.layout
    if n.backend == FSDP2 and n.second_worker and n.offload and c.shape.world == 1:
        yield Problem(
            (f"{n.section}.cpu_offload", GPUS),
            "offloading comes with sharding, and one GPU has nothing to shard over",
            f"{n.section}.cpu_offload=false, or more GPUs",
        )


@rule(36, versions=">=v0.7.0")
def replicated_shards(c: Case) -> Iterator[Problem]:
    """Replicas divide the data parallel ranks."""
    n, gpus = c.layout, c.shape.world
    if n.backend != FSDP2 or n.replicate < 2 or gpus is None:
        return
    ranks, key = gpus // (n.tensor * n.context * n.expert), f"{n.section}.dp_replicate_size"
    if ranks % n.replicate:
        yield Problem(
            (key, *map(n.key, ("tensor", "context", "expert"))),
            f"there are {ranks} data parallel ranks, which {n.replicate} replicas do not share equally",
            f"{key}={divisor(ranks, n.replicate) if ranks else 1}",
        )


# --- the model ------------------------------------------------------------------------------------------------------


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
        found = [(a.heads, "attention heads"), (a.intermediate, "columns of the MLP")]
        if c.shape.version < (0, 6) or size % a.kv_heads:
            found.insert(1, (a.kv_heads, "key and value heads"))
        return found + ([(a.groups, "Mamba groups"), (a.mamba_heads, "Mamba heads")] if a.hybrid else [])

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


# --- what cuts the sequence -----------------------------------------------------------------------------------------


@rule()
def sequence_and_tensor_parallel(c: Case) -> Iterator[Problem]:
    """Megatron's sequence parallel is done by the tensor parallel ranks, so there are several.

    MC core/model_parallel_config.py raises ValueError. DTensor prints a warning and goes on without.
    """
    n = c.layout
    if n.backend == MEGATRON and n.sequence_parallel and n.tensor == 1:
        yield Problem(
            (f"{n.section}.sequence_parallel", n.key("tensor")),
            "sequence parallel needs tensor parallel greater than 1: its ranks share the sequence",
            f"{n.section}.sequence_parallel=false, or {n.key('tensor')}=2",
        )


@rule(37)
def hybrid_sequence_parallel(c: Case) -> Iterator[Problem]:
    """DTensor has no sequence parallel for Nemotron-H.

    RL models/dtensor/parallelize.py; AM components/distributed/parallelizer.py, NemotronHParallelizationStrategy, which
    asserts it at any tensor parallel size.
    """
    n = c.layout
    if n.backend == FSDP2 and n.sequence_parallel and c.hybrid and not c.own_modules:
        key = f"{n.section}.sequence_parallel"
        yield Problem((key,), "its Mamba layers need whole sequences", f"{key}=false")


@rule()
def mamba_and_context_parallel(c: Case) -> Iterator[Problem]:
    """Context parallel ranks share the heads of Mamba layers, which need the whole sequence; on DTensor few models can.

    MC core/ssm/mamba_context_parallel.py, AM components/distributed/mamba_cp.py (in NeMo RL from v0.7.0 on, for
    Automodel's own modules; _transformers/capabilities.py refuses Hugging Face's): the heads of a tensor parallel rank
    divide by CP; its groups divide by CP, or CP by them.
    """
    a, n = c.architecture, c.layout
    if a is None or not a.hybrid or n.context == 1:
        return
    key = n.key("context")
    if n.backend == FSDP2 and (not c.own_modules or c.shape.version < (0, 7)):
        yield Problem(
            (key,),
            f"{a.name}'s Mamba layers carry their state along the sequence, and have no context parallel on DTensor",
            f"{key}=1, or Megatron (parallelism=megatron_tp2_pp2_cp2_ep8)",
        )
        return
    heads, groups = (max(size // (n.tensor if n.backend == MEGATRON else 1), 1) for size in (a.mamba_heads, a.groups))

    def shared(size: int) -> bool:
        return heads % size == 0 and (groups % size == 0 or size % groups == 0)

    if not shared(n.context):
        yield Problem(
            (key, n.key("tensor")),
            f"{heads} Mamba heads in {groups} groups of a tensor parallel rank are not shared equally by {n.context} "
            "context parallel ranks",
            f"{key}={next(size for size in range(n.context, 0, -1) if shared(size))}",
        )


@rule(31)
def context_parallel_packs(c: Case) -> Iterator[Problem]:
    """Megatron's context parallel works on packed sequences."""
    n, key = c.layout, c.layout.key("context")
    if n.backend != MEGATRON or n.context == 1:
        return
    if n.batching != PACKED:
        parts, now = packed_parts(n), n.padding or 1
        also = f" {PADDING}={math.lcm(parts, now)}" if now % parts else ""
        yield Problem(
            (key, PACKING),
            "context parallel cuts packed sequences, and packing is off",
            f"{PACKING}=true{also}, or {key}=1",
        )
    if c.shape.fused_loss:
        yield Problem(
            (key, FUSED_LOSS),
            "the fused loss does not work with sequences cut over ranks",
            f"{FUSED_LOSS}=false, or {key}=1",
        )


@rule(36)
def dtensor_packing_and_context(c: Case) -> Iterator[Problem]:
    """Under DTensor, packing and context parallel exclude each other."""
    n, key = c.layout, c.layout.key("context")
    if n.backend == FSDP2 and n.batching == PACKED and n.context > 1:
        yield Problem(
            (PACKING, key),
            "DTensor's context parallel does not work with packed sequences",
            f"{PACKING}=false, or {key}=1",
        )


@rule(36)
def dtensor_context_and_sequence(c: Case) -> Iterator[Problem]:
    """Under DTensor, context parallel and sequence parallel exclude each other."""
    n, sequence = c.layout, f"{c.layout.section}.sequence_parallel"
    if n.backend == FSDP2 and n.context > 1 and n.tensor > 1 and n.sequence_parallel:
        yield Problem(
            (n.key("context"), n.key("tensor"), sequence),
            "both cut the sequence, which the DTensor worker does not combine",
            f"{sequence}=false, or {n.key('context')}=1",
        )


# --- batches --------------------------------------------------------------------------------------------------------


@rule(17, versions=">=v0.6.0")
def equal_micro_batches(c: Case) -> Iterator[Problem]:
    """With tensor parallel 4 and above, training and log probabilities have to see equal micro batches."""
    n = c.layout
    if n.tensor >= 4 and n.micro_batch != n.logprob_batch and not c.shape.unequal:
        yield Problem(
            (n.key("tensor"), MBS, LBS),
            "results depend on the batch's size at tensor parallel 4 and above, so log probabilities of different "
            "micro batches do not agree; NeMo RL refuses it",
            f"{LBS}={n.micro_batch}; ++site.env.{UNEQUAL}=1 takes the risk, as NVIDIA's own scripts of some recipes do",
        )


@rule(18)
def dynamic_batching(c: Case) -> Iterator[Problem]:
    """Dynamic batching goes neither with pipelining nor with packing."""
    n = c.layout
    if n.batching != DYNAMIC and not n.also_dynamic:
        return
    if n.pipeline > 1:
        yield Problem(
            (DYNAMIC_BATCHING, n.key("pipeline")),
            "pipeline stages expect micro batches of one shape",
            f"{DYNAMIC_BATCHING}=false ({PACKING}=true packs instead)",
        )
    if n.also_dynamic:
        yield Problem(
            (DYNAMIC_BATCHING, PACKING),
            "both decide what a micro batch is, and one can",
            f"{DYNAMIC_BATCHING}=false, or {PACKING}=false",
        )


@rule(26)
def whole_global_batches(c: Case) -> Iterator[Problem]:
    """A rollout is a whole number of global batches."""
    s = c.shape
    if s.rollout is None or s.global_batch is None or s.rollout % s.global_batch == 0:
        return
    fit = divisor(s.rollout, s.global_batch)
    yield Problem(
        (GBS, PROMPTS, GENERATIONS),
        f"{LATE}a step's {s.prompts} x {s.generations} = {s.rollout} sequences are cut into global batches of "
        f"{s.global_batch}, and some are left over",
        f"{GBS}={s.rollout} (one update a rollout)" + (f", or {GBS}={fit}" if 1 < fit < s.rollout else ""),
    )


@rule(27)
def batches_divide_ranks(c: Case) -> Iterator[Problem]:
    """Global batch and rollout are shared equally by the data parallel ranks."""
    s, ranks, key = c.shape, c.ranks, c.layout.key("tensor")
    if ranks is None:
        return
    where = f"{s.world} GPUs with {key}={c.layout.tensor} are {ranks} data parallel ranks"
    if s.global_batch is not None and s.global_batch % ranks:
        fit = next_multiple(s.global_batch, ranks)
        yield Problem(
            (GBS, key),
            f"{LATE}{where}, which do not share {s.global_batch} sequences equally",
            f"{GBS}={fit} (a divisor of {PROMPTS} x {GENERATIONS}), or another number of GPUs",
        )
    if s.prompts and s.generations and s.prompts * s.generations % ranks:
        prompts = next_multiple(s.prompts, ranks // math.gcd(ranks, s.generations))
        yield Problem(
            (PROMPTS, GENERATIONS, key),
            f"{LATE}{where}, which do not share a rollout of {s.rollout} sequences equally",
            f"{PROMPTS}={prompts}, or {GENERATIONS}={next_multiple(s.generations, ranks)}",
        )


@rule(28)
def whole_micro_batches(c: Case) -> Iterator[Problem]:
    """Without packing and dynamic batching a rank's share is a whole number of micro batches."""
    n, s, ranks = c.layout, c.shape, c.ranks
    if n.batching != FIXED or ranks is None:
        return
    for total, batch, key, others, what, batches in (
        (s.global_batch, n.micro_batch, MBS, (GBS,), "a global batch", "micro batches"),
        (s.rollout, n.logprob_batch, LBS, (PROMPTS, GENERATIONS), "a rollout", "log-probability batches"),
    ):
        if total is not None and total % ranks == 0 and total // ranks % batch:
            share = total // ranks
            yield Problem(
                (key, *others, n.key("tensor")),
                f"{LATE}each of {ranks} data parallel ranks has {share} sequences of {what}, not a whole number of "
                f"{batches} of {batch}",
                f"{key}={divisor(share, batch)}",
            )


@rule(29, versions=">=v0.6.0")
def filtered_sampling_and_tensor_parallel(c: Case) -> Iterator[Problem]:
    """Log probabilities of filtered sampling are spread over the tensor parallel ranks by tokens."""
    n, s = c.layout, c.shape
    if not s.filtered or n.tensor == 1 or n.padding is None:
        return
    # With packing and dynamic batching a micro batch may be one row.
    rows = (n.micro_batch, n.logprob_batch) if n.batching == FIXED else (1,)
    if not any(batch * n.padding % n.tensor for batch in rows):
        return
    must = f"{LATE}a micro batch's tokens must be a multiple of the tensor parallel size {n.tensor}"
    rounded = s.length_round if n.batching == DYNAMIC or n.also_dynamic else None
    mostly = rounded is not None and rounded % n.tensor == 0
    yield Problem(
        (TOP_P, TOP_K, n.key("tensor"), PADDING),
        f"{must}; dynamic batching rounds them up to multiples of {rounded}, but for the longest sequence of a batch, "
        f"whose length is only padded to a multiple of {n.padding}"
        if mostly
        else f"{must}, and lengths are only padded to multiples of {n.padding}",
        f"{PADDING}={next_multiple(n.padding, n.tensor)}",
        severity="warning" if mostly else "error",
    )


@rule(30, versions=">=v0.6.0")
def packing_alignment(c: Case) -> Iterator[Problem]:
    """Megatron cuts each packed sequence into equal parts for context and sequence parallel."""
    n, parts = c.layout, packed_parts(c.layout)
    if n.backend == MEGATRON and n.batching == PACKED and n.padding is not None and n.padding % parts:
        yield Problem(
            (PADDING, n.key("context"), n.key("tensor"), f"{n.section}.sequence_parallel"),
            f"{LATE}a packed sequence is cut into {parts} equal parts (2 x context parallel above 1, times tensor "
            "parallel with sequence parallel), so its length must be a multiple of that",
            f"{PADDING}={next_multiple(n.padding, parts)}",
        )


@rule(32)
def whole_optimizer_offload(c: Case) -> Iterator[Problem]:
    """The optimizer's state is offloaded whole or not at all."""
    n, optimizer = c.layout, f"{c.layout.section}.optimizer"
    if n.backend == MEGATRON and n.offload and n.fraction != 1:
        yield Problem(
            (f"{optimizer}.optimizer_cpu_offload", f"{optimizer}.optimizer_offload_fraction"),
            "a part of it on the GPU would be in the way of generation, for which NeMo RL moves it whole",
            f"{optimizer}.optimizer_offload_fraction=1.0",
        )
