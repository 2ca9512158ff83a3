"""Lines as a table for people, as wide as their terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nano_exp import progress, state, text
from nano_exp.report.status import Line

#: The words have at least this room, in characters: other columns go first, in the order of GIVEN_UP. A name that all
#: have goes before them.
LEAST = 20
GIVEN_UP = ("age", "validation", "GPU-h", "name", "reward")


def table(found: Sequence[Line], slurm_error: str = "", width: int | None = None) -> str:
    """Units are in the header or in the cell. What all runs of a name share is left out of `what`.

    Parameters
    ----------
    width: of the terminal; None: as wide as it takes. Where the words of a run do not fit, why it is in its state and
        what to do about it come on a line of their own.
    """
    shared = _shared(found)
    columns = _columns(found)
    remarks = [remark(line) for line in found]
    what = [text.short_title([o for o in line.overrides if o not in shared[line.name]]) for line in found]
    below: list[str] = [""] * len(found)
    if width is not None:
        room = width - _give_up(columns, width, max((len(w) for w in what), default=0))
        for i, said in enumerate(remarks):
            if said and len(what[i]) + len(said) + 4 > room:
                below[i] = said if found[i].why or found[i].next or found[i].damaged else ""
                remarks[i] = ""
            what[i] = shortened(what[i], room)
    cells = [f"{w}  [{r}]".lstrip() if r else w for w, r in zip(what, remarks, strict=True)]
    rows = zip(*columns.values(), cells, strict=True)
    whole = text.table((*columns, "what"), rows, indent="").split("\n")
    out = [whole[0]]
    for row, said in zip(whole[1:], below, strict=True):
        out += [row] + ([shortened(f"  {said}", width or len(said))] if said else [])
    if slurm_error:
        out += ["", f"Slurm does not answer ({slurm_error}): states that depend on it are shown as unknown"]
    return "\n".join(out)


def _shared(found: Sequence[Line]) -> dict[str, set[str]]:
    by_name: dict[str, list[list[str]]] = {}
    for line in found:
        by_name.setdefault(line.name, []).append(line.overrides)
    return {name: set(text.shared_overrides(lists)) for name, lists in by_name.items()}


def _columns(found: Sequence[Line]) -> dict[str, list[str]]:
    return {
        "name": [line.name for line in found],
        "run": [line.run for line in found],
        "state": [line.state for line in found],
        "step": [f"{line.step}/{line.max_steps if line.max_steps is not None else '?'}" for line in found],
        "reward": [number(line.reward) for line in found],
        "validation": [number(line.validation_accuracy) for line in found],
        "GPU-h": [hours(line.gpu_hours) for line in found],
        "age": ["-" if line.age_s is None else progress.duration(line.age_s) for line in found],
    }


def _give_up(columns: dict[str, list[str]], width: int, wanted: int) -> int:
    """Take columns away until there is room for the words. Returns how wide the rest is, with the gaps."""
    first = ("name",) if len(set(columns["name"])) == 1 else ()
    for name in (*first, *GIVEN_UP, ""):
        taken = sum(max(map(len, (header, *cells))) + 2 for header, cells in columns.items())
        if taken + min(LEAST, max(wanted, 4)) <= width:
            break
        columns.pop(name, None)
    return taken


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def hours(value: float | None) -> str:
    """GPU-hours with two digits that say something."""
    if not value or not math.isfinite(value):
        return "-" if value is None else f"{value:.0f}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def shortened(said: str, room: int) -> str:
    """As much as there is room for, with an ellipsis where something is missing."""
    return said if len(said) <= room else said[: max(0, room - 1)].rstrip() + "…"


def remark(line: Line) -> str:
    """Why it is in its state, what is damaged, its job, and what to do next."""
    parts = [p for p in (line.why, *line.damaged) if p]
    if line.state in state.ACTIVE and line.job:
        parts.append(f"job {line.job}")
    if line.next:
        parts.append(line.next)
    return "; ".join(dict.fromkeys(parts))
