"""Whether the config fits its GPUs, as the planner judges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nano_exp.errors import UserError
from nano_exp.layout import models, workload
from nano_exp.planner import gpus, host_memory, judge
from nano_exp.planner.phase_memory import GENERATION, SHARE
from nano_exp.planner.ranges import GIB
from nano_exp.preflight import generation, vllm
from nano_exp.preflight.place_facts import gib, gpu_types, host_mib
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View


@rule()
def memory_fits(c: View) -> Iterator[Mistake]:
    """By the planner's estimate it fits the site's GPU, else the partition's, else an 80 GB H100 (tight: a warning)."""
    try:
        name = str(c.site.get("gpu") or "") or _of_partition(c) or gpus.DEFAULT
        verdict = judge(c.config, name)
    except UserError as error:
        if c.site.get("gpu") and str(c.site["gpu"]) in error.found:
            yield Mistake((), error.why, error.fix, error.found, severity="warning")
        return  # what else it refuses, other rules say
    if verdict.klass in ("no", "tight"):
        yield Mistake(
            tuple(key for key in _keys(c, verdict.phase) if c.has(key)),
            f"by the planner's estimate for {name}, {verdict.why}",
            verdict.fix or "another parallelism= or more GPUs: `nano-exp plan` lists the layouts that fit",
            severity="error" if verdict.klass == "no" else "warning",
        )


@rule(place=True)
def host_memory_fits(c: View) -> Iterator[Mistake]:
    """By the planner's estimate a node's host memory is enough: what is offloaded and asleep (tight: a warning)."""
    mib = host_mib(c)
    if not mib:
        return
    try:
        if models.unknown(models.named(c.config)):
            return
        phase = host_memory.node(workload.of_config(c.config), mib * 2**20)
    except UserError:
        return  # what it refuses, other rules say
    if phase.klass == "fits":
        return
    terms = sorted(phase.terms, key=lambda term: -term.size.expected)[:4]
    parts = ", ".join(f"{term.name} {term.size.expected / GIB:,.0f}" for term in terms)
    size = phase.size
    needs = (
        f"needs at least {size.low / GIB:,.0f} GiB"
        if phase.klass == "no"
        else f"is expected to need {size.expected / GIB:,.0f} GiB (up to {size.high / GIB:,.0f})"
    )
    yield Mistake(
        tuple(
            key
            for key in ("policy.dtensor_cfg.cpu_offload", "cluster.gpus_per_node", "cluster.num_nodes")
            if c.has(key)
        ),
        f"a node of the run has {gib(mib)} of host memory, and by the planner's estimate it {needs}: {parts}",
        "more nodes, less offload, or a partition with more memory (`sinfo -o '%P %m'`); "
        "ignore=[host_memory_fits] where it is known to fit",
        severity="error" if phase.klass == "no" else "warning",
    )


def not_checked(views: Iterable[View]) -> tuple[str, ...]:
    """Models whose memory, disk and cost cannot be judged, one line each."""
    strangers = (models.unknown(c.known_model) for c in views if c.engine == "nemo_rl")
    return tuple(f"memory, disk and the cost of checkpoints ({why})" for why in dict.fromkeys(strangers) if why)


#: What the memory of vLLM's phases hangs on.
_GENERATION = (generation.MAX_SEQS, f"{vllm.CFG}.gpu_memory_utilization", vllm.TP, "cluster.gpus_per_node")


def _keys(c: View, phase: str) -> tuple[str, ...]:
    """The keys that the memory of a phase hangs on most."""
    if phase in (SHARE, GENERATION):
        return _GENERATION
    micro = "policy.logprob_batch_size" if phase == "logprob" else "policy.train_micro_batch_size"
    return (c.tp_key, micro, generation.LENGTH, "cluster.gpus_per_node")


def _of_partition(c: View) -> str:
    """The GPU that a partition with one kind has; "" where there are several, or Slurm does not say."""
    known = {gpu.name for kind in gpu_types(c) if (gpu := gpus.of_type(kind)) is not None}
    return known.pop() if len(known) == 1 else ""
