"""What an attempt changes in what its engine reads, so that a run may pause at a rung and go on as if it never had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nano_exp.dotted import Config

MAX_STEPS, MAX_EPOCHS, AT_END = "grpo.max_num_steps", "grpo.max_num_epochs", "grpo.val_at_end"
SCHEDULER = "policy.megatron_cfg.scheduler"
OVERRIDE, DECAY, STYLE = (
    f"{SCHEDULER}.{key}" for key in ("override_opt_param_scheduler", "lr_decay_iters", "weight_decay_incr_style")
)


def on_megatron(config: Mapping[str, Any]) -> bool:
    read = Config(config)
    return read.has("policy.megatron_cfg.enabled") and read.get("policy.megatron_cfg.enabled") is True


def overlay(config: Mapping[str, Any], goal: int, whole: int) -> dict[str, object]:
    """Dotted key -> value.

    A learning rate falls over the whole run: its schedule was resolved from the whole run's steps. Megatron-Bridge
    takes a null lr_decay_iters from the attempt's steps, and refuses a checkpoint of another number of them unless
    override_opt_param_scheduler is set (models/megatron/setup.py; grpo.py 819 at v0.7.0): so in every attempt.

    Parameters
    ----------
    goal: the step that this attempt trains to
    whole: that of the run
    """
    read = Config(config)
    changes: dict[str, object] = {}
    if on_megatron(config):
        changes[OVERRIDE] = True
        if read.has(DECAY) and read.get(DECAY) is None:
            changes[DECAY] = whole
    if goal < whole:
        changes[MAX_STEPS] = goal
        if read.has(AT_END):  # from v0.6.0 on
            changes[AT_END] = True
    return changes
