"""A launch with rungs: what the store is told of its study before any run of it exists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nano_exp import alike
from nano_exp.errors import UserError
from nano_exp.launch.convergence import Row, configs_of
from nano_exp.launch.terms import Terms
from nano_exp.launch.to_the_end import NO_END, Whole, gpu_hours
from nano_exp.study import book, halving, peers, run_length
from nano_exp.study.halving import Halving, Promotion


def settle(results: Path, names: Iterable[str], terms: Terms, more_to_come: bool = False) -> list[Promotion]:
    """Write down the rungs of these names, and decide what a killed attempt had left undecided.

    Parameters
    ----------
    more_to_come: a search adds points

    Raises
    ------
    UserError: a name has decided by other rungs
    """
    rules = halving.of(terms.halving)
    if rules is None:
        return []
    told: list[Promotion] = []
    for name in dict.fromkeys(names):
        with book.lock(results, name):
            _require_same(results, name, rules)
            book.write(results, name, rules, more_to_come)
            told += book.promote(results, name, rules)
    return told


def cost(rows: Sequence[Row], whole: Whole) -> str:
    """What a launch with rungs takes of its grid, at least and at most; "" where that cannot be told.

    Parameters
    ----------
    rows: all of the launch
    whole: the cost of those that are to be submitted
    """
    rules = halving.of(rows[0].config.get("halving")) if rows else None
    most = set(alike.each(configs_of(rows), run_length.of)) if rules is not None else set()
    if rules is None or len(rows) == 1 or len(most) != 1 or max(most) > NO_END or max(most) <= rules.rungs[-1]:
        return ""
    last, points = max(most), len({peers.point(row.frozen.overrides) for row in rows})
    part = halving.least_steps(points, rules, last) / (points * last)
    steps = len(rows) * last
    words = f"with rungs: at least {part * steps:,.0f} of the grid's {steps:,} steps ({part:.0%})"
    if whole.hours and len(whole.hours) == len(rows) and all(row.is_new for row in rows):
        words += f", {gpu_hours(part * whole.total)} of {gpu_hours(whole.total)} GPU-hours"
    return f"{words}; at most all of them"


def _require_same(results: Path, name: str, rules: Halving) -> None:
    known = book.read(results, name)
    if known in (None, rules):
        return
    if any(member.values for _, member in book.members(results, name, known)):
        raise UserError(
            f"{name} has {known}, and this launch {rules}",
            "runs of it have been compared at those rungs, and others would mix two studies",
            "those rungs, or run.name=ANOTHER",
        )
