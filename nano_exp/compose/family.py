"""Composing many points quickly: those that differ in plain values only are composed once.

Points with the same overrides at the same places, up to the values of some plain keys, are a family. The first is
composed by Hydra. For each other one Hydra's own function sets the values in a copy of the first one's config, and
OmegaConf computes again what reads them. That gives what Hydra gives, because nothing else depends on those values:

- a group's choice, an override of `hydra.*`, and `+key` or `~key` behind such a value (both look at what is there) are
  never taken as plain values, nor is a value with an interpolation, a list or a mapping;
- no other override of the point is about the same key, one above or one below it, so their order does not matter;
- the key and those above it are plain nodes, so no alias leads to another place.

What is not so is composed by Hydra, point by point.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nano_exp import credentials, dotted, hydra_internals
from nano_exp.compose import compose, conf_tree, freeze, launcher_settings, resolvers, resolving
from nano_exp.compose.compose import Point
from nano_exp.dotted import Keys
from nano_exp.terminal.progress_line import counting


@dataclass(frozen=True)
class Sibling:
    """A point by what sets it apart from the first of its family: path -> resolved value."""

    overrides: tuple[str, ...]
    family: Family
    changes: dict[Keys, Any]
    notes: tuple[str, ...] = ()

    def resolve(self) -> freeze.Resolved:
        """As `freeze.Freezable` says."""
        credentials.refuse({".".join(map(str, path)): value for path, value in self.changes.items()})
        config = dotted.with_values(self.family.resolved, self.changes)
        return freeze.Resolved(self.overrides, config, self.family.choices)


class Family:
    """The first point of a family, and what the others may change in it.

    Parameters
    ----------
    first: composed by Hydra
    keys: dotted keys of the plain values

    Raises
    ------
    NotPlain: a key is not a plain node of the config
    """

    def __init__(self, first: Point, keys: Sequence[str]) -> None:
        self.choices, self.notes = first.choices, first.notes
        self._cfg = copy.deepcopy(first.cfg)
        self._nodes = {tuple(key.split(".")): hydra_internals.plain_node(self._cfg, key) for key in keys}
        if None in self._nodes.values():
            raise NotPlain
        self._reading = _reading(self._cfg, list(self._nodes))
        self._computed: dict[tuple[Keys, tuple[str, ...]], Any] = {}

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The first point's config as plain data, free of secrets."""
        plain = conf_tree.raw(self._cfg)
        credentials.refuse(plain)
        launcher_settings.require(plain)
        config = resolving.resolve(self._cfg)
        credentials.refuse(config)
        return config

    def changes(self, values: Sequence[Override]) -> dict[Keys, Any]:
        """What is different with these values, one for each key of the family.

        Raises
        ------
        HydraException, OmegaConfBaseException: the values cannot be set, or what reads them not be computed
        """
        assert self.resolved  # before the first value is set
        typed = dict(zip(self._nodes, (str(value.input_line) for value in values), strict=True))
        reads = {path: (path,) for path in self._nodes} | {path: keys for path, (_, keys) in self._reading.items()}
        # What two points have the same values for is the same in both: in a grid that is nearly all.
        names = {path: (path, tuple(typed[key] for key in keys)) for path, keys in reads.items()}
        if not all(name in self._computed for name in names.values()):
            hydra_internals.set_values(self._cfg, values)
            for path, node in self._nodes.items():
                self._computed[names[path]] = hydra_internals.text_of(node)
            for path, (node, _) in self._reading.items():
                self._computed[names[path]] = hydra_internals.resolved(node)
        return {path: self._computed[name] for path, name in names.items()}


class NotPlain(Exception):
    """A key whose value is not a plain node below plain mappings."""


def _reading(cfg: DictConfig, changed: Sequence[Keys]) -> dict[Keys, tuple[Any, tuple[Keys, ...]]]:
    """The interpolations that may read one of the changed paths, directly or through others; and which they may."""
    nodes = hydra_internals.interpolations(cfg)
    reads = {path: resolvers.reads(str(hydra_internals.text_of(node))) for path, node in nodes.items()}
    changes: dict[Keys, set[Keys]] = {path: {path} for path in changed}  # path -> the changed ones that it follows
    grown = True
    while grown:
        grown = False
        for path, names in reads.items():
            known = changes.get(path, set())
            follows = [k for p, k in changes.items() if names is None or any(_related(name, p) for name in names)]
            if new := set().union(*follows) - known:
                changes[path] = known | new
                grown = True
    return {path: (nodes[path], tuple(p for p in changed if p in changes[path])) for path in nodes if path in changes}


def _related(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two paths are equal or one is above the other."""
    return all(str(a) == str(b) for a, b in zip(one, other, strict=False))


def compose_points(
    config_loader: ConfigLoader, overrides: Sequence[Sequence[str]], master: DictConfig | None = None
) -> list[Point | Sibling]:
    """Every point of a launch, composed.

    Parameters
    ----------
    master: what Hydra composed from the whole command line, swept overrides left out; the only point of a launch
        without sweeps is that

    Raises
    ------
    UserError, Uncomposable: as `compose.compose_point`, for the first point that cannot be composed
    """
    if master is not None and [list(one) for one in overrides] == [conf_tree.typed(master)]:
        return [compose.point(overrides[0], master)]
    try:
        parsed = _parse(config_loader, overrides)
    except (HydraException, OmegaConfBaseException):
        return [compose.compose_point(config_loader, point) for point in overrides]  # the one that is wrong raises
    counts = Counter(text for point in overrides for text in point)
    swept = {
        text: override.get_key_element()
        for text, override in parsed.items()
        if counts[text] < len(overrides) and _sets_plain_value(config_loader, override)
    }
    families: dict[tuple[str, ...], Family | None] = {}
    points: list[Point | Sibling] = []
    with counting("composing", len(overrides)) as one_more:
        for texts in overrides:
            shape = tuple(swept.get(text, text) for text in texts)
            family = families.get(shape)
            next_point: Point | Sibling | None = None
            if family is not None:
                next_point = _sibling(family, texts, [parsed[text] for text in texts if text in swept])
            if next_point is None:
                next_point = compose.compose_point(config_loader, texts)
                if len(overrides) > 1 and shape not in families:
                    places = [i for i, text in enumerate(texts) if text in swept]
                    families[shape] = _family(config_loader, next_point, [parsed[text] for text in texts], places)
            points.append(next_point)
            one_more()
    return points


def _parse(config_loader: ConfigLoader, overrides: Sequence[Sequence[str]]) -> dict[str, Override]:
    parser = OverridesParser.create(config_loader=config_loader)
    texts = list(dict.fromkeys(text for point in overrides for text in point))
    return dict(zip(texts, parser.parse_overrides(texts), strict=True))


def _family(config_loader: ConfigLoader, first: Point, overrides: list[Override], places: list[int]) -> Family | None:
    """None where the order of the overrides matters, or a key is not a plain node."""
    if not places or any(o.is_add() or o.is_delete() for o in overrides[places[0] :]):
        return None
    keys = {
        i: hydra_internals.split_key(o.key_or_group) for i, o in enumerate(overrides) if not _chooses(config_loader, o)
    }
    if any(_related(keys[i], other) for i in places for j, other in keys.items() if i != j):
        return None
    try:
        return Family(first, [overrides[i].key_or_group for i in places])
    except NotPlain:
        return None


def _chooses(config_loader: ConfigLoader, override: Override) -> bool:
    """Whether it is a group's choice: those come before every key, wherever they stand."""
    return _is_group(config_loader, override.key_or_group) and not isinstance(override.value(), dict)


def _sibling(family: Family, texts: Sequence[str], values: Sequence[Override]) -> Sibling | None:
    """None where the family cannot give it: then Hydra composes it, or says why not."""
    try:
        return Sibling(tuple(texts), family, family.changes(values), family.notes)
    except (HydraException, OmegaConfBaseException):
        return None


def _sets_plain_value(config_loader: ConfigLoader, override: Override) -> bool:
    if override.is_add() or override.is_delete() or override.is_sweep_override() or override.package is not None:
        return False
    key = override.key_or_group
    if key.split(".")[0] == "hydra" or "/" in key or "[" in key or _is_group(config_loader, key):
        return False
    value = override.value()
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or isinstance(value, bool | int | float)


def _is_group(config_loader: ConfigLoader, key: str) -> bool:
    return bool(config_loader.repository.group_exists(key))  # type: ignore[attr-defined]
