"""The axes of a sweep: what its runs differ in, and each run's value on each of them, typed or not. Pure.

A run that was launched without an override (the baseline) stands where its own frozen config says, so the caller gives
a function that looks there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from nano_exp.dotted import Config
from nano_exp.overrides import Override
from nano_exp.store import identity

#: What an axis has at a point: a plain value; lists and mappings as text.
Value: TypeAlias = "str | int | float | bool | None"

#: What a run of an older nano-exp did not write down.
UNKNOWN = "?"
#: Sections and groups about the place or the launch. They tell runs of one launch apart, never the runs of a sweep.
_PLACE = ("site", "hydra", "sweep", "sweeps")
#: Left out of the identity, yet what a user asks for with them is a wish about the run.
_KNOBS = ("optimizer", "model")


def typed(overrides: Iterable[str], place: bool = False) -> dict[str, Value]:
    """Key -> value of what overrides set, the last word on each key; None for one that is taken away.

    Parameters
    ----------
    place: also what says where a run goes and what it is called
    """
    values: dict[str, Value] = {}
    for override in overrides:
        one = Override.parse(override)
        if place or of_the_run(one.name):
            values[one.name] = None if one.deletes else value(one.value)
    return values


@lru_cache(maxsize=4096)
def of_the_run(key: str) -> bool:
    """Whether a key says what a run computes, not where, under which name or how it is launched."""
    first = key.split(".")[0].split("/")[0]
    return first not in _PLACE and (first in _KNOBS or identity.counts(key))


def shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """The overrides that hold for every run, in the first one's order; none for a single run.

    One that a later override of the same key replaces holds for none.
    """
    if len(lists) < 2:
        return []
    last = [{Override.parse(override).name: override for override in one} for one in lists]
    values = [typed(one, place=True) for one in lists]
    return [
        override
        for key, override in last[0].items()
        if all(key in one and as_typed(one[key]) == as_typed(values[0][key]) for one in values)
    ]


@lru_cache(maxsize=4096)
def value(word: str) -> Value:
    """An override's value as Hydra reads it: 1e-6 is a number, true a boolean, quotes are not part of a text."""
    plain = word.strip()
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    if plain.lower() in ("true", "false"):
        return plain.lower() == "true"
    if plain.lower() == "null":
        return None
    if len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\"":
        return plain[1:-1]
    return re.sub(r"\s*([,:])\s*", r"\1", plain) if plain[:1] in ("[", "{") else plain


def as_typed(one: Value) -> str:
    """A value as one would type it: 1e-6, 8, true, null."""
    if one is None or isinstance(one, bool):
        return {None: "null", True: "true", False: "false"}[one]
    if isinstance(one, float) and one.is_integer() and abs(one) < 1e15:
        return str(int(one))
    return re.sub(r"e([+-])0+(?=\d)", r"e\1", repr(one)) if isinstance(one, float) else str(one)


#: Keys of a run that only those runs have which were launched with them.
OPTIONAL = ("init_from", "fork_from")


def at(config: Mapping[str, Any], choices: Mapping[str, str | None], key: str) -> Value:
    """What a run without an override of this key has: the option of a group, or a value of its frozen config."""
    if key in choices:
        return choices[key]
    read = Config(config)
    if not read.has(key):
        return None if "." in key or key in OPTIONAL else UNKNOWN
    node = read.get(key)
    return _plain(node) if "." in key or not isinstance(node, Mapping) else UNKNOWN


def _plain(node: Any) -> Value:
    """As `value` reads what one would type for it."""
    if node is None or isinstance(node, str | int | float):
        return node
    if isinstance(node, Mapping):
        return "{" + ",".join(f"{key}:{as_typed(_plain(inner))}" for key, inner in node.items()) + "}"
    return (
        "[" + ",".join(as_typed(_plain(inner)) for inner in node) + "]" if isinstance(node, list | tuple) else str(node)
    )


def points(typed_values: Sequence[Mapping[str, Value]], look: Callable[[int, str], Value]) -> list[dict[str, Value]]:
    """Each run's value on every axis, in the axes' order: that in which they were first typed.

    Parameters
    ----------
    typed_values: what each run's overrides set (`typed`)
    look: the place of a run and a key that it did not set -> its value (`at`)
    """
    by_run: list[dict[str, Value]] = [{} for _ in typed_values]
    for key in dict.fromkeys(key for one in typed_values for key in one):
        first = as_typed(typed_values[0][key]) if key in typed_values[0] else None
        if all(key in one and as_typed(one[key]) == first for one in typed_values):
            continue  # typed for all of them, with one value
        values = [one[key] if key in one else look(index, key) for index, one in enumerate(typed_values)]
        if any(as_typed(one) != as_typed(values[0]) for one in values):
            for point, one in zip(by_run, values, strict=True):
                point[key] = one
    return by_run


def names(keys: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Key -> its shortest name that no other axis and no other column has: `lr`, `kwargs.lr`, ...

    Parameters
    ----------
    taken: names of other columns
    """
    other = set(taken)
    short = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        whole = f"{key}=" if key in other else key
        rest = [f".{one}" for one in keys if one != key]
        short[key] = next((t for t in tails if t not in other and not any(r.endswith(f".{t}") for r in rest)), whole)
    return short
