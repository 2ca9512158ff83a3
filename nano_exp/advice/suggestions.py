"""What to type in the place of a key that there is not. Nothing is suggested that was not composed first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_exp import synonyms
from nano_exp.compose import nearest as nearest_recipe
from nano_exp.dotted import Config, leaves
from nano_exp.errors import UserError, nearest, short_for
from nano_exp.overrides import Override

if TYPE_CHECKING:  # what needs neither is had without them (nano_exp.advice.quickly)
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from nano_exp.compose.freeze import Frozen

#: How many suggestions a message has, and how many names of one section.
MOST, MOST_NAMES = 3, 12


@dataclass(frozen=True)
class Suggestion:
    """What may be typed instead.

    Parameters
    ----------
    overrides: each of them composes, and does something there
    says: what to know of them
    refused: a key that is likely meant and does not take the value
    """

    overrides: tuple[str, ...] = ()
    says: str = ""
    refused: str = ""

    @property
    def fix(self) -> str:
        """As the third part of an error; empty where there is nothing to suggest."""
        if self.refused:
            return f"{self.refused}=<another value>"
        return " or ".join(self.overrides) + (f" ({self.says})" if self.overrides and self.says else self.says)


class Adviser:
    """What can be typed beside some choices of groups.

    Parameters
    ----------
    choices: the group overrides of a launch, one option each
    """

    def __init__(self, config_loader: ConfigLoader, choices: Sequence[str]) -> None:
        self._loader, self._choices = config_loader, list(choices)

    @cached_property
    def cfg(self) -> DictConfig | None:
        """The config composed with the choices, Hydra's own included; None where even that does not compose.

        Where the choices have no published recipe together, it is that of the same model on another cluster: its keys
        are those that a user has in mind.
        """
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from nano_exp.compose import conf_tree

        try:
            cfg = conf_tree.plain(self._loader, self._choices)
        except (HydraException, OmegaConfBaseException):
            return None
        options = dict(cfg.hydra.runtime.choices)
        clusters = [
            c
            for m, c in nearest_recipe.recipes(str(options["nemo_rl"]))
            if m == nearest_recipe.source(str(options["model"]))
        ]
        if cfg.nemo_rl.recipe is None and clusters:
            self._choices = [*self._choices, f"cluster={clusters[0]}"]
            return conf_tree.plain(self._loader, self._choices)
        return cfg

    @cached_property
    def config(self) -> dict[str, Any]:
        """The same as plain data, interpolations as text."""
        from nano_exp.compose import conf_tree

        return conf_tree.raw(self.cfg) if self.cfg is not None else {}

    @cached_property
    def groups(self) -> frozenset[str]:
        """The groups of the conf tree, Hydra's own included."""
        return frozenset(self._loader.list_groups(""))

    @cached_property
    def keys(self) -> frozenset[str]:
        """Its dotted keys, inner ones too."""
        return frozenset(_with_parents(leaves(self.config)))

    @cached_property
    def theirs(self) -> frozenset[str]:
        """What the types or the recipes of the NeMo RL version have; nothing for the embedded engine."""
        from nano_exp.nemo_rl import known_keys as known

        try:
            engine, version = self.config["engine"]["name"], str(self.config["nemo_rl"]["version"])
        except (KeyError, TypeError):
            return frozenset()
        nemo_rl_keys = known.load(version) if engine == "nemo_rl" else None
        return (
            frozenset(name for name in nemo_rl_keys.names if "[" not in name and "*" not in name)
            if nemo_rl_keys
            else frozenset()
        )

    def at(self, key: str) -> Any:
        """What stands at a dotted key, as plain data; None where nothing does."""
        return Config(self.config).get(key)

    def composes(self, override: str) -> bool:
        """Whether an override composes beside the choices."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from nano_exp.compose import conf_tree

        try:
            return conf_tree.plain(self._loader, [*self._choices, override]) is not None
        except (HydraException, OmegaConfBaseException, ValueError):
            return False

    def works(self, override: str) -> bool:
        """Whether an override composes beside the choices, and what it sets is read there and of the right kind."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        try:
            [parsed] = OverridesParser.create(config_loader=self._loader).parse_overrides([override])
            if parsed.is_sweep_override():
                if not parsed.is_discrete_sweep():
                    return parsed.key_or_group in self.keys
                return all(self._works(f"{parsed.get_key_element()}={v}") for v in parsed.sweep_string_iterator())
        except (HydraException, ValueError):
            return False
        return self._works(override)

    def _works(self, override: str) -> bool:
        typed = Override.parse(override)
        if (not typed.sign and typed.name in self.groups) or typed.key.startswith("hydra."):
            return self.composes(override)
        judged = self._judged(typed.name, override)
        return judged is not None and (not judged or (typed.name in self.keys and bool(self._judged(typed.name))))

    def _judged(self, key: str, *more: str) -> bool | None:
        """Whether preflight has something to say of a key beside the choices, as it has of one that a recipe of the
        user's brings along and NeMo RL does not know; None where they do not compose."""
        from nano_exp.preflight import judge

        frozen = self._frozen((*self._choices, *more))
        return None if frozen is None else judge.of_key(frozen, key)

    def _frozen(self, words: tuple[str, ...]) -> Frozen | None:
        """A point; None where it does not compose."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from nano_exp.compose import compose, freeze

        try:
            return freeze.freeze(compose.Point(words, compose.compose(self._loader, words)), Path.cwd())
        except (HydraException, OmegaConfBaseException, UserError, ValueError, TypeError):
            return None

    # --- suggestions --------------------------------------------------------------------------------------------

    def instead(self, key: str, value: str) -> Suggestion:
        """What may be meant by a key that there is not, with its value as typed."""
        hydra = key.startswith("hydra.")
        groups = self.groups - {"hydra"}
        names = {k for k in self.keys | self.theirs if k.startswith("hydra.") == hydra and k != key} | groups
        refused = ""
        synonym = synonyms.meant(key)
        for candidates, says in (
            (nearest(key, names), ""),
            (_sections(key, names), ""),
            (synonym.keys if synonym else (), synonym.says if synonym else ""),
            (_same_leaf(key, names), ""),
        ):
            present = [name for name in candidates if name in names]
            good = [text for name in present if self.works(text := self._typed(name, value))]
            if good:
                return Suggestion(tuple(good[:MOST]), says if len(good) > 1 or len(present) == 1 else "")
            refused = refused or next((name for name in present if name in self.keys and name in candidates), "")
        if synonym is not None and not synonym.keys:
            return Suggestion(says=synonym.says)
        return Suggestion(refused=refused)

    def _typed(self, key: str, value: str) -> str:
        added = key not in self.keys and key not in self.groups
        return f"{'++' if added else ''}{key}={value}"

    def there(self, key: str) -> str:
        """The keys of the nearest section above a key, in words; empty where they are too many to read."""
        above = key.rpartition(".")[0]
        while above and not isinstance(self.at(above), dict):
            above = above.rpartition(".")[0]
        names = list(self.at(above)) if above else []
        return f"{above} has {', '.join(names)}" if 0 < len(names) <= MOST_NAMES else ""


def _with_parents(keys: Iterable[str]) -> set[str]:
    names: set[str] = set()
    for key in keys:
        parts = key.split(".")
        names.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    return names


def _sections(key: str, names: Iterable[str]) -> list[str]:
    """A key whose sections are not all there, or one too many, or whose last word is a short form of one."""
    above, _, leaf = key.rpartition(".")
    inside = {name.rpartition(".")[2]: name for name in names if above and name.rpartition(".")[0] == above}
    short = short_for(leaf, inside)
    if short:
        return [inside[short]]
    longer = [name for name in names if above and name.endswith(f".{key}")]
    parts = key.split(".")
    shorter = [tail for i in range(1, len(parts) - 1) if (tail := ".".join(parts[i:])) in names]
    return longer if len(longer) == 1 else shorter[:1]


def _same_leaf(key: str, names: Iterable[str]) -> list[str]:
    """The keys that end in the same word, where they are few: `name` is everywhere."""
    leaf = key.rpartition(".")[2]
    same = sorted((n for n in names if n.rpartition(".")[2] == leaf), key=lambda n: (n.count("."), n))
    return same if len(same) <= MOST else []
