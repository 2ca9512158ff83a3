"""What is known of a NeMo RL version: its keys with their types, which `nano-exp recipes import` wrote to conf/nemo_rl.

On the launch path: one small JSON file is read, once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp import files, project
from nano_exp.errors import UserError
from nano_exp.files import Damaged

FOLDER = project.CONF / "nemo_rl"
KEYS_FILE = "keys.json"
#: `Key.default` of a key that NeMo RL's types give no default.
NO_DEFAULT = object()


@dataclass(frozen=True)
class Key:
    """One key of NeMo RL's types.

    Parameters
    ----------
    types: alternatives, as written there: str, int, mapping, list[str], enum('a'|'b'), any, ...
    required: inside its parent; where the parent has alternatives, in those that `declared_in` names
    nullable: null is a value of it
    open: what lies below it is free
    declared_in: the types that name it
    default: what NeMo RL takes where it is absent, or NO_DEFAULT; a default that is code is its text
    backends: the generation backends' types that alone have it (VllmConfig, SGLangConfig); empty: every config
    """

    types: tuple[str, ...]
    required: bool
    nullable: bool
    open: bool
    declared_in: tuple[str, ...] = ()
    default: Any = NO_DEFAULT
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Known:
    """The keys of a version.

    Parameters
    ----------
    version: as the version's YAML has it, "v0.7.0"
    commit: of the checkout that they were read from
    keys: dotted key -> its type; `[]` stands for any element of a list, `.*` for any key of a mapping
    recipe_keys: every dotted key, sections included, that one of the version's own GRPO recipes carries
    unread: those of them that GRPO does not read: left over, or an evaluation's
    """

    version: str
    commit: str | None
    keys: Mapping[str, Key]
    recipe_keys: frozenset[str] = field(default_factory=frozenset)
    unread: frozenset[str] = field(default_factory=frozenset)


#: The order of a version that no release is newer than.
NEWEST = (999,)


@cache
def order(version: str) -> tuple[int, ...]:
    """A version by which two compare: (0, 7, 0) of "v0.7.0".

    A branch counts as newer than all: one that was imported ("v0.6.0+7ea279ab1234": it calls itself what the release
    before it was called), and any name that is not a number ("main").
    """
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in match.groups()) if match and "+" not in version else NEWEST


def holds(terms: str, version: tuple[int, ...]) -> bool:
    """Whether a version is one of `terms`: ">=v0.6.0", "<v0.6.0" or both with a comma; "" for all."""
    return all(_holds(term, version) for term in terms.split(",") if term)


@cache
def _holds(term: str, version: tuple[int, ...]) -> bool:
    if term.startswith(">="):
        return version >= order(term[2:])
    if term.startswith("<"):
        return version < order(term[1:])
    raise ValueError(f"versions={term!r}: >=v0.0.0 or <v0.0.0")


def option(version: str) -> str:
    """The option of the group nemo_rl for a version: v0.7.0 is `nemo_rl=v0_7`."""
    major, _, rest = version.removeprefix("v").partition(".")
    return f"v{major}_{rest.partition('.')[0]}"


def options(folder: Path = FOLDER) -> list[str]:
    """The options of the group nemo_rl that were imported: releases by age, then branches."""
    return sorted((path.parent.name for path in project.glob(folder, f"*/{KEYS_FILE}")), key=age)


def age(option: str) -> tuple[bool, list[int], str]:
    """A sort key of options: v0_6 before v0_10 before main."""
    release = re.fullmatch(r"v(\d+)_(\d+)", option)
    return (release is None, [int(n) for n in release.groups()] if release else [], option)


def version_of(option: str, folder: Path = FOLDER) -> str:
    """The version ("v0.7.0") of an option ("v0_7")."""
    return str(files.read_yaml(project.at(folder / f"{option}.yaml"))["version"])


@cache
def known(version: str, folder: Path = FOLDER) -> Known | None:
    """The keys of a version ("v0.7.0"); None for one that was never imported.

    Raises
    ------
    UserError: the file is damaged
    """
    likely = project.at(folder / option(version) / KEYS_FILE)
    for path in dict.fromkeys([likely, *project.glob(folder, f"*/{KEYS_FILE}")]):
        if not path.is_file():
            continue
        try:
            data = files.read_json(path)
            if data["version"] == version:
                return from_data(data)
        except (Damaged, KeyError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error})",
                "it holds the keys that this NeMo RL version knows",
                f"git checkout {path}, or write it again: nano-exp recipes import /path/to/NeMo-RL --write",
            ) from error
    return None


def from_data(data: Mapping[str, Any]) -> Known:
    """The content of a keys.json as `Known`."""
    keys = {
        key: Key(
            types=tuple(entry["type"]),
            required=bool(entry["required"]),
            nullable=bool(entry["nullable"]),
            open=bool(entry["open"]),
            declared_in=tuple(entry["declared_in"]),
            default=entry.get("default", NO_DEFAULT),
            backends=tuple(entry.get("backend_only", ())),
        )
        for key, entry in data["keys"].items()
    }
    carried, unread = frozenset(data["recipe_keys"]), frozenset(data.get("unread", ()))
    return Known(str(data["version"]), data["commit"], keys, carried, unread)
