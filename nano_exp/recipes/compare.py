"""Two NeMo RL versions side by side: values of the published recipes as composed here, and known keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files, project
from nano_exp.nemo_rl.versions import KEYS_FILE, Key, Known, from_data
from nano_exp.recipes import importer

ABSENT = "(absent)"


@dataclass(frozen=True)
class Side:
    """One version: its option, the composed values of its recipes (pair -> key -> value), and its known keys."""

    option: str
    recipes: Mapping[str, Mapping[str, Any]]
    known: Known


@dataclass(frozen=True)
class Change:
    """A key whose value in recipes went from `old` to `new`; ABSENT where there is no such key."""

    key: str
    old: Any
    new: Any
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What differs from `old` to `new`.

    Parameters
    ----------
    lost, gained: pairs with a recipe on one side only
    values: changed values of the recipes that both have
    removed, added: known keys of one side only (of the types or of the recipes)
    retyped: keys that both sides' types name, with another type: key -> (old, new)
    """

    old: str
    new: str
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    values: tuple[Change, ...]
    removed: tuple[str, ...]
    added: tuple[str, ...]
    retyped: Mapping[str, tuple[str, str]]
    shared: int


def side(conf: Path, option: str) -> Side:
    """Compose the recipes of an option of the group nemo_rl below `conf`."""
    data = files.read_json(project.at(conf / "nemo_rl" / option / KEYS_FILE))
    return Side(option, importer.composed(conf, option), from_data(data))


def compare(old: Side, new: Side) -> Comparison:
    both = [pair for pair in old.recipes if pair in new.recipes]
    changes: dict[tuple[str, str, str], list[str]] = {}
    values: dict[tuple[str, str, str], tuple[Any, Any]] = {}
    for pair in both:
        a, b = old.recipes[pair], new.recipes[pair]
        for key in a.keys() | b.keys():
            before, after = a.get(key, ABSENT), b.get(key, ABSENT)
            if repr(before) != repr(after):
                change = (key, repr(before), repr(after))
                changes.setdefault(change, []).append(pair)
                values[change] = (before, after)
    names = [{*s.known.keys, *s.known.recipe_keys} for s in (old, new)]
    retyped = {}
    for key in sorted(old.known.keys.keys() & new.known.keys.keys()):
        types = _type(old.known.keys[key]), _type(new.known.keys[key])
        if types[0] != types[1]:
            retyped[key] = types
    return Comparison(
        old.option,
        new.option,
        tuple(p for p in old.recipes if p not in new.recipes),
        tuple(p for p in new.recipes if p not in old.recipes),
        tuple(Change(c[0], *values[c], tuple(changes[c])) for c in sorted(changes)),
        tuple(sorted(names[0] - names[1])),
        tuple(sorted(names[1] - names[0])),
        retyped,
        len(both),
    )


def _type(key: Key) -> str:
    words = [" or ".join(key.types) or "null"]
    words += ["or null"] if key.nullable else []
    words += [", required"] if key.required else []
    return " ".join(words).replace(" ,", ",")


def as_text(comparison: Comparison) -> str:
    """For people: what recipes lost and gained, then values, then keys."""
    lines = [f"{comparison.old} -> {comparison.new}"]
    for word, pairs in (("no longer has", comparison.lost), ("adds", comparison.gained)):
        lines += [f"  {comparison.new} {word} recipes for: {', '.join(pairs)}"] if pairs else []
    lines += ["", f"values of the {comparison.shared} recipes that both have: {len(comparison.values)} changed"]
    for change in comparison.values:
        where = "all" if len(change.recipes) == comparison.shared else ", ".join(change.recipes)
        lines.append(f"  {change.key}: {_as_json_text(change.old)} -> {_as_json_text(change.new)}  [{where}]")
    for word, keys in (("added", comparison.added), ("removed", comparison.removed)):
        lines += ["", f"known keys {word}: {len(keys)}"]
        lines += [f"  {key}" for key in _tops(keys)]
    lines += ["", f"keys with another type: {len(comparison.retyped)}"]
    lines += [f"  {key}: {a} -> {b}" for key, (a, b) in comparison.retyped.items()]
    return "\n".join(lines)


def _as_json_text(value: Any) -> str:
    return ABSENT if value == ABSENT else json.dumps(value)


def _tops(keys: tuple[str, ...]) -> list[str]:
    """Keys whose section is not among them, with the number of those below each."""
    all_keys = set(keys)
    below: dict[str, int] = {}
    for key in keys:
        parts = key.split(".")
        above = next((p for n in range(1, len(parts)) if (p := ".".join(parts[:n])) in all_keys), None)
        below[above or key] = below.get(above or key, -1 if above is None else 0) + 1
    return [f"{key}  (with {count} below it)" if count else key for key, count in sorted(below.items())]


def as_json(comparison: Comparison) -> str:
    def value(v: Any) -> dict[str, Any]:
        return {"present": False} if v == ABSENT else {"present": True, "value": v}

    return json.dumps(
        {
            "from": comparison.old,
            "to": comparison.new,
            "recipes": {"removed": comparison.lost, "added": comparison.gained, "compared": comparison.shared},
            "values": [
                {"key": c.key, "from": value(c.old), "to": value(c.new), "recipes": c.recipes}
                for c in comparison.values
            ],
            "keys": {
                "removed": comparison.removed,
                "added": comparison.added,
                "retyped": {key: {"from": a, "to": b} for key, (a, b) in comparison.retyped.items()},
            },
        },
        indent=1,
    )
