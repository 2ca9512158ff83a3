"""Rules of layouts: what cuts a sequence: sequence and context parallel. `rules` names the sources."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nano_exp.layout.case import PACKING, PADDING, Case, Problem, rule
from nano_exp.layout.layouts import FSDP2, MEGATRON, PACKED, packed_parts


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
            (key, c.shape.fused_key),
            "the fused loss does not work with sequences cut over ranks",
            f"{c.shape.fused_key}=false, or {key}=1",
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
