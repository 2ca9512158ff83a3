"""Compose the real conf/ and read it as flat, dotted keys."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nano_exp.compose import resolvers
from nano_exp.store.run_config import engine_config

CONF = Path(__file__).resolve().parents[2] / "conf"
MISSING = "<no such key>"


@cache
def _composed(overrides: tuple[str, ...]) -> Any:
    resolvers.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(overrides))
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def whole(*overrides: str) -> dict[str, Any]:
    """The composed and resolved config, the launcher's sections included."""
    return copy.deepcopy(_composed(overrides))


def nemo_rl(*overrides: str) -> dict[str, Any]:
    """NeMo RL's sections of it."""
    return engine_config(whole(*overrides))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists and empty mappings are values."""
    return dict(_leaves(config, prefix))


def _leaves(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in a, value in b) where they differ; 1, 1.0 and True are three values."""
    left, right = flat(a), flat(b)
    pairs = {key: (left.get(key, MISSING), right.get(key, MISSING)) for key in {*left, *right}}
    return {key: (x, y) for key, (x, y) in pairs.items() if repr(x) != repr(y)}
