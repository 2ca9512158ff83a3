"""A fork as a launch: the words of its source, the checkpoint, and what changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nano_exp.engines.origin import FORK, Origin
from nano_exp.errors import UserError
from nano_exp.launch import points
from nano_exp.overrides import Override
from nano_exp.store import identity
from nano_exp.store.runs import Run
from nano_exp.text import as_typed


def words(run: Run, origin: Origin, changes: Sequence[str]) -> list[str]:
    """What launch.py is given. A word of the source's that is about a changed key goes."""
    changed = {Override.parse(word).key for word in changes} | {FORK}
    first = [word for word in run.overrides if Override.parse(word).key not in changed]
    named = [] if {"run.name"} & {Override.parse(word).key for word in (*first, *changes)} else [f"run.name={run.name}"]
    return [*first, *named, f"run.results={run.results}", f"{FORK}={origin.typed}", *changes]


def require_same_config(run: Run, source: Mapping[str, Any]) -> None:
    """Refuse where the source's words give another config by now: the fork would differ in more than was asked for."""
    name = [] if any(Override.parse(word).key == "run.name" for word in run.overrides) else [f"run.name={run.name}"]
    now = points.expanded([*run.overrides, *name, f"run.results={run.results}"]).frozen[0].config
    different = identity.differences(source, now)
    if different:
        key, (old, new) = next(iter(different.items()))
        raise UserError(
            f"{run.id}: its words now give {key}={as_typed(new)}, and it had {as_typed(old)} ({len(different)} differ)",
            "conf/ has changed since, so a fork would change more than what you type",
            f"git checkout the conf/ that it was launched with, or type {key}={as_typed(old)} too",
        )


def stays(origin: Origin, source: Mapping[str, Any]) -> list[str]:
    """What a fork keeps of its source, in words."""
    penalty = (source.get("loss_fn") or {}).get("reference_policy_kl_penalty")
    reference = "the reference policy is still what that run began with" if penalty else "there is no KL penalty"
    return [
        f"a fork of {origin.typed}, from a copy of {origin.path}",
        f"  stays: weights, optimizer, the place in the data; {reference}",
        f"  goes on: steps and the learning-rate schedule count on from {origin.step}; the source's rows stay with it",
    ]
