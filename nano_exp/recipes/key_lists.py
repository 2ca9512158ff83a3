"""The known keys of a checkout: those that its types name, and those that its GRPO recipes carry."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from nano_exp.errors import UserError
from nano_exp.nemo_rl import upstream
from nano_exp.recipes import typed_dicts

RECIPES = "examples"  # the folder of a checkout that its recipes are below
#: What GRPO's programs are made of. Evaluation has programs and data sets of its own.
READERS, OTHERS = ("nemo_rl", "examples/run_grpo*.py", "examples/nemo_gym"), re.compile(r"(^|[/_])evals?[/_.]")
#: Sections that are handed on whole to another library, which has names of its own.
HANDED_ON = re.compile(r"\.(automodel_kwargs|megatron_cfg\.(scheduler|optimizer))\.")
#: A section, and the key that its types have since they name everything that GRPO reads in it: what else a recipe has
#: there is another program's (an evaluation's data.dataset_name).
COMPLETE = {"data": "data.train"}


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
    typed = typed_dicts.read(checkout)
    return {
        "version": version,
        "commit": commit,
        "keys": typed,
        "recipe_keys": sorted(carried),
        "unread": unread(checkout, typed, carried),
    }


def unread(checkout: Path, typed: Mapping[str, Mapping[str, Any]], carried: Iterable[str]) -> list[str]:
    """The keys that recipes carry and GRPO does not read, sorted: left over, or another program's.

    NeMo RL's types name fewer keys than it reads, so a key that they do not name counts as read where its last word
    stands anywhere in the source, but for a key directly below a section of COMPLETE. What lies below an unread key
    is not read either.

    Parameters
    ----------
    typed: as `types.read` gives them
    """
    named = {key.replace("[]", "") for key in typed}
    named |= {".".join(key.split(".")[:depth]) for key in named for depth in range(1, key.count(".") + 1)}
    free = tuple(f"{key}." for key, entry in typed.items() if entry["open"])
    words = _words_of(checkout)
    complete = {section for section, sign in COMPLETE.items() if sign in named}

    def is_read(key: str) -> bool:
        section, _, leaf = key.rpartition(".")
        if key in named or key.startswith(free) or HANDED_ON.search(key):
            return True
        return leaf in words and section not in complete and (not section or is_read(section))

    return sorted(key for key in carried if not is_read(key))


def _words_of(checkout: Path) -> Collection[str]:
    """Every word of the Python files that a GRPO run may execute."""
    words: set[str] = set()
    for pattern in READERS:
        for path in checkout.glob(pattern):
            for file in path.rglob("*.py") if path.is_dir() else [path]:
                if not OTHERS.search(str(file.relative_to(checkout))):
                    words.update(re.findall(r"\w+", file.read_text(errors="replace")))
    return words


def _grpo(path: Path, old_paths: bool) -> dict[str, Any]:
    """A recipe's values; {} for a file that is not a recipe of GRPO's (other algorithms, evaluation, unreadable)."""
    try:
        config = upstream.load(path, old_paths).config
        if "grpo" not in config or "policy" not in config:
            return {}
        return upstream.resolved(config)
    except (UserError, OmegaConfBaseException):
        return {}


def dump(key_list: Mapping[str, Any]) -> str:
    """keys.json's text: one line for each key, so that two versions compare line by line."""

    def one(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = ["{", f' "version": {one(key_list["version"])},', f' "commit": {one(key_list["commit"])},', ' "keys": {']
    lines += [",\n".join(f"  {one(key)}: {one(entry)}" for key, entry in key_list["keys"].items()), " },"]
    lines += [' "recipe_keys": [', ",\n".join(f"  {one(key)}" for key in key_list["recipe_keys"]), " ],"]
    lines += [' "unread": [', ",\n".join(f"  {one(key)}" for key in key_list["unread"]), " ]", "}", ""]
    return "\n".join(lines)
