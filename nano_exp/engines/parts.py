"""Equal parts of a job, or of this machine, for runs that execute at once: GPUs, CPUs, host memory, ports."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nano_exp.engines import slots
from nano_exp.slurm import shapes


@dataclass(frozen=True)
class Part:
    """A slot's part of the allocation; CPUs that are bound, or none where there are fewer than slots.

    Parameters
    ----------
    mib: host memory; 0: not known
    ports: the first one of its block; None where the engine needs none
    """

    gpus: tuple[str, ...]
    cpus: tuple[int, ...]
    cpu_count: int
    mib: int = 0
    ports: int | None = None


def parts(count: int, gpus: int, environ: Mapping[str, str], cpus: Sequence[int]) -> list[Part]:
    """Equal parts of an allocation.

    Parameters
    ----------
    gpus: of each
    environ: CUDA_VISIBLE_DEVICES as Slurm, or the user, set it; and SLURM_*
    cpus: that this process may use
    """
    visible = [word for word in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]
    devices = visible or [str(number) for number in range(count * gpus)]
    each = len(cpus) // count
    share = max((shapes.fewest_cpus(environ) or len(cpus)) // count, 1)
    mib = shapes.host_mib(environ, len(cpus)) // count
    return [
        Part(tuple(devices[slot * gpus :][:gpus]), tuple(cpus[slot * each :][:each]), share, mib)
        for slot in range(count)
    ]


def with_ports(dealt: Sequence[Part], gpus: int) -> tuple[list[Part], list[socket.socket]]:
    """The parts with a block of ports each, for an engine that needs them, and what keeps those until it is closed.

    Raises
    ------
    UserError: not enough are free on this host
    """
    blocks = slots.claim(len(dealt), gpus)
    named = [replace(part, ports=low) for part, (low, _) in zip(dealt, blocks, strict=True)]
    return named, [kept for _, kept in blocks]


def environment(part: Part) -> dict[str, str]:
    """What a run's attempt is told of its part."""
    gpus = {"SLURM_JOB_GPUS": ",".join(part.gpus), "SLURM_GPUS_ON_NODE": str(len(part.gpus))} if part.gpus else {}
    cpus = dict.fromkeys(("SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_ON_NODE"), str(part.cpu_count))
    slot = slots.Slot(part.ports, part.mib).environment if part.ports is not None else {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(part.gpus), **gpus, **cpus, **slot}
