"""table.yaml as dataclasses: what the importer makes of a checkout, and where our interpolations stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp import files

PATH = Path(__file__).with_name("table.yaml")


@dataclass(frozen=True)
class Tie:
    """Keys whose value may be one of our interpolations; the first of `to` that gives the recipe's value is taken."""

    keys: tuple[str, ...]
    to: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Addition:
    """A key that recipes (`files`) lack, or have a placeholder in, and `since` a version need, and its value."""

    key: str
    value: Any
    files: tuple[str, ...]
    since: str
    why: str
    instead_of: str | None = None


@dataclass(frozen=True)
class Table:
    """The names are those of table.yaml."""

    scripts: Mapping[str, tuple[str, ...]]
    bases: Mapping[str, str]
    pairs: Mapping[str, str]
    same_as: Mapping[str, str]
    recipes: Mapping[str, str]
    recipe_models: Mapping[str, str]
    data: Mapping[str, str]
    data_keys: tuple[str, ...]
    cluster_keys: tuple[str, ...]
    own_keys: tuple[str, ...]
    additions: tuple[Addition, ...]
    ties: tuple[Tie, ...]

    def file_of(self, pair: str) -> str:
        """The upstream file of a pair, or of a recipe that has a name; below the checkout."""
        return self.recipes.get(pair) or self.pairs[self.same_as.get(pair, pair)]

    def model_of(self, pair: str) -> str:
        """The option of the group model for a pair or a name."""
        return self.recipe_models.get(pair) or pair.rpartition("_")[0]

    def words(self, pair: str) -> list[str]:
        """What a user types for it."""
        if pair in self.recipes:
            return [f"recipe={pair}"]
        return [f"model={self.model_of(pair)}", f"cluster={pair.rpartition('_')[2]}"]


@cache
def read(path: Path = PATH) -> Table:
    """The table; a mistake in it is the project's own and raises as it comes."""
    raw = files.read_yaml(path)
    return Table(
        scripts={kind: tuple(names) for kind, names in raw["scripts"].items()},
        bases=raw["bases"],
        pairs={pair: entry["file"] for pair, entry in raw["pairs"].items() if "file" in entry},
        same_as={pair: entry["same_as"] for pair, entry in raw["pairs"].items() if "same_as" in entry},
        recipes={name: entry["file"] for name, entry in raw["recipes"].items()},
        recipe_models={name: entry["model"] for name, entry in raw["recipes"].items()},
        data=raw["data"],
        data_keys=tuple(raw["data_keys"]),
        cluster_keys=tuple(raw["cluster_keys"]),
        own_keys=tuple(raw["own_keys"]),
        additions=tuple(
            Addition(a["key"], a["value"], tuple(a["files"]), a["since"], a["why"], a.get("instead_of"))
            for a in raw["additions"]
        ),
        ties=tuple(Tie(tuple(t["keys"]), tuple(t["to"]), t["why"]) for t in raw["ties"]),
    )
