"""How slow this machine is just now: what a test waits for, and how long a fake engine takes for a step, goes by it.

Measured once in each process, at the session's start, by the CPU time of starting Python a few times: that is the
machine's, whatever else runs on it. What runs beside the tests is in the two factors.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import cache

#: What a start takes, seconds of CPU, on the machines that the seconds in the tests were written on.
NORMAL_S = 0.15
STARTS = 3
WORK = "import hydra, submitit, yaml"
#: Three processes of tests and what they start share two cores. A wait that would never end is ended later than that.
CROWD, PATIENCE = 1.5, 4.0


@cache
def slowness() -> float:
    """Times as slow as those machines, at least 1."""
    starts = []
    for _ in range(STARTS):
        before = _cpu_s()
        subprocess.run([sys.executable, "-c", WORK], check=True)
        starts.append(_cpu_s() - before)
    return max(1.0, min(starts) / NORMAL_S)  # the first one may compile what was just installed


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def limit(seconds: float) -> float:
    """When a wait is given up. It is no claim of speed."""
    return seconds * slowness() * PATIENCE


def paced(seconds: float) -> float:
    """How long something takes that has to be seen while it lasts, as a fake engine's step: not over too soon."""
    return seconds * slowness() * CROWD
