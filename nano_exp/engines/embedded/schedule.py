"""Learning rate of a step and the deadline of a run: pure functions of what has happened, so a resume restores nothing.

policy.scheduler has NeMo RL's DTensor form: a list of torch schedulers with the steps at which one hands over to the
next (torch's SequentialLR), or one scheduler, or null for a constant rate. One scheduler step is one rollout, however
many optimizer updates it holds (nemo_rl/models/policy/workers/dtensor_policy_worker_v2.py, v0.7.0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Factor = Callable[[int, float, dict[str, Any]], float]


def _linear(step: int, lr: float, kwargs: dict[str, Any]) -> float:
    start, end = kwargs.get("start_factor", 1.0 / 3), kwargs.get("end_factor", 1.0)
    total = kwargs.get("total_iters", 5)
    done = 1.0 if total == 0 else min(step, total) / total
    return float(lr * (start + (end - start) * done))


def _constant(step: int, lr: float, kwargs: dict[str, Any]) -> float:
    return float(lr * kwargs.get("factor", 1.0 / 3)) if step < kwargs.get("total_iters", 5) else lr


def _cosine(step: int, lr: float, kwargs: dict[str, Any]) -> float:
    low = kwargs.get("eta_min", 0.0)
    return float(low + (lr - low) * (1 + math.cos(math.pi * step / kwargs["T_max"])) / 2)


SCHEDULERS: dict[str, tuple[Factor, frozenset[str]]] = {
    "torch.optim.lr_scheduler.LinearLR": (_linear, frozenset({"start_factor", "end_factor", "total_iters"})),
    "torch.optim.lr_scheduler.ConstantLR": (_constant, frozenset({"factor", "total_iters"})),
    "torch.optim.lr_scheduler.CosineAnnealingLR": (_cosine, frozenset({"T_max", "eta_min"})),
}


def learning_rate(step: int, lr: float, scheduler: list[dict[str, Any]] | dict[str, Any] | None) -> float:
    """The learning rate for the rollout that follows `step` finished ones.

    Parameters
    ----------
    step: finished rollouts
    lr: policy.optimizer.kwargs.lr
    scheduler: policy.scheduler
    """
    if not scheduler:
        return lr
    entries = [scheduler] if isinstance(scheduler, dict) else scheduler
    parts = [entry for entry in entries if "name" in entry]
    milestones = [mark for entry in entries for mark in entry.get("milestones", [])]
    stage = sum(step >= mark for mark in milestones)
    began = milestones[stage - 1] if stage else 0
    factor, _ = SCHEDULERS[parts[stage]["name"]]
    return factor(step - began, lr, parts[stage].get("kwargs") or {})


def seconds(text: str) -> int:
    """Seconds of a "DD:HH:MM:SS" duration, the form of checkpointing.checkpoint_must_save_by.

    Raises
    ------
    ValueError: another form
    """
    days, hours, minutes, rest = (int(part) for part in text.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


class MustSaveBy:
    """Whether another step fits before checkpointing.checkpoint_must_save_by, counted from the training loop's start.

    As NeMo RL's TimeoutChecker (nemo_rl/utils/timer.py, v0.7.0): the mean step so far is taken for the next one.

    Parameters
    ----------
    limit: seconds, or None for no limit
    clock: seconds that only go forward
    """

    def __init__(self, limit: float | None, clock: Callable[[], float]) -> None:
        self._limit, self._clock = limit, clock
        self._start = clock()
        self._steps = 0

    def step_finished(self) -> bool:
        """Count a step; True when the next one might end too late."""
        self._steps += 1
        if self._limit is None:
            return False
        elapsed = self._clock() - self._start
        return elapsed + elapsed / self._steps >= self._limit
