"""What `make faults` counts as lost and as executed twice, on stores made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faults
import pytest
from core_case import make_attempt, make_run

from nano_exp import files
from nano_exp.store import runs
from nano_exp.store.runs import Owner

OWNER = Owner("12", 0, "mini1", 1, 1.0)


def made(tmp_path: Path, *kinds: str, steps: tuple[int, ...] = (1, 2), ids: tuple[str, ...] = ("w",)) -> runs.Run:
    """A run whose attempts ended so, with an event of each, in order."""
    folder = make_run(tmp_path / "results")
    for number, kind in enumerate(kinds, 1):
        runs.record_event(folder, "start", attempt=number)
        attempt = make_attempt(folder, number, OWNER, {"attempt": number, "kind": kind} if kind else None)
        wandb = {"logger": {"wandb": {"id": ids[(number - 1) % len(ids)]}}}
        files.write_text(attempt / "nemo_rl.yaml", files.dump_yaml(wandb))
        runs.record_event(folder, "engine", attempt=number)
        if kind:
            runs.record_event(folder, "end", end={"attempt": number, "kind": kind})
    rows = [json.dumps({"step": step, "train/reward": step / 10}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return runs.load(folder)


def judged(run: runs.Run, expected: int = 1, numbers: Any = None) -> faults.Outcome:
    outcome = faults.Outcome("x")
    reference = {run.id: faults.metrics(run) if numbers is None else numbers}
    faults.judge(outcome, [run], expected, reference)
    return outcome


def test_a_run_that_came_through_has_no_problem(tmp_path: Path) -> None:
    outcome = judged(made(tmp_path, "stopped", "", "done"))
    assert (outcome.runs, outcome.lost, outcome.twice, outcome.attempts, outcome.problems) == (1, 0, 0, 3, [])
    assert faults.report([outcome], 1.0) == 0


@pytest.mark.parametrize("kinds", [("failed",), ("stopped", ""), ()])
def test_a_run_that_is_not_done_is_lost(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    outcome = judged(made(tmp_path, *kinds))
    assert (outcome.lost, outcome.twice) == (1, 0)
    assert faults.report([outcome], 1.0) == 1


def test_a_run_that_is_not_there_is_lost(tmp_path: Path) -> None:
    assert judged(made(tmp_path, "done"), expected=2).lost == 1


def test_two_ends_as_done_are_an_execution_too_many(tmp_path: Path) -> None:
    outcome = judged(made(tmp_path, "done", "done"))
    assert (outcome.lost, outcome.twice) == (0, 1)
    assert faults.report([outcome], 1.0) == 1


def test_a_step_that_was_logged_twice_is_an_execution_too_many(tmp_path: Path) -> None:
    assert judged(made(tmp_path, "done", steps=(1, 2, 2))).problems == ["r0123456789: steps logged twice: [2]"]


def test_two_attempts_at_once_are_an_execution_too_many(tmp_path: Path) -> None:
    run = made(tmp_path, "", "done")
    runs.record_event(run.dir, "end", end={"attempt": 1, "kind": "stopped"})  # it lived on beside the second
    assert "attempt 2 began before attempt 1 had ended" in judged(run).problems[0]


def test_an_attempt_that_two_processes_started_is_an_execution_too_many(tmp_path: Path) -> None:
    run = made(tmp_path, "done")
    runs.record_event(run.dir, "start", attempt=1)
    assert judged(run).twice == 1


def test_other_numbers_and_a_second_wandb_run_are_problems(tmp_path: Path) -> None:
    outcome = judged(made(tmp_path, "stopped", "done", ids=("w", "v")), numbers=[])
    assert [text.partition(": ")[2] for text in outcome.problems] == [
        "its numbers are not those of an undisturbed run",
        "W&B ids ['v', 'w']",
    ]
    assert faults.report([outcome], 1.0) == 1


def test_every_fault_that_is_promised_is_injected() -> None:
    names = " | ".join(one.name for one in faults.FAULTS)
    for word in (
        "time limit", "requeue", "preemption", "link cut", "slurmd", "driver SIGKILLed", "Ray worker", "during the run",
        "at submit", "no accounting", "disk full", "launcher SIGKILLed", "two launchers", "damaged", "pending",
    ):  # fmt: skip
        assert word in names
