"""What runs cost at most, with units."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY, TWELVE, TWELVE_2, view

from nano_exp.preflight.cost import Kept, Logged, checkpoints, cost, gigabytes, rollouts

BILLION = 10**9


@pytest.mark.parametrize(
    ("row", "overrides", "count", "bytes_a_parameter"),
    [
        (NINE, (), 5, 14),  # the three best, the newest, the one being written
        (TWELVE_2, (), 3, 12),  # 30 steps, saved every 10; DTensor saves fp32
        (TWELVE, ("checkpointing.save_optimizer=false",), 3, 2),
        (TWELVE, ("checkpointing.keep_top_k=0",), 2, 14),
        (THIRTY, ("checkpointing.keep_top_k=null", "grpo.max_num_steps=95"), 10, 12),
    ],
)
def test_checkpoints_of_a_run(
    row: tuple[str, ...], overrides: tuple[str, ...], count: int, bytes_a_parameter: int
) -> None:
    seen = view(row, overrides)
    assert checkpoints(seen) == Kept(count, seen.model["total_parameters"] * bytes_a_parameter)


@pytest.mark.parametrize(
    ("row", "overrides", "bytes_a_token", "steps"),
    [
        (TWELVE, (), 83, 30),
        (THIRTY, (), 83, None),  # data or time ends it
        (NINE, (), 6, None),  # NeMo Gym's responses in place of train_data_step files
        (NINE, ("grpo.async_grpo.enabled=true", "grpo.max_num_steps=7"), 89, 7),
        (NINE, ("env.should_log_nemo_gym_responses=false",), 83, None),
        (NINE, ("nemo_rl.version=v0.5.0",), 55, None),  # both, without ids, masks and advantages
    ],
)
def test_logged_rollouts_of_a_run(
    row: tuple[str, ...], overrides: tuple[str, ...], bytes_a_token: int, steps: int | None
) -> None:
    seen = view(row, overrides)
    each = seen.get("grpo.num_prompts_per_step") * seen.get("grpo.num_generations_per_prompt")
    step = each * seen.get("policy.max_total_sequence_length") * bytes_a_token
    assert rollouts(seen) == Logged(step, step * steps if steps else None)


def test_what_is_not_known_is_not_counted() -> None:
    assert checkpoints(view(TWELVE, ("checkpointing.enabled=false",))) is None
    assert checkpoints(view(TWELVE, ("model.total_parameters=null",))) is None
    assert checkpoints(view(TWELVE, ("checkpointing.keep_top_k=null", "checkpointing.save_period=0"))) is None


def test_one_line_for_a_run_and_for_a_sweep() -> None:
    one = cost([view(TWELVE).config], {"timeout_min": 240})
    assert one.lines() == [
        "one allocation each, to its time limit: 32 GPU-hours a run",
        "a run with steps left goes on in another one, up to 100 (slurm.max_attempts)",
        "disk, at most (estimated): 518 GB a run (checkpoints 517 GB, logged rollouts 0.7 GB)",
    ]
    alone = cost([view(TWELVE, ("slurm.requeue=false",)).config], {"timeout_min": 240})
    assert alone.lines()[0] == one.lines()[0]
    assert "goes on" not in alone.lines()[1]
    both = cost([view(TWELVE).config, view(TWELVE_2).config], {"timeout_min": 90})
    assert both.gpu_hours == 12 + 24
    assert both.lines()[0].endswith(": 24 GPU-hours a run, 36 in all")
    assert "GB a run, " in both.lines()[2]
    assert cost([view(NINE).config], {}).lines()[-1].endswith(" GB), and logged rollouts 50 MB a step")


def test_this_machine_costs_no_gpu_hours() -> None:
    assert cost([view(TWELVE, ("slurm.where=local",)).config], {"timeout_min": 240}).gpu_hours is None
    assert cost([], {}).lines() == []


@pytest.mark.parametrize(
    ("size", "text"), [(2.5e6, "2.5 MB"), (1.5e9, "1.5 GB"), (172 * BILLION, "172 GB"), (2.1e12, "2.1 TB")]
)
def test_sizes(size: float, text: str) -> None:
    assert gigabytes(size) == text
