"""Computing all values of a composed config, and the words for those that cannot be computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from nano_exp import dotted
from nano_exp.compose import launcher_settings
from nano_exp.compose.conf_tree import raw
from nano_exp.dotted import at
from nano_exp.errors import UserError, nearest


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """All values computed; every `???` and broken interpolation is named with its key."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise _missing(cfg) or _broken(error, cfg) from error


def _missing(cfg: DictConfig) -> UserError | None:
    """The keys without a value, which computing one by one finds; None where there are none."""
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
    except OmegaConfBaseException:
        return None
    if not missing:
        return None
    return UserError(
        f"no value for {', '.join(missing)}",
        "the config marks it as ??? : only you can know it",
        " ".join(f"{key}=..." for key in missing),
    )


def _broken(error: OmegaConfBaseException, cfg: DictConfig) -> UserError:
    key = str(error.full_key or "a key")
    text = str(
        (OmegaConf.select(cfg, key.rsplit(".", 1)[0], default=None) and _text_at(cfg, key)) or "an interpolation"
    )
    first = str(error).splitlines()[0]
    if isinstance(error, InterpolationKeyError):
        name_typed = first.split("'")[1] if "'" in first else text
        known = list(dotted.leaves(raw(cfg)))
        near = nearest(name_typed, known)
        fix = " or ".join(f"'{key}={text.replace(name_typed, name)}'" for name in near)
        fix = fix or f"++{name_typed}=<its value>, or a plain value for {key}"
        return UserError(f"{key} is {text}", f"there is no key '{name_typed}' to take the value from", fix)
    if isinstance(error, InterpolationResolutionError):
        zero = _zero(text, dotted.leaves(raw(cfg))) if "ZeroDivision" in first else None
        if zero is not None:
            return UserError(f"{zero}=0", f"{key} is divided by it", f"{zero}=<a number above 0>")
        for name in re.findall(_READS, text):
            if mistake := _wrong_kind(raw(cfg), name, f"{key} is {text}"):
                return mistake
        return UserError(f"{key} is {text}", first, f"give {key} a plain value: {key}=...")
    return UserError(f"{key}: {first}", "its value cannot be computed", f"give {key} a plain value: {key}=...")


#: The keys that an interpolation takes values from.
_READS = r"\$\{([\w.]+)\}"


def _zero(text: str, values: Mapping[str, Any]) -> str | None:
    """The key with a plain 0 that an interpolation reads, itself or through others."""
    for name in re.findall(_READS, text):
        value = values.get(name)
        divisor = name if value == 0 else _zero(value, values) if isinstance(value, str) else None
        if divisor is not None:
            return divisor
    return None


def _wrong_kind(config: Mapping[str, Any], name: str, reader: str) -> UserError | None:
    """A word where a reader's arithmetic wants a number, or a value where it wants a section."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        above = ".".join(parts[:depth])
        if (value := at(config, tuple(parts[:depth]))) is not None and not isinstance(value, Mapping | list):
            return UserError(
                f"{above}={launcher_settings.shown(value)}",
                f"{reader}, which needs a section there",
                f"leave {above}=... out",
            )
    value = at(config, tuple(parts))
    if launcher_settings.NUMBER.fits(value) or (isinstance(value, str) and "${" in value):
        return None
    return UserError(
        f"{name}={launcher_settings.shown(value)}",
        f"{reader}, which needs a number there",
        launcher_settings.instead(name, value, launcher_settings.NUMBER),
    )


def _text_at(cfg: DictConfig, key: str) -> Any:
    node: Any = raw(cfg)
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdigit():
            node = node[int(part)]
    return node
