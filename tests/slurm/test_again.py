"""Whether a run goes on by itself, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from nano_exp.slurm import Control, restart_policy
from nano_exp.slurm.restart_policy import Decision, Limits, decide, meaning

CLUSTER = {"fault": "infrastructure", "title": "a GPU failed", "bad_node": "gpu07"}
CONFIG = {"fault": "config", "title": "CUDA out of memory", "bad_node": ""}


def end(kind: str, signal: int = 0, **diagnosis: str) -> dict[str, Any]:
    return {"kind": kind, "signal": signal, **({"diagnosis": diagnosis} if diagnosis else {})}


def test_what_saved_before_the_time_limit_goes_on() -> None:
    assert decide(end("stopped"), "", [3], Limits(), 1) == Decision("attempt", "time limit, with steps left")


@pytest.mark.parametrize("stopped", ["time_limit", "preempted"])
def test_what_the_time_limit_or_a_preemption_ended_goes_on(stopped: restart_policy.Stopped) -> None:
    assert decide(end("stopped", 15), stopped, [3], Limits(), 1).by == "attempt"


def test_what_slurm_starts_again_by_itself_is_left_to_it() -> None:
    for kind in ("stopped", "failed"):
        assert decide(end(kind, 15), "slurm", [0, 0, 0], Limits(requeue=False), 100).by == "slurm"


@pytest.mark.parametrize(
    ("what", "stopped"),
    [
        (end("done"), ""),
        (end("done", 15), "slurm"),
        (end("cancelled", 15), "cancelled"),
        (end("stopped", 2), ""),  # a signal that nobody can explain: perhaps somebody's wish
        (end("failed", 0, **CONFIG), ""),
        (end("failed", 0, fault="user"), ""),
        (end("failed", 0, fault="unknown"), ""),
        (end("failed"), ""),  # refused before the engine began
    ],
)
def test_an_end_stays_an_end(what: dict[str, Any], stopped: restart_policy.Stopped) -> None:
    assert decide(what, stopped, [3], Limits(), 1) == Decision("", "")


def test_a_fault_of_the_cluster_is_tried_again_without_its_node() -> None:
    found = decide(end("failed", 0, **CLUSTER), "", [3], Limits(), 1)
    assert (found.by, found.avoid) == ("attempt", "gpu07")
    assert "a GPU failed" in found.why


def test_limits_end_it_and_say_which() -> None:
    assert "slurm.requeue=false" in decide(end("stopped"), "", [3], Limits(requeue=False), 1).why
    assert "slurm.max_attempts=4" in decide(end("stopped"), "", [1, 1, 1, 1], Limits(attempts=4), 4).why
    assert decide(end("stopped"), "", [1, 1, 1], Limits(attempts=4), 3).by == "attempt"


@pytest.mark.parametrize(
    ("saved", "goes_on"),
    [
        ([0, 0], True),
        ([0, 0, 0], False),
        ([5, 0, 0, 0], False),
        ([0, 0, 5], True),
        ([0, 0, None], True),  # what cannot be told is not held against it
        ([0, 5, 0, 0], True),
    ],
)
def test_attempts_that_save_nothing_are_counted_from_the_newest(saved: list[int | None], goes_on: bool) -> None:
    found = decide(end("stopped"), "", saved, Limits(idle=3), len(saved))
    assert (found.by == "attempt") is goes_on
    assert goes_on or "saved no new step (slurm.max_idle_attempts=3)" in found.why


def test_what_a_signal_meant() -> None:
    assert meaning(Control(1, False), 0, 1000.0, 500.0) == "slurm"
    assert meaning(Control(1, False, "TimeLimit"), 0, 1000.0, 1001.0) == "slurm"
    assert meaning(Control(0, False, "TimeLimit"), 0, 1000.0, 900.0) == "time_limit"  # this node's clock is behind
    assert meaning(Control(0, False, "None"), 0, 1000.0, 1001.0) == "cancelled"  # or before
    assert meaning(Control(2, True), 2, 1000.0, 500.0) == "preempted"
    assert meaning(Control(2, False), 2, None, 500.0) == "cancelled"


def test_without_an_answer_the_clock_tells_of_the_time_limit_alone() -> None:
    assert meaning(None, 0, 1000.0, 996.0) == "time_limit"
    assert meaning(None, 0, 1000.0, 500.0) == ""
    assert meaning(None, 0, None, 500.0) == ""


def test_limits_of_a_config_with_and_without_them() -> None:
    assert Limits.of({}) == Limits(True, 100, 3)
    assert Limits.of({"requeue": False, "max_attempts": 5, "max_idle_attempts": 1}) == Limits(False, 5, 1)


def test_a_scancel_ends_it_whatever_the_engine_made_of_it() -> None:
    lost = {"kind": "failed", "signal": 15, "diagnosis": {"fault": "infrastructure", "title": "a Ray node is lost"}}
    assert not decide(lost, "cancelled", [5], Limits(), 1).by
    assert decide(lost, "preempted", [5], Limits(), 1).by == "attempt"
