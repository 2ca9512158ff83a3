"""Reading a config by dotted keys, with a default for what is absent, null or of another type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def get(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    found: Any = config
    for part in key.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def whole(config: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number from 1 on."""
    found = get(config, key)
    good = isinstance(found, int) and not isinstance(found, bool) and found >= 1
    return found if good else default


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping at a dotted key; empty where there is none."""
    found = get(config, key)
    return found if isinstance(found, Mapping) else {}


def real(config: Mapping[str, Any], key: str, default: float) -> float:
    """A number that is finite."""
    found = get(config, key)
    good = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if good else default


def flag(config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    found = get(config, key)
    return found if isinstance(found, bool) else default


def text(config: Mapping[str, Any], key: str, default: str = "") -> str:
    found = get(config, key)
    return found if isinstance(found, str) else default
