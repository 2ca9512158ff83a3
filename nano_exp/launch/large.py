"""A launch that is too large to be a slip of the finger: it asks first, with what it would cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nano_exp.errors import UserError
from nano_exp.launch import shared_cost
from nano_exp.launch.convergence import Row, configs_of
from nano_exp.launch.terms import Terms

#: More than this is asked about: runs to submit, and GPU-hours of one allocation for each of them.
RUNS, GPU_HOURS = 500, 1000.0


def is_large(count: int, gpu_hours: float | None) -> bool:
    return count > RUNS or (gpu_hours or 0.0) > GPU_HOURS


def words(rows: Sequence[Row], parameters: Mapping[str, Any], terms: Terms) -> str:
    """What a plan would submit; "" where that is not much.

    Parameters
    ----------
    rows: those to submit
    parameters: hydra.launcher's
    """
    whole = shared_cost.cost(configs_of(rows), parameters, terms)
    if not is_large(len(rows), whole.gpu_hours):
        return ""
    where = f"{whole.packed:,} allocation{'s' * (whole.packed > 1)}" if whole.packed else "one allocation each"
    return f"{len(rows):,} runs" + (f" of {whole.gpu_hours:,.0f} GPU-hours in {where}" if whole.gpu_hours else "")


def ask(size: str) -> None:
    """Return if the user says yes. Raises UserError where there is nobody to ask, or the answer is another one."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            if input(f"\nsubmit {size}? [y/N] ").strip().lower() in ("y", "yes"):
                return
        except EOFError:
            print()
    raise UserError(
        f"submitting {size} was not confirmed",
        f"more than {RUNS} runs or {GPU_HOURS:,.0f} GPU-hours are submitted only after a yes",
        "the same command with yes=true; dry_run=true shows everything and submits nothing",
    )
