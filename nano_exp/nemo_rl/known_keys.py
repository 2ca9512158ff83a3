"""The keys of a NeMo RL version, made ready to be asked about many configs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

from nano_exp.errors import nearest, short_for
from nano_exp.nemo_rl import versions

#: Free-form whatever the types say: each environment has keys of its own.
FREE = ("env",)


class KnownKeys:
    """What is known of a version's keys.

    Parameters
    ----------
    raw: as conf/nemo_rl has them
    """

    def __init__(self, raw: versions.Known) -> None:
        self.raw = raw
        self.required = cache(self._required)
        self.unknown = cache(self._unknown)
        self.near = cache(self._near)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every known key, inner ones too, without what recipes carry and GRPO does not read."""
        names: set[str] = set()
        for key in (*self.raw.keys, *(self.raw.recipe_keys - self.raw.unread)):
            parts = key.split(".")
            names.update(".".join(parts[: i + 1]) for i in range(len(parts)))
        return frozenset(names)

    @cached_property
    def _open(self) -> frozenset[str]:
        return frozenset((*FREE, *(key for key, entry in self.raw.keys.items() if entry.open)))

    def knows(self, key: str) -> bool:
        """Whether a key is one of the version's, or lies below a free-form one."""
        if key in self.names:
            return True
        while key:
            if key in self._open:
                return True
            key = key.rpartition(".")[0]
        return False

    def _unknown(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the keys that are not known. Points of a sweep have equal keys, so this is asked once."""
        return tuple(key for key in keys if not self.knows(key))

    def _near(self, key: str) -> tuple[str, ...]:
        """The known keys that a key is a slip away from, or else the only one of its last word, or that has it as a
        short form in the same section."""
        above, _, leaf = key.rpartition(".")
        others = sorted(name for name in self.names if not key.startswith(f"{name}.") and name != key)
        if near := nearest(key, others):
            return tuple(near)
        short = short_for(leaf, [name.rpartition(".")[2] for name in others if name.rpartition(".")[0] == above])
        same = [name for name in others if name.rpartition(".")[2] == leaf]
        return (f"{above}.{short}",) if short and above else tuple(same) if len(same) == 1 else ()

    def _required(self, below: str, backend: str = "") -> tuple[str, ...]:
        """Keys below a key that the types require, each inside its parent.

        Parameters
        ----------
        backend: the generation backend's type (VllmConfig, ...) whose own keys count too
        """
        return tuple(
            key
            for key, entry in self.raw.keys.items()
            if entry.required
            and (not below or key.startswith(f"{below}."))
            and "[]" not in key
            and "*" not in key
            and (not entry.backends or backend in entry.backends)
        )

    @cached_property
    def switched(self) -> tuple[str, ...]:
        """Sections whose types ask for nothing else where they are `enabled: false` (`MegatronConfigDisabled`)."""
        return tuple(
            key.removesuffix(".enabled")
            for key, entry in self.raw.keys.items()
            if key.endswith(".enabled") and "enum(False)" in entry.types and len(entry.declared_in) > 1
        )

    @cached_property
    def checks(self) -> dict[str, Callable[[Any], bool]]:
        """Key -> whether a value has one of the key's types."""
        return {
            key: _predicate(entry.types, entry.nullable)
            for key, entry in self.raw.keys.items()
            if "[]" not in key and "*" not in key
        }

    def mistyped(self, key: str, value: Any) -> bool:
        """Whether a value has none of its key's types."""
        check = self.checks.get(key)
        return check is not None and not check(value)

    def types(self, key: str) -> str:
        """A key's types in words."""
        entry = self.raw.keys[key]
        words = [_words(kind) for kind in entry.types]
        return " or ".join([*dict.fromkeys(words), *(["null"] if entry.nullable else [])])


_WORDS = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "any": "anything"}


def _words(kind: str) -> str:
    if kind.startswith("enum("):
        return " or ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in _options(kind))
    if kind == "mapping" or kind.startswith("dict["):
        return "a section"
    if kind.startswith("list["):
        return "a list"
    return _WORDS.get(kind, "a path" if "PathLike" in kind else kind)


def _options(kind: str) -> list[Any]:
    return [ast.literal_eval(word) for word in kind.removeprefix("enum(").removesuffix(")").split("|")]


def _predicate(types: Sequence[str], nullable: bool) -> Callable[[Any], bool]:
    plain: set[type] = {type(None)} if nullable else set()
    options: list[Any] = []
    for kind in types:
        if kind.startswith("enum("):
            options += _options(kind)
        elif kind in ("str",) or "PathLike" in kind:
            plain.add(str)
        elif kind == "int":
            plain.add(int)
        elif kind == "float":
            plain |= {int, float}
        elif kind == "bool":
            plain.add(bool)
        elif kind == "mapping" or kind.startswith("dict["):
            plain.add(dict)
        elif kind.startswith("list["):
            plain.add(list)
        else:  # any, a callable: nothing to say
            return lambda value: True
    if options:
        return lambda value: type(value) in plain or any(value == o and type(value) is type(o) for o in options)
    return lambda value: type(value) in plain


@cache
def load(version: str) -> KnownKeys | None:
    """The known keys of `v0.7.0`; None where they were never imported."""
    raw = versions.known(version)
    return None if raw is None else KnownKeys(raw)
