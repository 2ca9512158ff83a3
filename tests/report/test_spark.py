"""Sparklines, and rewards read as they grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_exp.report.spark import ASCII_BARS, BARS, Rewards, sparks


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 10, ""),
        ([1.0], 10, "▅"),
        ([1.0, 1.0, 1.0], 10, "▅▅▅"),
        ([0.0, 0.5, 1.0], 10, "▁▅█"),
        ([0.0, 0.0, 1.0, 1.0], 2, "▁█"),
        ([float("nan"), 0.0, float("inf"), 1.0], 10, "▁█"),
        ([1.0, 2.0], 0, ""),
    ],
)
def test_a_sparkline(values: list[float], width: int, drawn: str) -> None:
    assert sparks([values], width).lines == [drawn]


def test_all_runs_share_one_scale() -> None:
    drawn = sparks([[0.0, 0.1], [], [0.9, 1.0]], 10)
    assert drawn.lines == ["▁▂", "", "▇█"]
    assert (drawn.low, drawn.high) == (0.0, 1.0)


@given(st.lists(st.lists(st.floats(), max_size=60), max_size=3), st.integers(0, 20))
def test_any_values_fit_and_none_fails(rows: list[list[float]], width: int) -> None:
    assert all(len(line) <= width for line in sparks(rows, width).lines)
    assert set("".join(sparks(rows, width, ASCII_BARS).lines)) <= set(ASCII_BARS)
    assert len(BARS) == len(ASCII_BARS) == 8


def test_only_what_was_added_is_read_and_a_file_that_was_cut_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rewards = Rewards(path)
    assert rewards.read() == []
    rows = [json.dumps({"step": n, "train/reward": n / 10}) + "\n" for n in range(5)]
    path.write_text("".join(rows[:2]) + '{"step": 1, "validation/accuracy": 1}\ngarbage\n' + rows[2][:9])
    assert rewards.read() == [0.0, 0.1]
    with path.open("a") as file:
        file.write(rows[2][9:] + rows[3])
    assert rewards.read() == [0.0, 0.1, 0.2, 0.3]
    aside = tmp_path / "aside"
    aside.write_text("".join(rows[:1] + rows[4:]))
    aside.replace(path)
    assert rewards.read() == [0.0, 0.4]
