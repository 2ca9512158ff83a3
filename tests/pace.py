"""How slow this machine is just now. Whatever a test waits for has a limit that is multiplied by it.

Measured once in each process, at the session's start, by starting Python a few times. A limit ends a wait that would
never end; it is no claim of speed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache

#: What a start takes, seconds, on a quiet machine like those that the limits were written on.
NORMAL_S = 0.15
STARTS = 4
#: Fake engines' steps are stretched too: a crowd of a moment must not make minutes of a test of seconds.
MOST = 6.0
WORK = "import hydra, submitit, yaml"


@cache
def slowness() -> float:
    """Times as slow as that machine; from 1 to MOST."""
    subprocess.run([sys.executable, "-c", WORK], check=True)  # what was just installed is compiled at its first import
    began = time.monotonic()
    for _ in range(STARTS):
        subprocess.run([sys.executable, "-c", WORK], check=True)
    return min(MOST, max(1.0, (time.monotonic() - began) / (STARTS * NORMAL_S)))


def limit(seconds: float) -> float:
    """Seconds on a quiet fast machine -> on this one. For the time that a fake engine takes for a step too: it must not
    be over before a slow test has looked."""
    return seconds * slowness()
