"""Reading plain configs by dotted keys, and copies of them with other values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Where a value is in plain data: mapping keys and list places from the top.
Keys = tuple[Any, ...]


def with_values(config: Mapping[str, Any], changes: Mapping[Keys, Any]) -> dict[str, Any]:
    """A copy with other values at some paths. It shares everything that is not on the way to one of them."""
    whole = dict(config)
    own: dict[Keys, Any] = {(): whole}
    for path, value in changes.items():
        for depth in range(1, len(path)):
            here, above = path[:depth], own[path[: depth - 1]]
            if here not in own:
                inner = above[path[depth - 1]]
                own[here] = above[path[depth - 1]] = list(inner) if isinstance(inner, list) else dict(inner)
        own[path[:-1]][path[-1]] = value
    return whole


def _at(config: Mapping[str, Any], path: Keys, absent: Any = None) -> Any:
    """What stands at a path; `absent` where nothing does."""
    node: Any = config
    for key in path:
        node = node.get(key, absent) if isinstance(node, Mapping) else absent
    return node


def set_dotted(config: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key in plain dicts, making the levels that are not there."""
    *path, leaf = key.split(".")
    for part in path:
        if not isinstance(config.get(part), dict):
            config[part] = {}
        config = config[part]
    config[leaf] = value


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each leaf; lists and empty mappings are leaves."""
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, path)
        else:
            yield path, value
