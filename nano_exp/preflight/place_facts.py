"""What a launch asks of Slurm, and what the partition that it names has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nano_exp.planner import gpus
from nano_exp.preflight.answers import Nodes
from nano_exp.preflight.view import View
from nano_exp.slurm import shapes


def parameter(c: View, name: str) -> Any:
    """One of hydra.launcher's parameters."""
    return c.facts.parameters.get(name)


def partitions_named(c: View) -> Sequence[str]:
    """The partitions asked for; Slurm takes several with commas."""
    return [name for name in str(parameter(c, "partition") or "").split(",") if name]


def nodes_of(c: View) -> list[Nodes] | None:
    """The nodes of the partitions asked for; None where Slurm did not tell or a partition is not there."""
    if not c.on_slurm or c.facts.answers is None or c.facts.answers.nodes is None:
        return None
    partitions = partitions_named(c)
    fitting = [n for n in c.facts.answers.nodes if (n.partition in partitions if partitions else n.default)]
    return fitting if fitting and {n.partition for n in fitting} >= set(partitions) else None


def sbatch_options(c: View) -> Mapping[str, Any]:
    """sbatch's own options that were typed."""
    return c.facts.parameters.get("additional_parameters") or {}


def memory_typed(c: View) -> bool:
    """Whether hydra.launcher's own settings say how much memory."""
    return any(parameter(c, key) is not None for key in ("mem_gb", "mem_per_cpu", "mem_per_gpu")) or any(
        str(key).startswith("mem") for key in sbatch_options(c)
    )


def host_mib(c: View) -> float | None:
    """Host memory that the run gets of a node, MiB, of the nodes that have most; None where nobody says.

    What is named is the job's, which runs that are packed share.
    """
    site_gb, launcher_gb = c.site.get("memory_gb"), parameter(c, "mem_gb")
    for gb in (launcher_gb, site_gb):
        if isinstance(gb, int | float) and gb > 0:
            return float(gb) * 1024 / (c.pack or 1)
    if memory_typed(c) and launcher_gb != 0:  # hydra.launcher.mem_gb=0 is all of it
        return None
    kind, count = gpu_type(c), c.gpus or 1
    fitting = [n for n in nodes_of(c) or () if n.mib > 1 and n.gpu_count(kind) >= count]
    if not fitting:
        return None
    if shapes.whole_nodes(c.site.get("allocation"), c.engine) or launcher_gb == 0:
        return float(max(n.mib for n in fitting))
    each = c.site.get("memory_gb_per_gpu")
    if isinstance(each, int | float):
        return float(each) * 1024 * count
    return float(max(n.mib // n.gpu_count() for n in fitting) * count)


def gib(mib: float) -> str:
    return f"{mib / 1024:,.0f} GiB"


#: GPUs that the planner has no constants for, by the names that sites give them, and their memory in GB. Types that are
#: sold with two sizes stand with the larger one: nothing is said against them.
OTHER_GPUS = {
    **{"t4": 16, "p100": 16, "rtx2080ti": 11, "v100": 32, "a2": 16, "rtx5090": 32},
    **{"a10": 24, "a30": 24, "l4": 24, "a5000": 24, "rtx3090": 24, "rtx4090": 24},
    **{"a40": 48, "l40": 48, "a6000": 48, "rtx6000": 48, "rtx8000": 48, "gh200": 144},
}


def gpu_gb(kind: str, otherwise: float) -> float:
    """The memory of a type of GPU as Slurm names it, in GB; `otherwise` for a type that is not known."""
    stated = re.search(r"(\d+)gb", kind)
    if stated is not None:
        return float(stated[1])
    word = re.sub(r"^(nvidia|geforce|tesla|quadro)[_-]|[_-](sxm\d*|pcie|nvl|ada)\b.*", "", kind)
    gpu = gpus.of_type(word)
    if gpu is not None:
        return float(gpu.name.rpartition("-")[2])
    return OTHER_GPUS.get(re.sub(r"[_-]", "", word), otherwise)


def gpu_types(c: View) -> set[str]:
    """The types of GPUs that the launch may get, as Slurm names them; empty where it does not say."""
    nodes, kind = nodes_of(c), gpu_type(c)
    fitting = [n for n in nodes or () if n.gpu_count(kind) >= (c.gpus or 1)]
    return {node_kind for n in fitting for node_kind, _ in n.gpus if node_kind and kind in ("", node_kind)}


def gpu_type(c: View) -> str:
    """The GPU type that the launch asks for by name; "" where it takes any."""
    for name in ("gres", "gpus_per_node"):
        match = re.search(r"(?:^|gpu:)([a-zA-Z][\w-]*):\d+", str(parameter(c, name) or ""))
        if match is not None and match[1] != "gpu":
            return match[1].lower()
    match = re.search(r"gpu:([a-zA-Z][\w-]*)(:\d+|$)", str(sbatch_options(c).get("gres") or c.site.get("gres") or ""))
    return match[1].lower() if match is not None else ""


def in_words(nodes: Sequence[Nodes]) -> str:
    texts = []
    for n in nodes:
        node_gpus = " + ".join(f"{count} {kind or 'GPUs'}" for kind, count in n.gpus) or "no GPUs"
        texts.append(f"{n.count} of {node_gpus}, {n.cpus} CPUs")
    return "; ".join(dict.fromkeys(texts))
