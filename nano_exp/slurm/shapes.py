"""What an allocation has: nodes, and each one's GPUs, CPUs and host memory."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The words of site.allocation.
NODE, SHARE = "node", "share"
#: CPUs asked for beside each GPU where Slurm does not say what its nodes have: ray.sub's number up to v0.6.0.
CPUS_PER_GPU = 16


@dataclass(frozen=True)
class Shape:
    """What one run asks Slurm for; runs of one shape share an array. CPUs and GPUs are per node.

    Parameters
    ----------
    cpus_per_node: None where no number is asked for: all of a whole node's, or a share's default
    whole: the nodes alone, with all of their CPUs and memory
    """

    nodes: int
    gpus_per_node: int
    cpus_per_node: int | None = None
    whole: bool = False

    def times(self, count: int) -> Shape:
        """What so many runs of this shape need on the same nodes."""
        cpus = None if self.cpus_per_node is None else self.cpus_per_node * count
        return Shape(self.nodes, self.gpus_per_node * count, cpus, self.whole)

    def __str__(self) -> str:
        cpus = f", {self.cpus_per_node} CPUs a node" if self.cpus_per_node is not None else ""
        return f"{self.nodes} x {self.gpus_per_node} GPUs{cpus}{', whole nodes' if self.whole else ''}"


def shape(config: dict[str, Any]) -> Shape:
    """The allocation that a frozen config needs, from its own cluster section."""
    nodes, gpus = int(config["cluster"]["num_nodes"]), int(config["cluster"]["gpus_per_node"])
    cpus = config["slurm"].get("cpus_per_node")
    whole = whole_nodes((config.get("site") or {}).get("allocation"), config["engine"]["name"])
    return Shape(nodes, gpus, None if cpus is None else int(cpus), whole)


def whole_nodes(allocation: Any, engine: Any) -> bool:
    """Whether a run gets its nodes alone: as site.allocation says, else NeMo RL's do, as with its own ray.sub."""
    return allocation == NODE or (allocation is None and engine == "nemo_rl")


def fewest_cpus(environ: Mapping[str, str]) -> int:
    """CPUs that a job has on the node where it has the fewest, by its SLURM_* variables; 0 where they say nothing.

    They are the allocation's: SLURM_CPUS_PER_TASK says what was asked for, which is less on a whole node.
    """
    text = environ.get("SLURM_JOB_CPUS_PER_NODE") or environ.get("SLURM_CPUS_ON_NODE") or ""
    counts = [int(n) for n in re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", text)]  # `16(x2),8`
    return min(counts, default=0)


def host_mib(environ: Mapping[str, str], cpus: int) -> int:
    """Host memory of this job here, in MiB: what Slurm says (SLURM_MEM_*), at most what the kernel lets it have.

    Parameters
    ----------
    cpus: of the job here, for memory that goes by the CPU
    """
    has = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20]
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        has.append(int(Path("/sys/fs/cgroup/memory.max").read_text()) // 2**20)
    for name, times in (("SLURM_MEM_PER_NODE", 1), ("SLURM_MEM_PER_CPU", fewest_cpus(environ) or cpus)):
        text = environ.get(name, "")
        if text.isdigit() and int(text):  # 0: all of a node's
            has.append(int(text) * times)
    return min(has)
