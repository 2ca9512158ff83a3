"""The partition and its nodes against what the runs ask of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nano_exp import slurm
from nano_exp.errors import UserError, choice, nearest
from nano_exp.preflight import place_facts
from nano_exp.preflight.place_facts import gib, gpu_gb
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View
from nano_exp.slurm import shapes
from nano_exp.text import duration


@rule(place=True, engine=ANY_ENGINE)
def slurm_there(c: View) -> Iterator[Mistake]:
    """Runs for Slurm are launched from a host that has its commands."""
    if c.on_slurm and c.facts.answers is not None and not c.facts.answers.available:
        try:
            slurm.require()
        except UserError as error:
            yield Mistake((), error.why, error.fix, error.found)


@rule(place=True, engine=ANY_ENGINE)
def partition_there(c: View) -> Iterator[Mistake]:
    """The partition exists and takes jobs."""
    if not c.on_slurm or c.facts.answers is None or c.facts.answers.nodes is None:
        return
    every = sorted({n.partition for n in c.facts.answers.nodes})
    for name in place_facts.partitions_named(c):
        if name not in every:
            yield Mistake(
                (),
                f"you cannot use a partition of that name here; yours are: {', '.join(every)}",
                choice("site.partition=", nearest(name, every), every),
                f"partition {name}",
            )
    nodes = place_facts.nodes_of(c)
    if nodes is None and not place_facts.partitions_named(c):
        yield Mistake(
            (),
            f"no partition is named, and this cluster has no default one; its partitions are: {', '.join(every)}",
            f"site.partition={every[0] if every else '...'}",
            "site.partition=null",
        )
    elif nodes and not any(n.up for n in nodes):
        yield Mistake(
            (),
            "it takes jobs but does not start them now",
            "another site.partition=, or wait until it is up",
            f"partition {nodes[0].partition} is down",
            severity="warning",
        )


@rule(place=True, engine=ANY_ENGINE)
def partition_time(c: View) -> Iterator[Mistake]:
    """The partition allows the time asked for."""
    minutes, nodes = place_facts.parameter(c, "timeout_min"), place_facts.nodes_of(c)
    if not nodes or not isinstance(minutes, int | float):
        return
    longest = max(n.minutes if n.minutes is not None else math.inf for n in nodes)
    if minutes > longest:
        yield Mistake(
            (),
            f"partition {nodes[0].partition} allows {duration(60 * longest)} at most",
            f"hydra.launcher.timeout_min={longest:.0f} (a run that needs more saves, stops and goes on when launched "
            "again), or another site.partition=",
            f"a time limit of {duration(60 * minutes)}",
        )


@rule(place=True, engine=ANY_ENGINE)
def nodes_fit(c: View) -> Iterator[Mistake]:
    """The partition has enough nodes with the GPUs and CPUs asked for."""
    nodes = place_facts.nodes_of(c)
    if not nodes or c.nodes is None or c.gpus is None:
        return
    shape = shapes.shape(dict(c.config))
    where, kind = nodes[0].partition, place_facts.gpu_type(c)
    node_gpus = f"{shape.gpus_per_node} {kind} GPUs" if kind else f"{shape.gpus_per_node} GPUs"
    hardware = f"{shape.nodes} node{'s' if shape.nodes > 1 else ''} with {node_gpus}"
    largest = max(n.largest if n.largest is not None else math.inf for n in nodes)
    if shape.nodes > largest:
        yield Mistake(
            ("cluster.num_nodes",),
            f"a job in partition {where} has {largest} nodes at most",
            "another cluster= or site.partition=",
        )
        return
    with_gpus = [n for n in nodes if n.gpu_count(kind) >= shape.gpus_per_node]
    cpus = shape.cpus_per_node or 0
    whole = [n for n in with_gpus if n.cpus >= cpus]
    if sum(n.count for n in with_gpus) < shape.nodes:
        yield Mistake(
            ("cluster.num_nodes", "cluster.gpus_per_node"),
            f"partition {where} has no {hardware}; it has {place_facts.in_words(nodes)}",
            "another cluster= or site.partition= (`sinfo -N -o '%P %N %G %c'`)",
        )
    elif sum(n.count for n in whole) < shape.nodes:
        most = max(n.cpus for n in with_gpus)
        yield Mistake(
            ("cluster.num_nodes", "cluster.gpus_per_node"),
            f"{cpus} CPUs a node are asked for, and the nodes with these GPUs in partition {where} have {most}",
            f"slurm.cpus_per_node={most}",
        )


@rule(place=True)
def node_alone(c: View) -> Iterator[Mistake]:
    """A run has its nodes alone where it takes all of their GPUs; where it leaves some free it says what is meant.

    On one node NeMo RL stops beside another Ray: `memory_summary(stats_only=True, ...)` (utils/memory_tracker.py) looks
    for Ray by its processes, whoever's they are. Not so a packed run, whose Ray is named to it.
    """
    allocation = c.site.get("allocation")
    if not c.gpus or allocation == shapes.NODE or "exclusive" in place_facts.sbatch_options(c):
        return
    roomy = [n for n in place_facts.nodes_of(c) or () if n.gpu_count() > c.gpus and not n.exclusive]
    own_ray = c.launcher("engine").get("ray_address", "local") in ("local", None) and not c.pack
    if not roomy or (allocation == shapes.SHARE and not (c.nodes == 1 and own_ray)):
        return
    have = f"nodes of partition {roomy[0].partition} have {roomy[0].gpu_count()} GPUs"
    yield Mistake(
        ("cluster.gpus_per_node",),
        f"{have}: the run would have them alone, and GPUs would idle"
        if allocation is None
        else f"{have} and are shared: another run may be on the same one, and NeMo RL stops where it sees a second Ray",
        "site.allocation=node (the nodes alone)" + ("" if c.nodes == 1 else ", or site.allocation=share"),
    )


@rule(place=True, engine=ANY_ENGINE)
def node_given(c: View) -> Iterator[Mistake]:
    """The partition gives whole nodes where they are asked for."""
    nodes = place_facts.nodes_of(c)
    if (
        nodes
        and shapes.whole_nodes(c.site.get("allocation"), c.engine)
        and "exclusive" not in place_facts.sbatch_options(c)
        and all(n.forced for n in nodes)
    ):
        yield Mistake(
            (),
            f"jobs in partition {nodes[0].partition} share their nodes, whatever they ask for (OverSubscribe=FORCE)",
            "site.allocation=share, or another site.partition=",
            "whole nodes (--exclusive)",
        )


@rule(place=True, engine=ANY_ENGINE)
def memory_given(c: View) -> Iterator[Mistake]:
    """The partition gives the host memory asked for."""
    nodes, most = place_facts.nodes_of(c), (c.facts.answers.most_mib if c.facts.answers is not None else None) or {}
    typed = c.site.get("memory_gb")
    if (
        not nodes
        or (typed is None and not shapes.whole_nodes(c.site.get("allocation"), c.engine))
        or place_facts.memory_typed(c)
    ):
        return
    has = max(n.mib for n in nodes)
    allowed = max(most.get(n.partition, has) for n in nodes)
    needed = has if typed is None else float(typed) * 1024
    if has <= 1 or needed <= min(has, allowed):  # 1: Slurm does not know it
        return
    limit = f"allows {gib(allowed)} a node (MaxMemPerNode)" if allowed < has else f"has {gib(has)} a node"
    yield Mistake(
        (),
        f"partition {nodes[0].partition} {limit}, and Slurm refuses more",
        f"site.memory_gb={min(has, allowed) // 1024}",
        "all memory of a node (--mem=0)" if typed is None else f"site.memory_gb={typed}",
    )


@rule(place=True)
def gpu_memory(c: View) -> Iterator[Mistake]:
    """The GPUs have the memory that NVIDIA names for the model."""
    nodes, needed = place_facts.nodes_of(c), c.model.get("gpu_memory_gb")
    if not nodes or not isinstance(needed, int | float) or c.gpus is None or c.nodes is None:
        return
    kind = place_facts.gpu_type(c)
    fitting = [n for n in nodes if n.gpu_count(kind) >= c.gpus]
    kinds = {gpu_kind for n in fitting for gpu_kind, _ in n.gpus if kind in ("", gpu_kind)}
    small = sorted(gpu_kind for gpu_kind in kinds if gpu_gb(gpu_kind, needed) < needed)
    if not small:
        return
    others = [n for n in fitting if any(gpu_gb(gpu_kind, needed) >= needed for gpu_kind, _ in n.gpus)]
    enough = sum(n.count for n in others) >= c.nodes
    names = ", ".join(f"{gpu_kind} ({gpu_gb(gpu_kind, needed):.0f} GB)" for gpu_kind in small)
    best = next((gpu_kind for n in others for gpu_kind, _ in n.gpus if gpu_gb(gpu_kind, needed) >= needed), "h100")
    yield Mistake(
        ("cluster.gpus_per_node",),
        f"NVIDIA names {needed} GB a GPU for {c.model.get('name')}, and partition {nodes[0].partition} has {names}"
        + (" beside others: Slurm may give either" if enough else ""),
        f"hydra.launcher.gres=gpu:{best}:{c.gpus}" + ("" if enough else ", in another site.partition="),
        severity="warning" if enough else "error",
    )
