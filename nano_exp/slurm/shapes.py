"""What an allocation has: nodes, and each one's GPUs and CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What one run asks Slurm for; runs of one shape share an array. CPUs and GPUs are per node."""

    nodes: int
    gpus_per_node: int
    cpus_per_node: int

    def __str__(self) -> str:
        return f"{self.nodes} x {self.gpus_per_node} GPUs, {self.cpus_per_node} CPUs a node"


def shape(config: dict[str, Any]) -> Shape:
    """The allocation that a frozen config needs, from its own cluster section."""
    nodes, gpus = int(config["cluster"]["num_nodes"]), int(config["cluster"]["gpus_per_node"])
    return Shape(nodes, gpus, int(config["slurm"]["cpus_per_node"]))
