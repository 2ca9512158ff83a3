"""Rows of metrics.jsonl from NeMo RL's events and stdout, in every order in which they can appear."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_rl_case import STANDIN

sys.path.append(str(STANDIN))

from event_file import EventFile

from nano_exp.engines.nemo_rl.events import Scalar
from nano_exp.engines.nemo_rl.metrics import LATE_S, Steps, follow

SAID = "📊 Using log directory: {}/exp_002"


def printed(*rewards: float) -> list[str]:
    """The results of steps, as stdout has them."""
    blocks = [["📊 Training Results:", f"  • Avg Reward: {r:.4f}", "🔍 Performance Metrics:"] for r in rewards]
    return [line for block in blocks for line in block]


def events(tmp: Path, name: str = "exp_002") -> EventFile:
    return EventFile(tmp / name / "tensorboard")


def log(file: EventFile, step: int, reward: float = 0.5, timings: bool = True) -> None:
    file.add("train/reward", reward, step, at=float(step))
    file.add("performance/tokens", 8.0, step, at=float(step))
    if timings:
        file.add("timing/train/total_step_time", 2.0, step, at=step + 0.5)


def whole(step: int, reward: float = 0.5) -> dict[str, Any]:
    timed = {"timing/train/total_step_time": 2.0, "time": step + 0.5}
    return {"step": step, "train/reward": reward, "performance/tokens": 8.0, **timed}


def after(tmp: Path, lines: list[str], resumes_from: int = 0) -> list[dict[str, Any]]:
    """Rows of a process that has ended."""
    return list(follow(tmp, [SAID.format(tmp), *lines], resumes_from))


def test_a_logged_step_is_one_row_in_float32(tmp_path: Path) -> None:
    file = events(tmp_path)
    file.add("validation/accuracy", 0.25, 1)
    log(file, 1, 0.1)
    file.add("train/loss", math.nan, 1, at=1.5)
    (row,) = after(tmp_path, printed(0.1))
    assert math.isnan(row.pop("train/loss"))
    assert row == {**whole(1, 0.10000000149011612), "validation/accuracy": 0.25}


def test_only_this_attempts_folder_is_read(tmp_path: Path) -> None:
    log(events(tmp_path, "exp_001"), 1, 0.125)
    log(events(tmp_path), 1, 0.5)
    assert after(tmp_path, []) == [whole(1)]


def test_what_counts_seconds_for_steps_is_left_out(tmp_path: Path) -> None:
    file = events(tmp_path)
    file.add("ray/node.0.gpu.0.util", 90.0, 1234)
    log(file, 1)
    assert after(tmp_path, []) == [whole(1)]


def test_after_a_resume_set_up_and_steps_before_are_no_rows(tmp_path: Path) -> None:
    file = events(tmp_path)
    file.add("timing/setup/total_setup_time_s", 60.0, 0)
    file.add("validation/accuracy", 0.5, 0)  # val_at_start again: the checkpoint was at an epoch's end
    log(file, 7)
    assert after(tmp_path, [], resumes_from=6) == [whole(7)]


def test_a_step_is_whole_when_nothing_follows_its_timings_or_a_later_one_began() -> None:
    steps = Steps(0)

    def add(*tags: str, step: int) -> list[int]:
        for tag in tags:
            steps.add(Scalar(tag, step, 1.0, 1.0))
        return [row["step"] for row in steps.whole()]

    assert add("validation/accuracy", step=0) == [] and add(step=0) == []
    assert add("train/reward", step=1) == [0]
    assert add("timing/train/total_step_time", step=1) == []  # more of it may follow
    assert add("timing/train/generation", step=1) == []
    assert add(step=1) == [1]
    assert add("train/reward", step=2) == [] and add(step=2) == []
    assert add("train/reward", step=3) == [2]
    assert [row["step"] for row in steps.whole(ended=True)] == [3]


def test_rows_come_while_it_trains_and_each_once(tmp_path: Path) -> None:
    file, seen = events(tmp_path), []

    def lines() -> Iterator[str | None]:
        yield SAID.format(tmp_path)
        for step in (1, 2):
            yield from printed(0.5)
            yield None  # printed, and not logged yet
            log(file, step)
            yield None
            yield None
            file.add("train/late", 3.0, step, at=1.0)  # a buffer was written in the middle of a step

    for row in follow(tmp_path, lines(), 0):
        seen.append(row)
    late = [{"step": step, "time": 1.0, "train/late": 3.0} for step in (1, 2)]
    assert seen == [whole(1), late[0], whole(2), late[1]]


def test_a_step_whose_events_were_lost_is_as_it_was_printed(tmp_path: Path) -> None:
    file = events(tmp_path)
    log(file, 1)
    file.add("train/rollout/mean", 1.0, 2, at=2.0)  # logged before the step's end; the rest was lost
    rows = after(tmp_path, printed(0.5, 0.75, 0.25))
    assert rows[0] == whole(1)
    assert [(row["step"], row.get("train/reward")) for row in rows[1:]] == [(2, None), (2, 0.75), (3, 0.25)]


def test_without_event_files_the_printed_rows_come_at_once(tmp_path: Path) -> None:
    found: list[dict] = []

    def lines() -> Iterator[str | None]:
        yield from printed(0.5)
        yield None
        assert [row["train/reward"] for row in found] == [0.5]
        yield from printed(0.75)

    for row in follow(tmp_path, lines(), 0):
        found.append(row)
    assert [row["step"] for row in found] == [1, 2]


def test_events_that_stopped_coming_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    """TensorBoard's writer logs nothing more after its disk was full once, and NeMo RL trains on."""
    log(events(tmp_path), 1)
    now, found = [100.0], []

    def lines() -> Iterator[str | None]:
        yield SAID.format(tmp_path)
        yield from printed(0.5, 0.75)
        yield from (None, None)
        assert found == [whole(1)]
        now[0] += LATE_S + 1
        yield None
        assert found[1:] == [{"step": 2, "time": 100.0, "train/reward": 0.75}]

    for row in follow(tmp_path, lines(), 0, clock=lambda: now[0]):
        found.append(row)
    assert len(found) == 2
