"""budget=GPU-HOURS: a launch, or a retry, of a name that has spent its own is refused, and what is left is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.store import budget
from nano_exp.store.budget import Budget


def require(results: Path, names: Sequence[str], asked: float | None, retry: bool = False) -> list[str]:
    """What is left of each name's budget, in words; nothing is written.

    Parameters
    ----------
    asked: budget= as it was typed; None leaves a name's as it is
    retry: whether the fix is a retry's

    Raises
    ------
    UserError: one has spent it, or its file is damaged
    """
    found = [one for name in dict.fromkeys(names) if (one := _look(results, name, asked)) is not None]
    for one in found:
        if one.is_spent:
            more = f"budget={_above(one.spent)}"
            again = f"nano-exp retry {one.name} {more}" if retry else f"the same command with {more}"
            raise UserError(str(one), "nothing more of it is started", f"{again} (budget=inf: without a limit)", code=3)
    return [f"budget: {one}; no attempt starts once it is spent" for one in found]


def settle(results: Path, names: Sequence[str], asked: float | None) -> None:
    """Write what was typed, for each name."""
    for name in dict.fromkeys(names) if asked is not None else ():
        budget.write(results, name, asked or 0.0)


def _look(results: Path, name: str, asked: float | None) -> Budget | None:
    if asked is not None:
        return Budget(name, asked, budget.spent(results, name)) if asked != float("inf") else None
    try:
        return budget.look(results, name)
    except Damaged as error:
        raise UserError(
            str(error), "whether the budget is spent is not known", "type it again: budget=GPU-HOURS"
        ) from error


def _above(spent: float) -> int:
    """A round number of GPU-hours that leaves some."""
    return int(max(spent * 1.5, spent + 10))
