"""What may stand in a value: small predicates that say what is wrong. Used by keys.py's tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nano_exp.engines.embedded import schedule

#: Says why a value cannot be used, or None when it can.
Rule = Callable[[Any], str | None]


def anything(value: Any) -> str | None:
    return None


def boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "it must be true or false"


def text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "it must be a text"


def integer(low: int, high: int | None = None) -> Rule:
    """A whole number from `low` to `high`."""

    def rule(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return "it must be a whole number"
        if value < low or (high is not None and value > high):
            return f"it must be at least {low}" + ("" if high is None else f" and at most {high}")
        return None

    return rule


def number(low: float | None = None, above: float | None = None, high: float | None = None) -> Rule:
    """A number not under `low`, greater than `above`, not over `high`."""

    def rule(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return "it must be a number (1.0e-3, not 1e-3, is a number in YAML)"
        if (low is not None and value < low) or (above is not None and value <= above):
            return f"it must be at least {low}" if low is not None else f"it must be greater than {above}"
        if high is not None and value > high:
            return f"it must be at most {high}"
        return None

    return rule


def nullable(rule: Rule) -> Rule:
    """null, or what `rule` allows."""

    def wrapped(value: Any) -> str | None:
        if value is None:
            return None
        problem = rule(value)
        return f"{problem}, or null" if problem else None

    return wrapped


def one_of(*allowed: Any) -> Rule:
    def rule(value: Any) -> str | None:
        if any(value == item and type(value) is type(item) for item in allowed):
            return None
        return "it must be one of " + ", ".join(show(item) for item in allowed)

    return rule


def only(allowed: Any, why: str) -> Rule:
    """A key that upstream has and this engine supports at one value only."""

    def rule(value: Any) -> str | None:
        same = value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
        return None if same else f"{why}; this engine has {show(allowed)} only"

    return rule


def numbers(count: int, low: float, below: float) -> Rule:
    """A list of `count` numbers from `low` and under `below`."""

    def rule(value: Any) -> str | None:
        good = isinstance(value, list) and len(value) == count
        if good and all(number(low=low)(item) is None and item < below for item in value):
            return None
        return f"it must be a list of {count} numbers, each at least {low} and less than {below}"

    return rule


def pattern(value: Any) -> str | None:
    if isinstance(value, str) and value and set(value) <= set("M*-E"):
        return None
    return "it must be a text of M (Mamba-2), * (attention), - (MLP) and E (mixture of experts), one for each layer"


def top_k(value: Any) -> str | None:
    if value is None or value == -1:
        return None
    return None if integer(1)(value) is None else "it must be null or -1 (off) or a whole number from 1"


def duration(value: Any) -> str | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and schedule.seconds(value) >= 0:
            return None
    except ValueError:
        return 'it must be null or "DD:HH:MM:SS", as "00:03:45:00"'
    return 'it must be null or "DD:HH:MM:SS", as "00:03:45:00"'


def scheduler(value: Any) -> str | None:
    """NeMo RL's DTensor form: null, one torch scheduler, or a list of them with the milestones between."""
    if value is None:
        return None
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return "it must be null, a scheduler, or a list of schedulers and their milestones"
    parts = [entry for entry in entries if "name" in entry]
    milestones = [entry["milestones"] for entry in entries if "milestones" in entry]
    for part in parts:
        known = schedule.SCHEDULERS.get(part["name"])
        if known is None:
            return f"{part['name']} is none of {', '.join(sorted(schedule.SCHEDULERS))}"
        kwargs = part.get("kwargs") or {}
        unknown = sorted(set(kwargs) - known[1])
        if unknown:
            return f"{part['name']} takes {', '.join(sorted(known[1]))}, not {', '.join(unknown)}"
        bad = [name for name, item in kwargs.items() if number(low=0)(item)]
        if bad:
            return f"{part['name']}: {', '.join(bad)} must be a number, not negative"
        if part["name"].endswith("CosineAnnealingLR") and number(above=0)(kwargs.get("T_max")):
            return f"{part['name']} needs T_max, greater than 0"
    flat = [mark for marks in milestones for mark in marks] if all(isinstance(m, list) for m in milestones) else None
    if flat is None or len(flat) != len(parts) - 1 or any(integer(0)(mark) for mark in flat) or flat != sorted(flat):
        return f"{len(parts)} schedulers need {len(parts) - 1} milestones in ascending order"
    return None


def show(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
