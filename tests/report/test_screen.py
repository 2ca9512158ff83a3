"""What watch draws, at any size, and what its keys do: without a terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_case import LINE

from nano_exp.report.screen import KEYS, Screen, room
from nano_exp.report.status import Line

RUNS = [
    replace(
        LINE,
        run=f"r{n}",
        dir=f"/results/lr_sweep/r{n}",
        state=("running", "done", "failed", "pending")[n % 4],
        reward=n / 40,
        job=f"12_{n}",
        overrides=["model=nano_9b", f"optimizer.lr={n}e-6"],
        point={"optimizer.lr": n / 1e6},
    )
    for n in range(40)
]


def screen(found: list[Line] = RUNS) -> Screen:
    return Screen("watch", every_line=found, rewards=lambda line: [1.0] * 40, bars="#" * 8)


def text(shown: Screen, height: int = 24, width: int = 80) -> str:
    return "\n".join(said for said, _ in shown.draw(height, width))


def cursor(shown: Screen, height: int = 24) -> str:
    """The run on the row that is drawn as selected."""
    (row,) = [said for said, style in shown.draw(height, 80) if style.startswith("selected ")]
    return next(word for word in row.split() if word[0] == "r" and word[1:].isdigit())


@pytest.mark.parametrize("height", [1, 2, 3, 5, 6, 10, 24, 60])
@pytest.mark.parametrize("width", [5, 20, 40, 80, 200])
def test_any_size_is_filled_and_not_exceeded(height: int, width: int) -> None:
    for found in (RUNS, RUNS[:1], []):
        drawn = screen(found).draw(height, width)
        assert len(drawn) <= height
        assert all(len(said) <= width for said, _ in drawn)


def test_at_80_by_24_there_are_18_runs_their_rewards_and_all_keys() -> None:
    shown = text(screen())
    rows = [line for line in shown.split("\n") if line.startswith("lr_sweep  r")]
    assert len(rows) == room(24) == 18
    assert all("#" * 8 in row for row in rows)
    assert all(f"{key} {what}" in shown.split("\n")[-1] for key, what in KEYS.items())
    assert "10 running, 10 done, 10 failed, 10 pending" in shown.split("\n")[0]


def test_the_cursor_moves_and_the_rows_with_it() -> None:
    shown = screen()
    assert cursor(shown) == "r0"
    for key, run in (("up", "r0"), ("down", "r1"), ("j", "r2"), ("end", "r39"), ("down", "r39"), ("k", "r38")):
        shown.press(key, 24)
        assert cursor(shown) == run
    shown.press("home", 24)
    shown.press("pagedown", 24)
    assert cursor(shown) == "r18"
    shown.press("pageup", 24)
    assert cursor(shown) == "r0"


def test_the_cursor_stays_on_its_run_when_the_order_changes() -> None:
    shown = screen()
    for _ in range(3):
        shown.press("down", 24)
    before = cursor(shown)
    for _ in range(5):
        shown.press("s", 24)
        assert cursor(shown) == before
    shown.press("s", 24)
    shown.press("s", 24)
    assert "sorted by reward" in text(shown)
    assert [line.run for line in shown.lines[:2]] == ["r39", "r38"]


def test_only_active_runs_on_demand() -> None:
    shown = screen()
    shown.press("a", 24)
    assert {line.state for line in shown.lines} == {"running", "pending"}
    assert "nothing is pending or running" in text(replace(shown, every_line=[RUNS[1]]))
    shown.press("a", 24)
    assert len(shown.lines) == 40


def test_nothing_is_done_to_a_run_without_a_yes() -> None:
    shown = screen()
    assert shown.press("c", 24) == ("", None)
    assert text(shown).endswith("cancel r0 (running, job 12_0)?  y/n")
    assert shown.press("n", 24) == ("", None)
    assert "no cancel" in text(shown)
    shown.press("c", 24)
    assert shown.press("q", 24) == ("", None), "anything but y is a no"
    shown.press("c", 24)
    assert shown.press("y", 24) == ("cancel", RUNS[0])
    assert shown.press("y", 24) == ("", None)


def test_a_yes_is_about_the_run_that_was_asked_about() -> None:
    shown = screen()
    shown.press("c", 24)
    shown.every_line = RUNS[4:]  # r0 is gone, and the cursor is on another run
    assert shown.press("y", 24) == ("cancel", RUNS[0])


def test_what_cannot_be_cancelled_or_tried_again_is_not_asked_about() -> None:
    for line, key, said in (
        (RUNS[1], "c", "r1 is done: there is nothing to cancel"),
        (RUNS[1], "r", "r1 is done: there is nothing to try again"),
        (RUNS[0], "r", "r0 is running: there is nothing to try again"),
    ):
        shown = screen([line])
        shown.press(key, 24)
        assert shown.asking is None
        assert text(shown).endswith(said)
    shown = screen([RUNS[2]])
    shown.press("r", 24)
    assert shown.press("y", 24) == ("retry", RUNS[2])


def test_keys_for_the_terminal() -> None:
    assert screen().press("q", 24)[0] == "quit"
    assert screen().press("l", 24) == ("log", RUNS[0])
    assert screen([]).press("l", 24) == ("log", None)
    assert screen([]).press("c", 24) == ("", None)
    assert screen().press("?", 24) == ("", None)


def test_why_and_what_next_of_the_run_under_the_cursor() -> None:
    failed = replace(RUNS[2], why="out of GPU memory", next="fix: policy.x=1", damaged=["events/1: not JSON"])
    shown = text(screen([failed]))
    assert "r2: failed, out of GPU memory" in shown
    assert "fix: policy.x=1; job 12_2; events/1: not JSON" in shown


def test_a_stall_and_slurms_silence_are_seen() -> None:
    shown = screen([replace(RUNS[0], stalled_s=900.0)])
    shown.slurm_error = "controller down"
    assert "1 stalled" in text(shown).split("\n")[0]
    assert "stalled" in text(shown).split("\n")[2]
    assert text(shown).endswith("Slurm does not answer: controller down")
