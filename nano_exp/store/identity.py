"""A run's identity: a pure function from its resolved config to a short id.

Two configs have the same id exactly when NeMo RL (or the embedded engine) would read the same values. What is left out
is `LEFT_OUT` and nothing else: where results go, how they are tracked, ports, Slurm, and the launcher's own knobs and
facts, whose effect is counted at the key that the engine reads. Model names, data paths and the NeMo RL version count.
"""

from __future__ import annotations

import hashlib
import json
import marshal
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from nano_exp import alike
from nano_exp.dotted import Keys, leaves

#: Keys (with all below them) that do not make another run, with the reason.
LEFT_OUT: dict[str, str] = {
    "run": "name, tags and folder of the run: output",
    "slurm": "Slurm: resources do not change the result",
    "site": "the place: account, partition, checkout and cache paths",
    "dry_run": "launcher",
    "wait": "launcher",
    "submit": "launcher",
    "fresh": "launcher",
    "show_yaml": "launcher",
    "yes": "launcher",
    "ignore": "launcher",
    "parallel": "launcher",
    "pack": "launcher",
    "after": "launcher",
    "fail_fast": "launcher",
    "canary": "launcher",
    "budget": "launcher",
    "stop": "launcher: when a run counts as lost; launched without the rule the same run goes on",
    "halving": "launcher: to which rung a run trains first; launched without rungs the same run goes on",
    "after_training": "launcher: what is done with a run that is done",
    "init_from.path": "where the source's checkpoint lies: its run and step count (of a bare path, the path)",
    "fork_from.path": "where the source's checkpoint lies: its run and step count",
    "optimizer": "knobs: counted at policy.optimizer and policy.megatron_cfg.optimizer, which interpolate from them",
    "model": "facts about the model: policy.model_name and policy.hf_config_overrides are what the engine reads",
    "nemo_rl.commit": "follows from nemo_rl.version",
    "nemo_rl.recipe": "the name of the recipe; its values count",
    "nemo_rl.recipe_files": "the files of a recipe; their values count",
    "nemo_rl.scripts": "follow from nemo_rl.version",
    "engine.device": "placement of the embedded engine",
    "engine.threads": "placement of the embedded engine",
    "engine.setup_margin_min": "when to save before the time limit",
    "engine.save_margin_min": "when to save before the time limit",
    "engine.ray_address": "placement",
    "engine.ports": "port",
    "engine.dashboard": "tracking",
    "engine.join_deadline_s": "how long to wait for a node",
    "engine.patience_min": "how long a phase may take before it counts as stalled",
    "logger": "tracking and output",
    "checkpointing.checkpoint_dir": "output",
    "checkpointing.checkpoint_must_save_by": "when to save before the time limit",
    "policy.generation.vllm_cfg.tool_parser_plugin": "a path inside the model's snapshot, found on the node",
    "policy.generation.port_range_low": "port",
    "policy.generation.port_range_high": "port",
    "env.nemo_gym.port_range_low": "port",
    "env.nemo_gym.port_range_high": "port",
    "cluster.master_port_range_low": "port",
    "cluster.master_port_range_high": "port",
}

#: Those of them that an engine reads, and that are each launch's own: a run that is launched again gets the new ones.
PLACEMENT = tuple(
    key
    for key in LEFT_OUT
    if key.split(".")[0] in ("engine", "policy", "env", "cluster") or key.endswith(".checkpoint_must_save_by")
)

ID_LENGTH = 10  # hex digits: 40 bits, a chance of 5e-7 that two of 1,000 runs collide; a collision is found and refused


@lru_cache(maxsize=4096)
def counts(key: str) -> bool:
    """Whether a dotted key is part of the identity."""
    parts = key.split(".")
    return not any(".".join(parts[: i + 1]) in LEFT_OUT for i in range(len(parts)))


def _canonical(value: Any) -> Any:
    """The same JSON value for values that mean the same: 1 and 1.0, 1e-6 and 0.000001, a tuple and a list."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    raise TypeError(f"a {type(value).__name__} cannot be part of a frozen config: {value!r}")


def content(config: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys and values that the identity is made of, in canonical form."""
    return {key: _canonical(value) for key, value in leaves(config).items() if counts(key)}


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of `content(config)`."""
    return hashlib.sha256("".join(text for _, text in _parts(config)).encode()).hexdigest()


def digests(configs: alike.Configs) -> list[str]:
    """The same of each config."""
    texts = alike.Texts(configs, _parts, _part)
    return [hashlib.sha256(texts.of(index).encode()).hexdigest() for index in range(len(configs))]


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """The canonical JSON of a config's content, cut into its members, each with the path of its value."""
    members = sorted(member for key, value in config.items() for member in _members(str(key), value))
    yield (), "{"
    for number, (path, text) in enumerate(members):
        yield (), "," if number else ""
        yield tuple(path.split(".")), text
    yield (), "}"


def _part(path: Keys, value: Any) -> str:
    return _members(".".join(path), value)[0][1]


def _members(path: str, value: Any) -> tuple[tuple[str, str], ...]:
    """(dotted key, canonical JSON of key and value) of the leaves below a path, kept by value: the points of a sweep
    share most of them."""
    if not isinstance(value, Mapping) or not value:
        return ((path, f"{_json(path)}:{_json(_canonical(value))}"),) if counts(path) else ()
    try:
        return _kept_members(path, marshal.dumps(value))  # type: ignore[arg-type]
    except ValueError:  # not plain data: `_canonical` has the words for it
        return _inner_members(path, value)


@lru_cache(maxsize=512)
def _kept_members(path: str, value: bytes) -> tuple[tuple[str, str], ...]:
    return _inner_members(path, marshal.loads(value))


def _inner_members(path: str, value: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(member for key, inner in value.items() for member in _members(f"{path}.{key}", inner))


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def run_id(config_digest: str, generation: int = 1) -> str:
    """The run's id: `r` and the digest's first digits; a fresh start of the same config is `-2`, `-3`, ..."""
    base = "r" + config_digest[:ID_LENGTH]
    return base if generation == 1 else f"{base}-{generation}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of the identity whose values differ, as key -> (old, new); an absent key's value is None."""
    a, b = content(old), content(new)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}
