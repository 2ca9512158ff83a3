"""The launcher's own settings: what each of them may be. NeMo RL's keys have its own types (`preflight.known`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from nano_exp import files, synonyms
from nano_exp.compose import BASE
from nano_exp.errors import UserError, nearest
from nano_exp.store.phase import LABELS


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Parameters
    ----------
    says: what it is, in words
    fits: whether a value is one
    """

    says: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)  # 123 may be an account


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.says}, or null", lambda value: value is None or kind.fits(value))


def _list_of(fits: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) in (length or len(value),) and all(map(fits, value))


WHOLE = Kind("a whole number", lambda value: type(value) is int)
COUNT = Kind("a whole number, at least 1", lambda value: type(value) is int and value >= 1)
NUMBER = Kind("a number", _is_number)
POSITIVE = Kind("a number, at least 0", lambda value: _is_number(value) and value >= 0)
TEXT = Kind("a text", _is_text)
NAME = Kind("a name that is not empty", lambda value: _is_text(value) and bool(str(value).strip()))
TEXT_OR_NULL = _or_null(TEXT)
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
TEXTS = Kind("a list of texts", _list_of(_is_text))
NUMBERS = Kind("two numbers", _list_of(_is_number, 2))
COUNTS = Kind("a list of whole numbers, at least 1", _list_of(COUNT.fits))
PART = Kind("a part, above 0 and at most 1 (0.25 is a quarter)", lambda value: _is_number(value) and 0 < value <= 1)
ABOVE_0 = Kind("a number above 0", lambda value: _is_number(value) and 0 < value < math.inf)
PER_CENT = Kind("a number from 0 to 100", lambda value: _is_number(value) and 0 <= value <= 100)
SHARE = Kind("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1)
PORTS = Kind("two ports, the lowest and the highest", _list_of(lambda port: type(port) is int, 2))
PATIENCE = Kind(
    "auto, a number of minutes, or 0 or null for none",
    lambda value: value is None or value == "auto" or (_is_number(value) and value >= 0),
)
SECTION = Kind("a section of keys", lambda value: isinstance(value, Mapping))
VARIABLES = Kind("a section of names and values, or null", lambda value: value is None or isinstance(value, Mapping))
#: What has its own reader, with words of its own.
ANY = Kind("anything", lambda value: True)


def _one_of(*words: str) -> Kind:
    return Kind(f"one of {', '.join(words)}", lambda value: value in words)


#: What the keys of the launcher's own sections may be; conf/ says which keys there are.
SETTINGS: dict[str, Kind] = {
    **{f"run.{key}": kind for key, kind in {"name": ANY, "tags": TEXTS, "results": TEXT_OR_NULL}.items()},
    "slurm.where": _one_of("slurm", "local"),
    **{f"slurm.{key}": COUNT for key in ("parallel_local", "max_attempts", "max_idle_attempts")},
    "slurm.cpus_per_node": _or_null(COUNT),
    **{"slurm.max_array": _or_null(COUNT), "slurm.requeue": SWITCH},
    **{"sweep.constraints": ANY, "sweep.metric": TEXT},
    **{f"stop.{key}": COUNT for key in ("after", "window")},
    **{"halving.rungs": COUNTS, "halving.keep": SHARE, "halving.metric": NAME, "halving.higher_is_better": SWITCH},
    **{f"stop.{key}": _or_null(COUNT) for key in ("flat_steps", "nonfinite_steps", "truncated_steps", "behind")},
    **{"stop.reward_collapse": _or_null(PART), "stop.mixed_below": _or_null(PER_CENT)},
    **{f"stop.{key}": _or_null(ABOVE_0) for key in ("kl_above", "entropy_below", "entropy_above")},
    **{f"optimizer.{key}": NUMBER for key in ("lr", "min_lr", "weight_decay", "eps")},
    **{"optimizer.betas": NUMBERS, "optimizer.warmup_steps": NUMBER},
    **{f"site.{key}": TEXT_OR_NULL for key in ("partition", "gpu", "account", "qos", "checkout", "python")},
    **{f"site.{key}": TEXT_OR_NULL for key in ("venv_dir", "uv_cache_dir", "hf_home")},
    **{f"site.{key}": TEXTS for key in ("srun", "modules", "node_setup", "setup")},
    **{"site.name": TEXT, "site.env": VARIABLES, "site.timeout_min": COUNT, "site.fence_s": POSITIVE},
    "site.allocation": _or_null(_one_of("node", "share")),
    "site.cpus_per_gpu": _or_null(COUNT),
    **{f"site.{key}": _or_null(POSITIVE) for key in ("memory_gb", "memory_gb_per_gpu")},
    "site.gres": TEXT_OR_NULL,
    "site.network": _or_null(SWITCH),
    "site.changed_checkout": _one_of("stop", "continue"),
    "site.entry": _one_of("bare", "pyxis", "apptainer"),
    "site.on_stall": _one_of("report", "restart"),
    **{"site.stall_factor": POSITIVE, "site.stall_minutes": POSITIVE, "site.notify": ANY},
    **{"site.container": SECTION, "site.container.image": TEXT_OR_NULL, "site.container.workdir": TEXT_OR_NULL},
    **{"site.container.mounts": TEXTS, "site.container.flags": TEXTS},
    **{"engine.name": TEXT, "engine.ray_address": TEXT_OR_NULL, "engine.dashboard": SWITCH, "engine.ports": SECTION},
    **{f"engine.{key}": POSITIVE for key in ("setup_margin_min", "save_margin_min", "join_deadline_s")},
    "engine.patience_min": SECTION,
    **{f"engine.patience_min.{phase}": PATIENCE for phase in LABELS},
    **{f"engine.ports.{key}": COUNT for key in ("gcs", "client", "dashboard")},
    "engine.ports.workers": PORTS,
}
#: What nano-exp itself reads of the engine's sections.
READ = {
    **dict.fromkeys(("cluster.num_nodes", "cluster.gpus_per_node", "grpo.max_num_steps"), WHOLE),
    **{"nemo_rl.version": TEXT, "nemo_rl.scripts": SECTION, "nemo_rl.scripts.grpo": TEXT, "nemo_rl.scripts.gym": TEXT},
}
#: The launcher's own sections -> the files of conf/ that have all of their keys.
OWN = {
    **dict.fromkeys(("run", "slurm", "sweep", "halving"), ("config",)),
    "site": ("site/default",),
    "stop": ("stop/grpo",),
    "optimizer": ("optimizer/adamw", "optimizer/tiny"),
    "engine": ("engine/nemo_rl",),
}
#: Those of them that only conf/config.yaml has; a site or an engine may be an older copy that lacks a newer key.
_WHOLE_SECTIONS = ("run", "slurm")
#: Sections that every run has.
SECTIONS = ("run", "slurm", "site", "optimizer", "engine", "nemo_rl", "cluster", "grpo", "policy")


def require(config: Mapping[str, Any], whole: bool = True) -> None:
    """Check a config's sections and the launcher's own keys, resolved or not: an interpolation is not looked at.

    Parameters
    ----------
    whole: whether every section has to be there; without a recipe, as what a sweep's points share, some are not

    Raises
    ------
    UserError: a section that is none, a key that is not the launcher's, or a value of another kind
    """
    for section in ("checkpointing", "logger", "sweep", "stop", "halving", *SECTIONS):
        if whole or section in config:
            _require_section(config, section)
    for section in OWN:
        if section != "engine" or (config.get("engine") or {}).get("name") == "nemo_rl":  # the other judges its own
            for key, value in _values(config.get(section) or {}, section):
                _require_value(key, value)
    for key in _always_read() if whole else ():
        _require_kind(key, _value_at(config, key), READ.get(key, ANY))
    if "wandb" in (config.get("logger") or {}):
        _require_kind("logger.wandb", config["logger"]["wandb"], VARIABLES)


@cache
def _always_read() -> tuple[str, ...]:
    return (*READ, *sorted(name for name in names() if name.split(".")[0] in _WHOLE_SECTIONS))


def _value_at(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise UserError(f"no {key} in the config", "the launcher reads it", f"leave ~{key} out of the command")
        node = node[part]
    return node


@cache
def names() -> frozenset[str]:
    """Every key of the launcher's own sections, as conf/ has them."""
    settings: set[str] = set()
    for section, paths in OWN.items():
        for path in paths:
            content = files.read_yaml(BASE / f"{path}.yaml")
            settings.update(key for key, _ in _values(content[section] if path == "config" else content, section))
    return frozenset(settings)


def _require_section(config: Mapping[str, Any], section: str) -> None:
    if isinstance(config.get(section), Mapping):
        return
    if section in config:
        raise UserError(
            f"{section}={shown(config[section])}",
            "it is a section of keys, which are set one by one",
            f"leave {section}=... out of the command",
        )
    if section in SECTIONS:
        raise UserError(
            f"no {section} in the config",
            f"every run has a section {section}",
            f"leave ~{section} out of the command",
        )


def _values(section: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        path = f"{name}.{key}"
        yield path, value
        if SETTINGS.get(path) is SECTION and isinstance(value, Mapping):
            yield from _values(value, path)


def _require_value(key: str, value: Any) -> None:
    if key not in names():
        raise _unread(key, value)
    _require_kind(key, value, SETTINGS.get(key, ANY))


def _require_kind(key: str, value: Any, kind: Kind) -> None:
    if not (isinstance(value, str) and ("${" in value or value == "???")) and not kind.fits(value):
        raise UserError(f"{key}={shown(value)}", f"it must be {kind.says}", instead(key, value, kind))


def _unread(key: str, value: Any) -> UserError:
    section = key.rpartition(".")[0]
    section_keys = sorted(name for name in names() if name.rpartition(".")[0] == section)
    synonym = synonyms.meant(key)
    likely = [*nearest(key, section_keys), *(name for name in (synonym.keys if synonym else ()) if name in names())]
    good = [name for name in dict.fromkeys(likely) if SETTINGS.get(name, ANY).fits(value)]
    return UserError(
        f"{key}={shown(value)}",
        f"nothing reads it; {section} has {', '.join(name.rpartition('.')[2] for name in section_keys)}",
        " or ".join(f"{name}={shown(value)}" for name in good) or f"leave {key} out",
    )


def instead(key: str, value: Any, kind: Kind) -> str:
    """What to type in the place of a value of another kind."""
    if kind in (TEXTS, NUMBERS, COUNTS) and not isinstance(value, list | dict) and kind.fits([value]):
        return f"{key}=[{shown(value)}]"
    if isinstance(value, list) and value and all(kind.fits(item) for item in value):
        several = f"{key}={','.join(map(shown, value))}"
        return several if len(value) == 1 else f"-m {several}, for a run of each value"
    if kind is SWITCH and str(value).lower() in ("yes", "on", "1", "no", "off", "0"):
        return f"{key}={'true' if str(value).lower() in ('yes', 'on', '1') else 'false'}"
    if kind.fits(2) and isinstance(value, float) and value.is_integer() and kind.fits(int(value)):
        return f"{key}={int(value)}"
    return f"leave {key}=... out, or give {kind.says}"


def shown(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{shown(inner)}' for key, inner in value.items())}}}"
    return str(value)
