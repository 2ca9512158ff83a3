"""Put our interpolations in the place of a recipe's numbers, where they give the same value.

So one knob (`optimizer.lr`, `grpo.num_generations_per_prompt`) moves all that upstream's authors derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nano_exp.nemo_rl.published import Tie

#: Knobs of conf/optimizer: name -> the key of it below (policy.megatron_cfg.optimizer, policy.optimizer.kwargs).
_KNOBS: dict[str, tuple[str | tuple[str, ...], str | None]] = {
    "lr": ("lr", "lr"),
    "weight_decay": ("weight_decay", "weight_decay"),
    "betas": (("adam_beta1", "adam_beta2"), "betas"),
    "eps": ("adam_eps", "eps"),
    "min_lr": ("min_lr", None),
}
_ABSENT = object()


def tie(config: DictConfig, context: Mapping[str, Any], ties: Sequence[Tie]) -> None:
    """Put the ties into `config`, in place.

    Parameters
    ----------
    context: the sections `optimizer` and `model` that the interpolations refer to
    """
    for name, section in context.items():
        config[name] = section
    for entry in ties:
        for key in entry.keys:
            _tie_one(config, key, entry.to)
    for name in context:
        del config[name]


def _tie_one(config: DictConfig, key: str, texts: Sequence[str]) -> None:
    value = value_of(config, key)
    if value is _ABSENT or value is None:
        return
    written = _raw(config, key)
    for text in texts:
        OmegaConf.update(config, key, text)
        if repr(value_of(config, key)) == repr(value):
            return
    OmegaConf.update(config, key, written)


def knobs(config: DictConfig, default: Mapping[str, Any]) -> dict[str, Any]:
    """The section `optimizer` for a recipe: the values that it trains with, where they are not `default`'s.

    min_lr follows lr where it can: a tenth of it, as `default` has it, or the same.
    """
    megatron = bool(value_of(config, "policy.megatron_cfg.enabled") is True)
    order = ("policy.megatron_cfg.optimizer", "policy.optimizer.kwargs")
    values: dict[str, Any] = {}
    for knob, names in _KNOBS.items():
        pairs = list(zip(order, names, strict=True))
        for section, name in pairs if megatron else reversed(pairs):
            value = _knob(config, section, name)
            if value is not _ABSENT and value is not None:
                values[knob] = value
                break
    changed = {
        knob: value for knob, value in values.items() if knob != "min_lr" and repr(default.get(knob)) != repr(value)
    }
    floor = value_of(OmegaConf.create({"optimizer": {**default, **changed}}), "optimizer.min_lr")
    if "min_lr" in values and repr(floor) != repr(values["min_lr"]):
        same = repr(values.get("lr")) == repr(values["min_lr"])
        changed["min_lr"] = "${optimizer.lr}" if same else values["min_lr"]
    return changed


def _knob(config: DictConfig, section: str, name: str | tuple[str, ...] | None) -> Any:
    if name is None:
        return _ABSENT
    if isinstance(name, str):
        return value_of(config, f"{section}.{name}")
    values = [value_of(config, f"{section}.{part}") for part in name]
    return _ABSENT if any(v is _ABSENT or v is None for v in values) else values


def value_of(config: DictConfig, key: str) -> Any:
    """The resolved value of a dotted key; `_ABSENT` where there is none or it cannot be computed."""
    try:
        value = OmegaConf.select(config, key, default=_ABSENT, throw_on_missing=True)
    except OmegaConfBaseException:
        return _ABSENT
    if isinstance(value, DictConfig | ListConfig):
        return OmegaConf.to_container(value, resolve=True)
    return value


def has(config: DictConfig, key: str) -> bool:
    """Whether a dotted key is there, `???` included."""
    parent, _, name = key.rpartition(".")
    try:
        node = OmegaConf.select(config, parent) if parent else config
    except OmegaConfBaseException:
        return False
    return isinstance(node, DictConfig) and name in set(node)  # `in` of the section itself says no for `???`


def lacks(config: DictConfig, key: str) -> bool:
    """Whether a dotted key is absent, or `???`."""
    parent, _, name = key.rpartition(".")
    return not has(config, key) or OmegaConf.is_missing(OmegaConf.select(config, parent), name)


def _raw(config: DictConfig, key: str) -> Any:
    """The text of a key as it is written."""
    path, _, name = key.rpartition(".")
    node = OmegaConf.select(config, path)
    return OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index,call-overload]
