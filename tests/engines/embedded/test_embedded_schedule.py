"""Learning rates against torch's own schedulers, and the deadline against a clock that a test turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nano_exp.engines.embedded import schedule
from nano_exp.text import dd_hh_mm_ss

LINEAR = {"name": "torch.optim.lr_scheduler.LinearLR", "kwargs": {"start_factor": 0.1, "total_iters": 4}}
COSINE = {"name": "torch.optim.lr_scheduler.CosineAnnealingLR", "kwargs": {"T_max": 9, "eta_min": 2e-4}}
CONSTANT = {"name": "torch.optim.lr_scheduler.ConstantLR", "kwargs": {"factor": 0.5, "total_iters": 3}}


def torch_rates(scheduler: Any, steps: int) -> list[float]:
    """The rates that NeMo RL's DTensor worker would use: built from the same list, one step a rollout."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)

    def made(entry: dict[str, Any]) -> Any:
        return getattr(torch.optim.lr_scheduler, entry["name"].rsplit(".", 1)[1])(optimizer, **entry["kwargs"])

    if isinstance(scheduler, dict):
        running = made(scheduler)
    else:
        parts = [made(entry) for entry in scheduler if "name" in entry]
        marks = next(entry["milestones"] for entry in scheduler if "milestones" in entry)
        running = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, marks)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        running.step()
    return rates


@pytest.mark.parametrize(
    "scheduler",
    [
        LINEAR,
        COSINE,
        CONSTANT,
        [LINEAR, COSINE, {"milestones": [4]}],
        [LINEAR, CONSTANT, COSINE, {"milestones": [2, 5]}],
    ],
)
def test_rates_equal_torchs(scheduler: Any) -> None:
    mine = [schedule.learning_rate(step, 2e-3, scheduler) for step in range(9)]
    assert mine == pytest.approx(torch_rates(scheduler, 9), rel=1e-9)


def test_no_scheduler_is_a_constant_rate() -> None:
    assert schedule.learning_rate(0, 1e-3, None) == schedule.learning_rate(999, 1e-3, None) == 1e-3


def test_no_warm_up_steps_begins_at_the_full_rate() -> None:
    none = {"name": LINEAR["name"], "kwargs": {"start_factor": 0.1, "total_iters": 0}}
    assert schedule.learning_rate(0, 2e-3, [none, COSINE, {"milestones": [0]}]) == 2e-3


@pytest.mark.parametrize(("text", "total"), [("00:00:00:01", 1), ("00:03:45:00", 13500), ("02:01:00:05", 176405)])
def test_durations_there_and_back(text: str, total: int) -> None:
    assert schedule.seconds(text) == total
    assert dd_hh_mm_ss(total) == text
    assert dd_hh_mm_ss(total + 0.9) == text


def test_a_duration_is_never_negative() -> None:
    assert dd_hh_mm_ss(-5) == "00:00:00:00"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_must_save_by_leaves_room_for_a_mean_step() -> None:
    clock = Clock()
    limit = schedule.MustSaveBy(10.0, clock)
    said = []
    for _ in range(4):
        clock.now += 3.0
        said.append(limit.step_finished())
    # After 6 s another 3 s fit; after 9 s they do not.
    assert said == [False, False, True, True]


def test_no_limit_never_says_stop() -> None:
    clock = Clock()
    limit = schedule.MustSaveBy(None, clock)
    clock.now += 1e9
    assert not limit.step_finished()
