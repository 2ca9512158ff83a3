"""Kinds of values, for settings.py: what a value must be, and what to type where it is another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nano_exp.engines.embedded import schedule
from nano_exp.text import as_typed


class Kind(NamedTuple):
    """`problem` says why a value cannot be used, or "" where it can; `instead` is a value that can."""

    problem: Callable[[Any], str]
    instead: str = "<another value>"


def kind(allows: Callable[[Any], bool], words: str) -> Kind:
    """Values that `allows` lets through; `words` end the sentence "it must be ..."."""
    return Kind(lambda value: "" if allows(value) else f"it must be {words}")


def whole(low: int = 1, high: float = math.inf) -> Kind:
    """A whole number from `low` to `high`."""
    to = "" if high == math.inf else f" to {high}"
    return kind(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low}{to}")


def real(low: float | None = None, above: float | None = None, high: float | None = None) -> Kind:
    """A number not under `low`, greater than `above`, not over `high`."""

    def allows(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return False
        return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)

    bounds = [
        f"{word} {bound}" for word, bound in (("from", low), ("above", above), ("up to", high)) if bound is not None
    ]
    return kind(allows, " ".join(["a number", *bounds, "(1.0e-3, not 1e-3, is a number in YAML)"]))


def enough(least: int, why: str, instead: str) -> Kind:
    """A whole number from `least`; why a smaller one cannot work."""

    def problem(value: Any) -> str:
        return whole().problem(value) or (why if value < least else "")

    return Kind(problem, instead)


def optional(of: Kind) -> Kind:
    """null, or what `of` allows."""
    return Kind(lambda value: "" if value is None or not (problem := of.problem(value)) else f"{problem}, or null")


def choice(*allowed: str) -> Kind:
    return kind(lambda value: value in allowed, "one of " + ", ".join(allowed))


def only(allowed: Any, why: str) -> Kind:
    """A key of NeMo RL that this engine has at one value alone."""

    def same(value: Any) -> bool:
        return bool(value == allowed) and isinstance(value, bool) == isinstance(allowed, bool)

    only_one = as_typed(allowed)
    return Kind(lambda value: "" if same(value) else f"{why}; this engine has {only_one} only", only_one)


def _is_duration(value: Any) -> bool:
    try:
        return value is None or (isinstance(value, str) and schedule.seconds(value) >= 0)
    except ValueError:
        return False


def _are_betas(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(not real(low=0).problem(beta) and beta < 1 for beta in value)
    )


anything = kind(lambda value: True, "")
switch = kind(lambda value: isinstance(value, bool), "true or false")
text = kind(lambda value: isinstance(value, str) and value != "", "a text")
betas = kind(_are_betas, "a list of 2 numbers, each from 0 and less than 1")
duration = kind(_is_duration, 'null or "DD:HH:MM:SS", as "00:03:45:00"')
top_k = kind(
    lambda value: value in (None, -1) or not whole().problem(value), "null or -1 (off), or a whole number from 1"
)
pattern = kind(
    lambda value: isinstance(value, str) and value != "" and set(value) <= set("M*-E"),
    "a text of M (Mamba-2), * (attention), - (MLP) and E (mixture of experts), one for each layer",
)


def _schedulers_problem(value: Any) -> str:
    """NeMo RL's DTensor form: null, one torch scheduler, or a list of them with the milestones between."""
    entries = [] if value is None else [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return "it must be null, a scheduler, or a list of schedulers and their milestones"
    parts = [entry for entry in entries if "name" in entry]
    problem = next((problem for part in parts if (problem := _scheduler_problem(part))), "")
    if problem or value is None:
        return problem
    marks = [entry["milestones"] for entry in entries if "milestones" in entry]
    flat: list[Any] = (
        [mark for some in marks for mark in some] if all(isinstance(some, list) for some in marks) else [None]
    )
    if len(flat) != len(parts) - 1 or any(whole(0).problem(mark) for mark in flat) or flat != sorted(flat):
        return f"{len(parts)} schedulers need {len(parts) - 1} milestones in ascending order"
    return ""


def _scheduler_problem(part: dict[str, Any]) -> str:
    """What is wrong with one scheduler's name or arguments."""
    name, kwargs = str(part["name"]), part.get("kwargs") or {}
    if name not in schedule.SCHEDULERS:
        return f"{name} is not one of {', '.join(sorted(schedule.SCHEDULERS))}"
    known = schedule.SCHEDULERS[name][1]
    if not isinstance(kwargs, dict):
        return f"{name}: kwargs must be a mapping"
    if unknown := sorted(set(map(str, kwargs)) - known):
        return f"{name} takes {', '.join(sorted(known))}, not {', '.join(unknown)}"
    if bad := [key for key, number in kwargs.items() if real(low=0).problem(number)]:
        return f"{name}: {', '.join(bad)} must be a number, not negative"
    if name.endswith("CosineAnnealingLR") and real(above=0).problem(kwargs.get("T_max")):
        return f"{name} needs T_max, greater than 0"
    return ""


scheduler = Kind(_schedulers_problem)
