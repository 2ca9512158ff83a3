"""How far a run of a study trains for now, and from how many of its rungs it has gone on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nano_exp.files import Damaged
from nano_exp.index.overview import Facts
from nano_exp.store import runs
from nano_exp.store.axes import Value
from nano_exp.study import book, halving
from nano_exp.study.halving import Halving


class Rungs:
    """Of the runs of a results folder; each name's rules are read once at most."""

    def __init__(self, results: Path) -> None:
        self._rules = cache(lambda name: _rules(results, name))

    def of(self, facts: Facts) -> dict[str, Value] | None:
        """How many of its `of` rungs it `reached`, from how many it `passed` on, the step `until` which it trains, the
        `value` at the newest rung that it reached; None where it was last sent without rungs."""
        run = facts.run
        sent = run.last("submit")
        rules = self._rules(run.name) if sent is not None and sent.data.get("halving") else None
        if rules is None:
            return None
        passed, reached, most = runs.rungs_left(run), run.last("rung"), run.record.get("max_steps")
        until = halving.target(rules, passed, most if isinstance(most, int) else rules.rungs[-1])
        value = runs.number(reached.data.get("value")) if reached is not None else None
        return {
            "reached": runs.rungs_reached(run),
            "passed": passed,
            "of": len(rules.rungs),
            "until": until,
            "value": value,
        }


def _rules(results: Path, name: str) -> Halving | None:
    try:
        return book.read(results, name)
    except Damaged:
        return None


def words(rung: Mapping[str, Value] | None) -> str:
    """Of a run that executes: where it will be compared next."""
    if rung is None or not isinstance(rung["passed"], int) or not isinstance(rung["of"], int):
        return ""
    if rung["passed"] >= rung["of"]:
        return f"past all {rung['of']} rungs"
    return f"to rung {rung['passed'] + 1} of {rung['of']} at step {rung['until']}"
