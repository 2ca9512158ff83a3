"""Which GPUs train and which generate (RL algorithms/grpo.py, setup: the clusters that it cuts the nodes into)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nano_exp import alike
from nano_exp.dotted import Config

_OWN = "policy.generation.colocated.resources"


class World(NamedTuple):
    """GPUs by what they do; None where the config does not say, or leaves none.

    Parameters
    ----------
    nodes: those that are left beside a reward model; None where teachers take some too: their number is not read
    reward_model: nodes, and GPUs of a node, that a reward model takes for itself; (0, 0) without one
    """

    nodes: int | None
    training: int | None
    generating: int | None
    reward_model: tuple[int, int]


def of_config(config: Mapping[str, Any]) -> World:
    """Read a resolved config."""
    settings = Config(config)
    nodes, gpus = (settings.count(f"cluster.{name}", 0) or None for name in ("num_nodes", "gpus_per_node"))
    reward = _reward_model(settings)
    policy_nodes = nodes if nodes is None or nodes == 1 else nodes - reward[0]
    if settings.on("on_policy_distillation.non_colocated_teachers.enabled"):
        policy_nodes = None
    colocated = settings.on("policy.generation.colocated.enabled", True)
    generating = None if colocated else _separate(settings, policy_nodes)
    if policy_nodes is None or gpus is None or not (colocated or generating):
        return World(policy_nodes, None, generating, reward)
    reward_gpus = reward[1] if nodes == 1 else 0
    training = (
        (gpus - reward_gpus) * policy_nodes if colocated else policy_nodes * gpus - reward_gpus - (generating or 0)
    )
    trainers = training if training > 0 else None
    return World(policy_nodes, trainers, trainers if colocated else generating, reward)


def _separate(config: Config, nodes: int | None) -> int | None:
    """GPUs that generate and do nothing else."""
    generating_nodes, per_node = (config.count(f"{_OWN}.{name}", 0) or None for name in ("num_nodes", "gpus_per_node"))
    if nodes == 1:
        return per_node
    return generating_nodes * per_node if generating_nodes and per_node else None


def _reward_model(config: Config) -> tuple[int, int]:
    data, _ = alike.flat(config.section("data").values)
    if not any(data[key] == "reward_model" for key in data if f".{key}".endswith(".env_name")):
        return 0, 0
    resources = config.section("env.reward_model.resources")
    return _size(resources.get("num_nodes")), _size(resources.get("gpus_per_node"))


def _size(value: Any) -> int:
    return value if type(value) is int else 0
