"""A mistyped key or option answered without Hydra, in the words of `nano_exp.advice.mistakes`.

Only where the kept composition (`nano_exp.compose.quick`) makes the answer certain: all words are plain, and what is
suggested is kept too. Anything else is None, and Hydra finds the mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_exp.advice import unknown
from nano_exp.advice.suggestions import Adviser
from nano_exp.compose import nearest, plain_values, quick
from nano_exp.errors import UserError
from nano_exp.errors import nearest as near
from nano_exp.overrides import Override

if TYPE_CHECKING:
    from nano_exp.compose.freeze import Frozen

#: Groups that have words of their own for what they lack.
_OTHERS = ("recipe", "sweeps", "nemo_rl", "hydra")


class _Uncertain(Exception):
    """Only Hydra can tell."""


class _Kept(Adviser):
    """What can be typed beside some choices whose composition is kept.

    Parameters
    ----------
    stored: the composition's config
    """

    def __init__(self, choices: Sequence[str], stored: dict[str, Any]) -> None:
        self._choices, self._stored = list(choices), stored

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._stored

    @cached_property
    def groups(self) -> frozenset[str]:
        return frozenset(path.name for folder in nearest.own_folders() for path in folder.iterdir() if path.is_dir())

    def composes(self, override: str) -> bool:
        return self._frozen((*self._choices, override)) is not None

    def works(self, override: str) -> bool:
        return self._works(override)

    def _frozen(self, words: tuple[str, ...]) -> Frozen | None:
        from nano_exp.compose import freeze

        point = quick.point(words)
        if point is None:
            raise _Uncertain
        try:
            return freeze.freeze(point, Path.cwd())
        except UserError:
            return None


def mistake(overrides: Sequence[str]) -> UserError | None:
    """The mistake in the words of one point; None where there is none, or where only Hydra can tell.

    To be asked after `quick.points`, which has what is no mistake.
    """
    words = quick.words(overrides)
    if words is None:
        return None
    choices = [choice.split("=", 1) for choice in words.chosen]
    lacking = [(group, option) for group, option in choices if option not in nearest.options(group)]
    if lacking:
        return _option(words, *lacking[0]) if len(lacking) == 1 else None
    models = [option for group, option in choices if group == "model"]
    if not all(map(nearest.has_data, models)) or (stored := quick.recall(words)) is None:
        return None
    try:
        return _key(_Kept(words.chosen, stored["config"]), overrides, words)
    except (_Uncertain, OSError, ValueError, KeyError, TypeError):
        return None


def _option(words: quick.Words, group: str, option: str) -> UserError | None:
    available = unknown.shown(group, nearest.options(group))
    likely = near(option, available)[:1]
    if group in _OTHERS or not likely or not isinstance(plain_values.primitive(option), str):
        return None
    meant = tuple(f"{group}={likely[0]}" if one == f"{group}={option}" else one for one in words.chosen)
    if quick.recall(words._replace(chosen=meant)) is None:  # the files may have faults, which Hydra names first
        return None
    return unknown.option(group, option, available)


def _key(adviser: Adviser, overrides: Sequence[str], words: quick.Words) -> UserError | None:
    if adviser.config["nemo_rl"]["recipe"] is None:
        return None
    texts = {Override.parse(text).key: Override.parse(text).value for text in overrides}
    for word in words.values:
        key = word.key
        if key in adviser.keys and not isinstance(adviser.at(key), dict):
            continue
        if word.forced or key in adviser.keys or key in adviser.theirs or not _is_lacking(adviser.config, key):
            return None
        return unknown.key(adviser, key, texts[key])
    return None


def _is_lacking(config: dict[str, Any], key: str) -> bool:
    """Whether a key is not there, and all that is above it are sections, as far as they are there."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict):
            return False
        if part not in node:
            return True
        node = node[part]
    return False
