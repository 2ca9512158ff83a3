"""A Hydra override as it is typed: `lr=1`, `+key=1`, `++key=1`, `~key`, `group@package=option`. Loads nothing heavy.

Hydra's own parser reads values and sweeps too, and takes a hundred times as long; what one word says of itself is read
here, everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Override(NamedTuple):
    """One override, or a word that is none.

    Parameters
    ----------
    sign: "", "+" (adds a key), "++" (adds or changes it) or "~" (takes it away)
    key: a dotted key or a group
    package: where a group's option goes; empty without one
    value: as typed, quotes and all; empty where there is none
    has_value: whether there is an =
    """

    sign: str
    key: str
    package: str = ""
    value: str = ""
    has_value: bool = False

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(word: str) -> Override:
        """Any word; Hydra says whether it is an override."""
        name, equals, value = word.strip().partition("=")
        sign = "++" if name.startswith("++") else name[:1] if name[:1] in ("+", "~") else ""
        key, _, package = name[len(sign) :].partition("@")
        return Override(sign, key, package, value, bool(equals))

    @property
    def name(self) -> str:
        """What it sets: the key, with the package where one is typed."""
        return f"{self.key}@{self.package}" if self.package else self.key

    @property
    def section(self) -> str:
        """The first part of its key."""
        return self.key.partition(".")[0]

    @property
    def unquoted(self) -> str:
        """The value without quotes around it."""
        return self.value.strip("'\"")

    @property
    def adds(self) -> bool:
        return self.sign in ("+", "++")

    @property
    def deletes(self) -> bool:
        return self.sign == "~"
