"""A large launch asks before it is sent, and is refused where nobody can answer."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from core_case import TINY, everything_below, launch, prepared, standin

from nano_exp.errors import UserError
from nano_exp.launch import large
from nano_exp.launch.terms import Terms


class Terminal(io.StringIO):
    """Somebody who types this."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_it_is_refused_with_the_key_and_leaves_nothing(tmp_path: Path) -> None:
    done = launch(tmp_path, "-m", *TINY, "grpo.seed=range(0,501)", timeout=300)
    assert done.returncode == 2
    assert done.stdout.startswith("plan: 501 runs (501 new), 501 to submit\n")
    assert "error: submitting 501 runs was not confirmed" in done.stderr
    assert "yes=true" in done.stderr
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize(
    ("runs", "minutes", "asked"),
    [
        (2, 240, ""),
        (2, 4000, "2 runs of 1,067 GPU-hours in one allocation each"),
        (2, None, ""),
    ],
)
def test_what_is_large_is_said_in_runs_and_gpu_hours(
    tmp_path: Path, runs: int, minutes: int | None, asked: str
) -> None:
    rows = prepared(tmp_path, *standin(), points=[[f"grpo.seed={n}"] for n in range(runs)]).arrays[0].rows
    assert large.words(rows, {} if minutes is None else {"timeout_min": minutes}, Terms()) == asked
    assert large.words(rows * 251, {}, Terms()) == "502 runs"


@pytest.mark.parametrize(
    ("typed", "agreed"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_nothing_but_a_yes_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, agreed: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stdout", Terminal())
    if agreed:
        large.ask("502 runs")
        return
    with pytest.raises(UserError) as caught:
        large.ask("502 runs")
    assert "yes=true" in caught.value.fix
