"""A launch with rungs: what the store is told of its study before any run of it exists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nano_exp.errors import UserError
from nano_exp.launch.terms import Terms
from nano_exp.study import book, halving
from nano_exp.study.halving import Halving


def settle(results: Path, names: Iterable[str], terms: Terms) -> None:
    """Write down the rungs of these names, and decide what a killed attempt had left undecided.

    Raises
    ------
    UserError: a name has decided by other rungs
    """
    rules = halving.of(terms.halving)
    if rules is None:
        return
    for name in dict.fromkeys(names):
        with book.lock(results, name):
            _require_same(results, name, rules)
            book.write(results, name, rules)
            book.promote(results, name, rules)


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
