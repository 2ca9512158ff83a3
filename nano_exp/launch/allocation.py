"""What a job asks for beside its nodes: whole ones, or CPUs and host memory for its GPUs; and the GPUs themselves.

What was typed among hydra.launcher's options wins, each by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from nano_exp import slurm
from nano_exp.preflight import answers
from nano_exp.preflight.answers import GpuPart
from nano_exp.slurm.shapes import CPUS_PER_GPU, Shape

#: How long Slurm may take to tell what its nodes have, seconds.
TIMEOUT_S = 10.0
#: sbatch's ways to ask for CPUs and for memory; it takes one of each.
CPUS = ("cpus_per_task", "cpus_per_gpu")
MEMORY = ("mem", "mem_gb", "mem_per_cpu", "mem_per_gpu")


def options(site: Mapping[str, Any], form: Shape, typed: Mapping[str, Any]) -> dict[str, Any]:
    """sbatch's options for CPUs, memory and exclusiveness, by submitit's names.

    --exclusive alone gives all CPUs of a node and, where memory goes by the CPU, a part of its memory: --mem=0 is all.

    Parameters
    ----------
    typed: hydra.launcher's parameters and sbatch's own options that were set
    """
    sbatch_options: dict[str, Any] = {}
    if form.whole and "exclusive" not in typed:
        sbatch_options["exclusive"] = True
    if not typed.keys() & set(CPUS) and (cpus := _cpus(site, form, typed)) is not None:
        sbatch_options["cpus_per_task"] = cpus
    if not typed.keys() & set(MEMORY) and (mib := _mib(site, form, typed)) is not None:
        sbatch_options["mem"] = "0" if mib == 0 else f"{mib}M"
    return sbatch_options


def gpus(site: Mapping[str, Any], form: Shape) -> dict[str, Any]:
    """The request for GPUs: site.gres says how."""
    gres = site.get("gres")
    if not form.gpus_per_node or gres == "none":
        return {}
    return {"gres": f"{gres}:{form.gpus_per_node}"} if gres else {"gpus_per_node": form.gpus_per_node}


def _cpus(site: Mapping[str, Any], form: Shape, typed: Mapping[str, Any]) -> int | None:
    """None: none are asked for, the node has what it has."""
    if form.cpus_per_node is not None or form.whole:
        return form.cpus_per_node
    each = site.get("cpus_per_gpu")
    if each is None:
        part = _part(site, form, typed)
        each = part.cpus if part is not None and part.cpus else CPUS_PER_GPU
    return int(each) * max(form.gpus_per_node, 1)


def _mib(site: Mapping[str, Any], form: Shape, typed: Mapping[str, Any]) -> int | None:
    """MiB a node; 0: all of it; None: what Slurm gives by itself."""
    if site.get("memory_gb") is not None:
        return int(float(site["memory_gb"]) * 1024)
    if form.whole:
        return 0
    if site.get("memory_gb_per_gpu") is not None:
        return int(float(site["memory_gb_per_gpu"]) * 1024) * max(form.gpus_per_node, 1)
    part = _part(site, form, typed)
    return part.mib * form.gpus_per_node or None if part is not None else None


def _part(site: Mapping[str, Any], form: Shape, typed: Mapping[str, Any]) -> GpuPart | None:
    if not form.gpus_per_node:
        return None
    kind = str(site.get("gres") or "").rpartition("gpu:")[2]
    nodes = _nodes()
    return answers.part(nodes, str(typed.get("partition") or ""), form.gpus_per_node, kind) if nodes else None


def most_gpus(site: Mapping[str, Any], typed: Mapping[str, Any]) -> int | None:
    """The most GPUs that a node of the partition has; None where Slurm does not say."""
    kind = str(site.get("gres") or "").rpartition("gpu:")[2]
    partition = str(typed.get("partition") or site.get("partition") or "")
    return max((n.gpu_count(kind) for n in answers.of_partition(_nodes(), partition)), default=0) or None


@cache
def _nodes() -> tuple[answers.Nodes, ...]:
    """The cluster's nodes, asked once; empty where Slurm does not answer, as on a machine that only looks."""
    try:
        done = slurm.ask(["sinfo", "--all", "--noheader", "--exact", f"--format={answers.SINFO}"], TIMEOUT_S)
    except slurm.NoAnswer:
        return ()
    return answers.parse_nodes(done.stdout) if done.returncode == 0 else ()
