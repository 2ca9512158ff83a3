"""What `nano_exp.compose.quick` makes points of: a composition of Hydra's as plain data, where it has a quick way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from nano_exp import hydra_internals
from nano_exp.compose import BASE, CONF_DIR, compose, conf_tree, kept, resolving
from nano_exp.compose.plain_values import NotPlain, Resolver
from nano_exp.errors import UserError

#: Of hydra.launcher, what a launch has its own of, whatever is set.
_UNREAD = ("_target_", "name", "submitit_folder")
_OURS = ("hydra_plugins.nano_exp.NanoExpLauncher", "hydra_plugins.nano_exp.NanoExpSweeper")


def of(config_loader: ConfigLoader, chosen: Sequence[str], keys: Sequence[str]) -> dict[str, Any] | None:
    """The data for points of these options; None where they have no quick way.

    Parameters
    ----------
    chosen: overrides that choose options
    keys: those of the other overrides
    """
    if not _is_as_expected(config_loader, chosen, keys):
        return None
    before = kept.count
    try:
        whole = conf_tree.plain(config_loader, chosen)
        point = compose.point(chosen, whole)
        resolved = resolving.resolve(point.cfg)
    except (*compose.TYPED, UserError):
        return None
    if kept.count == before or not _is_plain(whole):  # what is kept depends on files alone
        return None
    config = cast(dict[str, Any], OmegaConf.to_container(whole, resolve=False))
    hydra = config.pop("hydra")
    launcher = {key: value for key, value in hydra["launcher"].items() if key not in _UNREAD}
    kinds = hydra_internals.kinds(whole.hydra.launcher)
    stored = {
        "config": config,
        "choices": {str(group): option for group, option in hydra["runtime"]["choices"].items()},
        "launcher": launcher,
        "kinds": {key: kind for key, kind in kinds.items() if key in launcher},
    }
    return stored if _is_exact(stored, resolved) else None


def _is_as_expected(config_loader: Any, chosen: Sequence[str], keys: Sequence[str]) -> bool:
    """Whether Hydra looks where `quick` does, and takes the same words for choices."""
    repository = config_loader.repository
    groups = [word.partition("=")[0] for word in chosen]
    sources = [(source.scheme(), source.path) for source in repository.get_sources()]
    others = [path for scheme, path in sources if scheme == "file" and path not in (str(BASE), str(CONF_DIR))]
    unknown = [scheme for scheme, path in sources if scheme != "file" and path not in ("hydra.conf", "")]
    as_groups = all(map(repository.group_exists, groups)) and not any(map(repository.group_exists, keys))
    return as_groups and not others and not unknown


def _is_plain(whole: DictConfig) -> bool:
    """Whether Hydra only composes: our launcher and sweeper, one point, nothing to call, no values with types."""
    hydra = whole.hydra
    targets = (OmegaConf.select(hydra, "launcher._target_"), OmegaConf.select(hydra, "sweeper._target_"))
    return (
        targets == _OURS
        and not hydra.sweeper.get("params")
        and not hydra.callbacks
        and not hydra.searchpath
        and hydra_internals.are_untyped(whole, but="hydra")
    )


def _is_exact(stored: dict[str, Any], resolved: dict[str, Any]) -> bool:
    """Whether nothing is lost when it is written, and the quick way gives what OmegaConf gives."""
    text = json.dumps(stored)
    config = json.loads(text)["config"]
    config.pop("sweep", None)
    try:
        quickly = Resolver(config).resolved(config)
    except NotPlain:
        return False
    return json.loads(text) == stored and json.dumps(quickly) == json.dumps(resolved)
