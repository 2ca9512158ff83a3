"""The table at any width."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_case import LINE

from nano_exp.report.table import hours, table

FAILED = replace(
    LINE,
    run="r1111111111",
    state="failed",
    why="out of GPU memory during the policy update (rank 3, node gpu07): 79 of 80 GiB",
    next="fix: policy.train_micro_batch_size=1",
    overrides=["model=nano_9b", "optimizer.lr=2e-6", "grpo.num_generations_per_prompt=16"],
)


def test_without_a_width_everything_is_on_the_runs_line() -> None:
    header, running, failed = table([LINE, FAILED]).split("\n")
    assert header.split() == ["name", "run", "state", "step", "reward", "validation", "GPU-h", "age", "what"]
    assert running.endswith("lr=1e-6 num_generations_per_prompt=8  [job 12_3]")
    assert failed.endswith(f"num_generations_per_prompt=16  [{FAILED.why}; fix: policy.train_micro_batch_size=1]")
    assert "12  " in running, "GPU-hours"


@pytest.mark.parametrize("width", range(40, 200))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, table([LINE, FAILED, replace(LINE, name="another")], width=width).split("\n"))) <= width


def test_at_80_columns_the_reason_and_what_to_do_are_on_their_own_line() -> None:
    header, running, failed, why = table([LINE, FAILED], width=80).split("\n")
    assert header.split()[0] == "run", "all have one name"
    assert {"run", "state", "step", "what"} <= set(header.split())
    assert "lr=1e-6" in running
    assert "lr=2e-6" in failed
    assert why.startswith("  out of GPU memory during the policy update")
    assert why.endswith("…")


def test_a_wide_terminal_needs_no_second_line() -> None:
    assert len(table([LINE, FAILED], width=260).split("\n")) == 3


def test_slurms_silence_is_said_below() -> None:
    assert table([LINE], "squeue: down").endswith(
        "\n\nSlurm does not answer (squeue: down): states that depend on it are shown as unknown"
    )


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0"), (0.123, "0.12"), (3.21, "3.2"), (1234.5, "1234")])
def test_gpu_hours_have_digits_that_say_something(value: float | None, text: str) -> None:
    assert hours(value) == text
