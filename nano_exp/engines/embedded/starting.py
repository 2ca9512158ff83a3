"""Whether a checkpoint fits a run that starts from it, and how the run gets it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nano_exp.engines import origin as origins
from nano_exp.engines.embedded import checkpoint
from nano_exp.engines.embedded.settings import MODEL
from nano_exp.engines.origin import FORK, INIT, Origin
from nano_exp.errors import UserError

Config = Mapping[str, Any]
WEIGHTS, OPTIMIZER = "policy/weights.pt", "policy/optimizer.pt"
PENALTY = "loss_fn.reference_policy_kl_penalty"
_ENGINE = "this engine reads checkpoints of its own"


def fits(config: Config, origin: Origin, source: Config) -> None:
    """Refuse a source whose weights, or for a fork all of whose checkpoint, this run cannot take. Raises UserError."""
    name = (source.get("engine") or {}).get("name")
    if name != "embedded" or not (origin.is_open or (origin.path / WEIGHTS).is_file()):
        raise UserError(
            f"{origin.key}={origin.typed}: no checkpoint of the embedded engine in {origin.path}",
            _ENGINE,
            f"{origin.key}=RUN@best, or the path of a step_N",
        )
    origins.require_same(config, source, origin, {MODEL: "its tensors have other shapes"})
    if origin.is_open:
        return
    if problem := checkpoint.damage(origin.path):
        raise UserError(f"{origin.path} is damaged: {problem}", "its weights would be wrong", "another step")
    if origin.key == INIT:
        return
    origins.require_fork(config, source, origin)
    origins.require_same(config, source, origin, {"engine.warm_start": "the warm start is over at that step"})
    if not (origin.path / OPTIMIZER).is_file():
        raise origins.no_optimizer(origin, OPTIMIZER)
    before, now = ((one.get("loss_fn") or {}).get("reference_policy_kl_penalty") for one in (source, config))
    if now and not before:
        raise UserError(
            f"{FORK}={origin.typed} and {PENALTY}={now}",
            "that run had no KL penalty, so its checkpoint has no reference policy",
            f"{INIT}={origin.typed}, whose reference policy is what it starts from",
        )


def initial(config: Config) -> dict[str, object]:
    """What tells the engine where its first weights are."""
    origin = origins.of(config, INIT)
    return {} if origin is None else {"engine.init_from": str(origin.path)}


def readable(config: Config, origin: Origin) -> bool:
    """Always: it reads its checkpoints as they are."""
    return True
