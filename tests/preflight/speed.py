"""How much CPU preflight adds to a sweep of 1,000 points: `python tests/preflight/speed.py` prints it. Not a test.

The points are frozen first, as a launch does; what is timed is everything preflight does but asking Slurm.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from nano_exp.launch import points  # noqa: E402
from nano_exp.preflight.facts import Facts  # noqa: E402
from nano_exp.preflight.run import examine  # noqa: E402

SWEEP = (
    "optimizer.lr=" + ",".join(f"{n}e-7" for n in range(1, 51)),
    "grpo.num_generations_per_prompt=4,8,16,32",
    "grpo.seed=1,2,3,4,5",
)


def main() -> None:
    for row in (("model=nano_9b", "cluster=1n8g"), ("model=nano_30b", "cluster=2n8g"), ()):
        axes = SWEEP if row else (*SWEEP[:1], "grpo.num_generations_per_prompt=8,16,32,64", SWEEP[2])
        wanted = points.expanded([*row, *axes]).frozen
        began = time.process_time()
        report = examine(wanted, Facts())
        seconds = time.process_time() - began
        name = " ".join(row) or "nano_tiny"
        print(f"{name:30} {len(wanted)} points: {seconds:.2f} s CPU, {len(report.groups)} findings")


if __name__ == "__main__":
    main()
