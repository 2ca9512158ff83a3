"""Rules of layouts: batches and lengths that are cut over ranks. `rules` names the sources."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nano_exp.layout.case import (
    DYNAMIC_BATCHING,
    GBS,
    GENERATIONS,
    LATE,
    LBS,
    MBS,
    PACKING,
    PADDING,
    PROMPTS,
    TOP_K,
    TOP_P,
    UNEQUAL,
    Case,
    Problem,
    rule,
)
from nano_exp.layout.divisors import divisor, next_multiple
from nano_exp.layout.layouts import DYNAMIC, FIXED, MEGATRON, PACKED, packed_parts


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
    """The optimizer's state is offloaded whole or not at all; after v0.7.0, a part of it may be."""
    n, optimizer = c.layout, f"{c.layout.section}.optimizer"
    partly = c.shape.version >= (0, 8, 0) and 0 < n.fraction < 1
    if n.backend == MEGATRON and n.offload and n.fraction != 1 and not partly:
        yield Problem(
            (f"{optimizer}.optimizer_cpu_offload", f"{optimizer}.optimizer_offload_fraction"),
            "a part of it on the GPU would be in the way of generation, for which NeMo RL moves it whole",
            f"{optimizer}.optimizer_offload_fraction=1.0",
        )
