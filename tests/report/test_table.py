"""The table at any width."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_case import LINE

from nano_exp.report.table import hours, table
from nano_exp.store.axes import as_typed
from nano_exp.text import width as width_of

FAILED = replace(
    LINE,
    run="r1111111111",
    state="failed",
    why="out of GPU memory during the policy update (rank 3, node gpu07): 79 of 80 GiB",
    next="fix: policy.train_micro_batch_size=1",
    overrides=["model=nano_9b", "optimizer.lr=2e-6", "grpo.num_generations_per_prompt=16"],
    point={"optimizer.lr": 2e-6, "grpo.num_generations_per_prompt": 16},
)


def test_without_a_width_everything_is_on_the_runs_line() -> None:
    header, running, failed = table([LINE, FAILED]).split("\n")
    lr, generations = "lr", "num_generations_per_prompt"
    first = ["name", "run", "state", "step", lr, generations, "reward", "validation", "GPU-h", "age", "what"]
    assert header.split() == first
    assert running.split()[4:6] == ["1e-6", "8"]
    assert running.endswith("[job 12_3]")
    assert failed.split()[4:6] == ["2e-6", "16"]
    assert failed.endswith(f"[{FAILED.why}; fix: policy.train_micro_batch_size=1]")
    assert "12  " in running, "GPU-hours"


@pytest.mark.parametrize("width", range(40, 200))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, table([LINE, FAILED, replace(LINE, name="another")], width=width).split("\n"))) <= width


def test_at_80_columns_the_reason_and_what_to_do_are_on_their_own_line() -> None:
    header, running, failed, why = table([LINE, FAILED], width=80).split("\n")
    assert header.split()[0] == "run", "all have one name"
    assert {"run", "state", "step", "lr", "num_generations_per_prompt", "reward"} <= set(header.split())
    assert running.split()[3:5] == ["1e-6", "8"]
    assert failed.split()[3:5] == ["2e-6", "16"]
    assert why.startswith("  [out of GPU memory during the policy update")
    assert why.endswith("…")


def test_a_wide_terminal_needs_no_second_line() -> None:
    assert len(table([LINE, FAILED], width=260).split("\n")) == 3


@pytest.mark.parametrize("width", range(60, 140))
def test_no_value_of_an_axis_is_ever_cut(width: int) -> None:
    more = {"policy.megatron_cfg.tensor_model_parallel_size": 8, "policy.model_name": "/models/" + "x" * 30}
    found = [replace(LINE, point={**LINE.point, **more}), replace(FAILED, point={**FAILED.point, **more})]
    shown = table(found, width=width)
    for line in found:
        assert all(
            f"{as_typed(value)}" in shown.split() or f"={as_typed(value)}" in shown for value in line.point.values()
        )
    assert max(map(len, shown.split("\n"))) <= width


def test_long_names_of_axes_are_broken_before_columns_of_values_go() -> None:
    point = {"policy.megatron_cfg.tensor_model_parallel_size": 8, "grpo.num_generations_per_prompt": 16}
    header = table([replace(LINE, point=point)], width=80).split("\n")[:-1]
    assert len(header) > 1
    assert max(map(len, header)) <= 80
    assert {"tensor_", "parallel_", "size", "num_", "generations_", "per_prompt"} <= set(" ".join(header).split())


def test_wide_characters_take_two_columns() -> None:
    header, wide, narrow = table([replace(LINE, name="学習", point={}), replace(FAILED, name="ab", point={})]).split(
        "\n"
    )
    assert width_of(wide[: wide.index("r0123456789")]) == narrow.index("r1111111111") == header.index("run")


def test_slurms_silence_is_said_below() -> None:
    assert table([LINE], "squeue: down").endswith(
        "\n\nSlurm does not answer (squeue: down): states that depend on it are shown as unknown"
    )


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0"), (0.123, "0.12"), (3.21, "3.2"), (1234.5, "1234")])
def test_gpu_hours_have_digits_that_say_something(value: float | None, text: str) -> None:
    assert hours(value) == text
