"""Rules of layouts: how the GPUs are shared. `rules` says what a rule is given and yields, and names the sources."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.layout.case import GPUS, NODES, Case, Problem, rule
from nano_exp.layout.divisors import divisor
from nano_exp.layout.layouts import FSDP2, MEGATRON


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
