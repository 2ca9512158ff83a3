"""The known keys of a checkout: those that its types name, and those that its GRPO recipes carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from nano_exp.errors import UserError
from nano_exp.recipes import types, upstream

RECIPES = "examples"  # the folder of a checkout that its recipes are below


def collect(checkout: Path, version: str, commit: str | None, old_paths: bool) -> dict[str, Any]:
    """The content of a version's keys.json (docs/versions.md describes it).

    Raises
    ------
    UserError: no types or no recipes there
    """
    carried: set[str] = set()
    for path in sorted((checkout / RECIPES).rglob("*.yaml")):
        config = _grpo(path, old_paths)
        carried.update(upstream.keys(config))
    if not carried:
        raise UserError(
            f"no GRPO recipe below {checkout / RECIPES}",
            "the keys that recipes carry are known keys, since NeMo RL's types name fewer than it reads",
            "name the folder of a NeMo RL checkout",
        )
    return {"version": version, "commit": commit, "keys": types.read(checkout), "recipe_keys": sorted(carried)}


def _grpo(path: Path, old_paths: bool) -> dict[str, Any]:
    """A recipe's values; {} for a file that is none of GRPO's (other algorithms, evaluation, unreadable)."""
    try:
        config = upstream.load(path, old_paths).config
        if "grpo" not in config or "policy" not in config:
            return {}
        return upstream.resolved(config)
    except (UserError, OmegaConfBaseException):
        return {}


def dump(found: Mapping[str, Any]) -> str:
    """keys.json's text: one line for each key, so that two versions compare line by line."""

    def one(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = ["{", f' "version": {one(found["version"])},', f' "commit": {one(found["commit"])},', ' "keys": {']
    lines += [",\n".join(f"  {one(key)}: {one(entry)}" for key, entry in found["keys"].items()), " },"]
    lines += [' "recipe_keys": [', ",\n".join(f"  {one(key)}" for key in found["recipe_keys"]), " ]", "}", ""]
    return "\n".join(lines)
