"""Lines as a table for people, as wide as their terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nano_exp import text
from nano_exp.report.status import Line
from nano_exp.store import state
from nano_exp.terminal import grid

#: What goes first where a terminal is narrow; a name that all have goes before them.
GIVEN_UP = ("age", "validation", "GPU-h", "name", "reward")


def table(lines: Sequence[Line], slurm_error: str = "", width: int | None = None) -> str:
    """A column for each axis; units are in the header or in the cell.

    Parameters
    ----------
    width: of the terminal; None: as wide as it takes. Where the words of a run do not fit, why it is in its state and
        what to do about it come on a line of their own.
    """
    one_name = len({line.name for line in lines}) == 1
    give_up = (*(("name",) if one_name else ()), *GIVEN_UP)
    table_grid = grid.grid(columns(lines), [line.point for line in lines], width, give_up, before="reward")
    # A run that is alone under its name has no axes: what was typed for it tells what it is.
    notes = ["  ".join(w for w in (title(line), f"[{remark(line)}]" if remark(line) else "") if w) for line in lines]
    minor = [not (line.why or line.next or line.damaged or title(line)) for line in lines]
    out = grid.text(table_grid, notes, "what", minor)
    if slurm_error:
        out += f"\n\nSlurm does not answer ({slurm_error}): states that depend on it are shown as unknown"
    return out


def title(line: Line) -> str:
    """What was typed for a run that has no axes; "" for one of a sweep."""
    return "" if line.point else text.short_title(line.overrides)


def columns(lines: Sequence[Line]) -> dict[str, list[str]]:
    """All but the axes and the words."""
    return {
        "name": [line.name for line in lines],
        "run": [line.run for line in lines],
        "state": [line.state for line in lines],
        "step": [f"{line.step}/{line.max_steps if line.max_steps is not None else '?'}" for line in lines],
        "reward": [number(line.reward) for line in lines],
        "validation": [number(line.validation_accuracy) for line in lines],
        "GPU-h": [hours(line.gpu_hours) for line in lines],
        "age": ["-" if line.age_s is None else text.duration(line.age_s) for line in lines],
    }


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def hours(value: float | None) -> str:
    """GPU-hours with two digits that say something."""
    if not value or not math.isfinite(value):
        return "-" if value is None else f"{value:.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def remark(line: Line) -> str:
    """Why it is in its state, what is damaged, its job, and what to do next."""
    parts = [p for p in (line.why, *line.damaged) if p]
    if line.state in state.ACTIVE and line.job:
        parts.append(f"job {line.job}")
    if line.next:
        parts.append(line.next)
    return "; ".join(dict.fromkeys(parts))


def unsent(lines: Sequence[Line]) -> str:
    """What W&B lacks of these runs, and what to type; empty where it lacks nothing."""
    names = sorted({line.name for line in lines if line.unsent})
    count = sum(line.unsent for line in lines)
    if not count:
        return ""
    runs = "1 run that has ended" if count == 1 else f"{count} runs that have ended"
    return f"W&B lacks steps of {runs}: nano-exp sync {' '.join(names) if len(names) <= 3 else ''}".rstrip()
