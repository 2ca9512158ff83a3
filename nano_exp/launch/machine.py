"""What this machine has for runs without Slurm: GPUs, and a part of them for each run at once."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import deque
from collections.abc import Iterable

from nano_exp.engines import parts
from nano_exp.engines.parts import Part

#: How long nvidia-smi may take, seconds.
ASK_S = 30.0


def gpus() -> int | None:
    """How many GPUs this process sees: by CUDA_VISIBLE_DEVICES, else by nvidia-smi; None where neither says."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([word for word in named.split(",") if word.strip()])
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


class Places:
    """So many places for runs at once, with equal parts of the machine: GPUs, CPUs, memory, ports.

    Raises
    ------
    UserError: there are not enough free ports for the engines that need them
    """

    def __init__(self, count: int, gpus: int, engines: Iterable[str]) -> None:
        dealt = parts.parts(count, gpus, os.environ, sorted(os.sched_getaffinity(0)))
        self._kept: list[socket.socket] = []
        if "nemo_rl" in engines:
            dealt, self._kept = parts.with_ports(dealt, gpus)
        self._free = deque(dealt)
        self._taken: dict[int, Part] = {}

    def take(self, run: int) -> Part:
        """A place for run number `run`, until it gives it back."""
        self._taken[run] = self._free.popleft()
        return self._taken[run]

    def give_back(self, run: int) -> None:
        self._free.append(self._taken.pop(run))
