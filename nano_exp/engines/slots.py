"""The ports and the host memory of a run that shares its host with others of its launch (`pack=N`).

A block of ports belongs to a run for as long as its first port is bound, by who deals the blocks: whatever job or user
that is, the next one sees it taken, and a death frees it. Blocks lie below the range that the kernel gives out (32768)
and beside the ranges of NeMo RL's own layout (distributed/virtual_cluster.py 81: 11001-20801 and 25000-28000 at
v0.7.0; below 9000 on main) and of Ray (from 10002).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from nano_exp.errors import UserError

#: What an attempt is told: its first port, and MiB of host memory. The second name is NeMo RL's Pythons' (hook).
PORTS, MEMORY, VLLM_PORT = "NANO_EXP_SLOT_PORTS", "NANO_EXP_SLOT_MIB", "NANO_EXP_VLLM_PORT"

SIZE = 500
#: First ports of the blocks, by the stretches that they fill without a gap.
STRETCHES = (range(20900, 24900, SIZE), range(28010, 32510, SIZE))

FIXED = ("lock", "gcs", "client", "dashboard", "node", "objects", "http", "grpc", "metrics", "environments")
RANGES = {"workers": (10, 149), "master": (150, 200), "generation": (200, 250), "gym": (250, 300)}
_VLLM = 300  # and 100 for each engine (DEFAULT_VLLM_PORTS_PER_ENGINE)


@dataclass(frozen=True)
class Slot:
    """A run's ports, from `low` on, and its host memory in MiB (0: not known)."""

    low: int
    mib: int = 0

    def port(self, name: str) -> int:
        """One of Ray's that are fixed."""
        return self.low + FIXED.index(name)

    def range(self, name: str) -> tuple[int, int]:
        """workers (both are Ray's), or master, generation, gym as NeMo RL takes them: the second one is not."""
        first, last = RANGES[name]
        return self.low + first, self.low + last

    @property
    def vllm(self) -> int:
        """Where vLLM's first engine begins to look for ports."""
        return self.low + _VLLM

    @property
    def environment(self) -> dict[str, str]:
        """What an attempt is told; `told` reads it."""
        return {PORTS: str(self.low), MEMORY: str(self.mib)}


def told(environ: Mapping[str, str]) -> Slot | None:
    """The slot of this attempt; None where it has its host, or a share of it, by itself."""
    low = environ.get(PORTS, "")
    return Slot(int(low), int(environ.get(MEMORY) or 0)) if low.isdigit() else None


def most(gpus: int) -> int:
    """How many runs of so many GPUs find a block on one host."""
    return sum(len(stretch) // width(gpus) for stretch in STRETCHES)


def claim(count: int, gpus: int) -> list[tuple[int, socket.socket]]:
    """The first ports of free blocks for runs of so many GPUs, each with the socket that keeps it from others.

    Raises
    ------
    UserError: fewer are free
    """
    wide = width(gpus)
    found: list[tuple[int, socket.socket]] = []
    for stretch in STRETCHES:
        for low in stretch[::wide][: len(stretch) // wide]:
            if len(found) < count and (held := _hold(low)) is not None:
                found.append((low, held))
    if len(found) == count:
        return found
    for _, held in found:
        held.close()
    raise UserError(
        f"{len(found)} free blocks of ports on {os.uname().nodename}, and {count} runs of NeMo RL at once",
        "each run's Ray and vLLM need ports of their own, and other runs have the rest",
        f"pack={len(found)}" if len(found) > 1 else "leave pack out, or another node",
    )


def width(gpus: int) -> int:
    """How many blocks a run needs: vLLM's engines take 100 ports each, and there may be one for each GPU."""
    return -(-(_VLLM + 100 * max(gpus, 1)) // SIZE)


def _hold(low: int) -> socket.socket | None:
    """The block's first port, bound, where that and Ray's others are free."""
    held = _bound(low)
    if held is None:
        return None
    with contextlib.ExitStack() as tried:
        for port in range(low + 1, low + len(FIXED)):
            if (one := _bound(port, again=True)) is None:
                held.close()
                return None
            tried.enter_context(one)
    return held


def _bound(port: int, again: bool = False) -> socket.socket | None:
    """`again`: one on which connections have just ended is free too."""
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, again)
        one.bind(("", port))
    except OSError:
        one.close()
        return None
    return one
