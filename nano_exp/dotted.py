"""Reading plain configs by dotted keys, and copies of them with other values. Loads nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, TypeVar

#: Where a value is in plain data: mapping keys and list places from the top.
Keys = tuple[Any, ...]
Default = TypeVar("Default")
Items = Callable[[Mapping[str, Any]], Iterable[tuple[str, Any]]]

_ABSENT = object()


@dataclass(frozen=True)
class Config:
    """A config that is asked by dotted keys.

    Reading never raises: what is absent, null or of another type is the default, as a config may be of another version,
    damaged, or not checked yet.
    """

    values: Mapping[str, Any]

    def has(self, key: str) -> bool:
        """Whether the key is there, null or not."""
        return at(self.values, tuple(key.split(".")), _ABSENT) is not _ABSENT

    def get(self, key: str, default: Any = None) -> Any:
        """What stands there, a mapping too; the default where there is nothing, or null."""
        node = at(self.values, tuple(key.split(".")))
        return default if node is None else node

    def whole(self, key: str) -> int | None:
        """A whole number, or None; true and false are none."""
        node = self.get(key)
        return node if isinstance(node, int) and not isinstance(node, bool) else None

    def count(self, key: str, default: int) -> int:
        """A whole number from 1 on."""
        number = self.whole(key)
        return number if number is not None and number >= 1 else default

    def real(self, key: str, default: Default) -> float | Default:
        """A number that is finite."""
        node = self.get(key)
        good = isinstance(node, int | float) and not isinstance(node, bool) and math.isfinite(node)
        return float(node) if good else default

    def on(self, key: str, default: bool = False) -> bool:
        """Whether a switch is on."""
        node = self.get(key)
        return node if isinstance(node, bool) else default

    def text(self, key: str, default: str = "") -> str:
        node = self.get(key)
        return node if isinstance(node, str) else default

    def section(self, key: str) -> Config:
        """The mapping there; an empty one where there is none."""
        node = self.get(key)
        return Config(node if isinstance(node, Mapping) else {})

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """A copy with other values at some dotted keys; sections that are not there are made."""
        return with_values(self.values, {tuple(key.split(".")): value for key, value in changes.items()})


def at(config: Mapping[str, Any], path: Keys, absent: Any = None) -> Any:
    """What stands at a path; `absent` where nothing does."""
    node: Any = config
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return absent
        node = node[key]
    return node


def with_values(config: Mapping[str, Any], changes: Mapping[Keys, Any]) -> dict[str, Any]:
    """A copy with other values at some paths. It shares everything that is not on the way to one of them."""
    whole = dict(config)
    copies: dict[Keys, Any] = {(): whole}
    for path, value in changes.items():
        for depth in range(1, len(path)):
            here, above = path[:depth], copies[path[: depth - 1]]
            if here not in copies:
                copies[here] = above[path[depth - 1]] = _copy(above, path[depth - 1])
        copies[path[:-1]][path[-1]] = value
    return whole


def _copy(above: Any, key: Any) -> Any:
    inner = above[key] if isinstance(above, list) else above.get(key)
    if isinstance(inner, list):
        return list(inner)
    return dict(inner) if isinstance(inner, Mapping) else {}


def set_dotted(config: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key in plain dicts, making the levels that are not there."""
    *path, leaf = key.split(".")
    for part in path:
        if not isinstance(config.get(part), dict):
            config[part] = {}
        config = config[part]
    config[leaf] = value


def flat(
    config: Mapping[str, Any], left_out: Collection[str] = (), items: Items = methodcaller("items")
) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Leaves, and mappings, by dotted key; lists and empty mappings are leaves.

    Parameters
    ----------
    left_out: top-level keys
    items: how a mapping's keys and values are read
    """
    leaves: dict[str, Any] = {}
    inner: dict[str, Mapping[str, Any]] = {}
    _walk({key: value for key, value in items(config) if key not in left_out}, "", leaves, inner, items)
    return leaves, inner


def _walk(
    node: Mapping[str, Any], prefix: str, leaves: dict[str, Any], inner: dict[str, Mapping[str, Any]], items: Items
) -> None:
    # Not inside of `flat`: a function that calls itself from there keeps all that it saw until cycles are collected.
    for key, value in items(node):
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            inner[path] = value
            _walk(value, f"{path}.", leaves, inner, items)
        else:
            leaves[path] = value


def leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of each leaf, as `flat` has them."""
    return flat(config)[0]
