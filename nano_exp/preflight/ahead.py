"""`nano-exp prepare` with the words of a launch: what is told to be typed before it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nano_exp.overrides import Override

#: Groups and sections that change nothing of what is made ahead.
_APART = ("optimizer", "sweeps", "run", "grpo", "loss_fn", "checkpointing", "logger", "ignore", "slurm", "hydra")
#: Weights that other runs make are no part of it.
_ORIGINS = ("init_from", "fork_from")


def command(overrides: Sequence[str]) -> str:
    """What prepares for runs of these overrides, without those that it does not depend on."""
    return shlex.join(["nano-exp", "prepare", *(word for word in overrides if _counts(word))])


def shared(points: Sequence[Sequence[str]]) -> str:
    """What prepares for all points of a launch: where they differ in what counts, each of the values."""
    if len({command(one) for one in points}) < 2:
        return command(points[0])
    values: dict[str, dict[str, None]] = {}
    for word in (word for one in points for word in one if _counts(word)):
        key, _, value = word.partition("=")
        values.setdefault(key, {})[value] = None
    return command([f"{key}={','.join(each)}" if any(each) else key for key, each in values.items()])


def _counts(override: str) -> bool:
    return Override.parse(override).section.partition("/")[0] not in (*_APART, *_ORIGINS)
