"""A study in the store: what a killed attempt had left undone, the next look does; nobody is told twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from core_case import dead_process, frozen, make_attempt, make_run

from nano_exp.errors import UserError
from nano_exp.launch import study_terms
from nano_exp.launch.terms import Terms
from nano_exp.store import metrics_file, runs
from nano_exp.study import book, pausing
from nano_exp.study.halving import Halving

RULES = Halving((20, 60), 0.34)
POINTS = {"ra": 1.0, "rb": 2.0, "rc": 3.0}


def paused(results: Path, name: str, value: float, reach: bool = True) -> Path:
    """A run that reached the first rung; without `reach` its attempt was killed before it wrote that down."""
    folder = make_run(
        results, run=name, record={"overrides": [f"optimizer.lr={POINTS[name[:2]]}", f"grpo.seed={value}"]}
    )
    runs.record_event(folder, "submit", launch="L", array=0, task=0, after_attempt=0, halving=True)
    (folder / "metrics.jsonl").write_text(metrics_file.line({"step": 20, "validation/accuracy": value}))
    if reach:
        book.reach(runs.load(folder), RULES, 0, 1)
        make_attempt(folder, 1, dead_process(), {"kind": "paused", "rung": 0, "attempt": 1})
    else:
        make_attempt(folder, 1, dead_process())
    return folder


def levels(results: Path) -> dict[str, int]:
    return {run.id: member.level for run, member in book.members(results, "name", RULES)}


def test_a_rung_is_written_once_and_promotions_are_what_the_events_say(tmp_path: Path) -> None:
    folders = [paused(tmp_path, name, value) for name, value in (("ra", 0.1), ("rb", 0.5), ("rc", 0.3))]
    book.reach(runs.load(folders[0]), RULES, 0, 2)
    assert [event.kind for event in runs.load(folders[0]).events].count("rung") == 1
    assert [one.point for one in book.promote(tmp_path, "name", RULES)] == ["optimizer.lr=2"]
    assert book.promote(tmp_path, "name", RULES) == []
    assert levels(tmp_path) == {"ra": 0, "rb": 1, "rc": 0}
    event = runs.load(folders[1]).last("promote")
    assert event is not None and (event.data["rung"], event.data["to"], event.data["by"]) == (0, 60, "study")


def test_killed_between_two_seeds_of_a_point_the_second_goes_on_whatever_came_since(tmp_path: Path) -> None:
    first, second = (paused(tmp_path, name, value) for name, value in (("rb", 0.5), ("rb2", 0.4)))
    book.record(runs.load(first), RULES, 0, "why", book.BY_STUDY)  # and its attempt is killed here
    paused(tmp_path, "rc", 0.9)
    book.promote(tmp_path, "name", RULES)
    assert levels(tmp_path) == {"rb": 1, "rb2": 1, "rc": 1}
    event = runs.load(second).last("promote")
    assert event is not None and event.data["why"] == "why"
    paused(tmp_path, "rb3", 0.1)
    assert book.promote(tmp_path, "name", RULES) == []
    assert levels(tmp_path)["rb3"] == 0, "a seed that comes later is compared with its point as that stands now"


def test_of_a_point_of_which_a_user_promoted_a_seed_the_others_go_on_where_it_is_the_best(tmp_path: Path) -> None:
    first, _ = (paused(tmp_path, name, value) for name, value in (("rb", 0.5), ("rb2", 0.4)))
    paused(tmp_path, "ra", 0.1, reach=False)
    book.record(runs.load(first), RULES, 0, "by hand", "a user")
    assert book.promote(tmp_path, "name", RULES) == []
    book.reach(runs.load(tmp_path / "name" / "ra"), RULES, 0, 1)
    assert [one.point for one in book.promote(tmp_path, "name", RULES)] == ["optimizer.lr=2"]
    assert levels(tmp_path) == {"ra": 0, "rb": 1, "rb2": 1}


def test_an_attempt_that_was_killed_at_its_rung_is_waited_for(tmp_path: Path) -> None:
    late = paused(tmp_path, "ra", 0.9, reach=False)
    paused(tmp_path, "rb", 0.5)
    assert book.promote(tmp_path, "name", RULES) == [], "it may still come, with a better value"
    book.reach(runs.load(late), RULES, 0, 2)
    assert [one.point for one in book.promote(tmp_path, "name", RULES)] == ["optimizer.lr=1"]


def test_a_launch_decides_what_was_left_and_refuses_other_rungs(tmp_path: Path) -> None:
    for name, value in (("ra", 0.1), ("rb", 0.5)):
        paused(tmp_path, name, value)
    terms = Terms(halving=RULES.as_dict())
    study_terms.settle(tmp_path, ["name"], terms)
    assert levels(tmp_path) == {"ra": 0, "rb": 1}
    assert book.read(tmp_path, "name") == RULES
    with pytest.raises(UserError, match=r"run\.name=ANOTHER"):
        study_terms.settle(tmp_path, ["name"], Terms(halving={**RULES.as_dict(), "rungs": [10]}))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=nano_9b", "cluster=1n8g"], {"grpo.max_num_steps": 5, "grpo.val_at_end": True}),
        (
            ["model=nano_12b", "cluster=1n8g"],
            {"grpo.max_num_steps": 5, "grpo.val_at_end": True, pausing.OVERRIDE: True},
        ),
        (
            ["model=nano_12b", "cluster=1n8g", "policy.megatron_cfg.scheduler.lr_decay_iters=null"],
            {"grpo.max_num_steps": 5, "grpo.val_at_end": True, pausing.OVERRIDE: True, pausing.DECAY: 100},
        ),
        (["model=nano_12b", "cluster=2n8g"], {"grpo.max_num_steps": 5, "grpo.val_at_end": True}),
    ],
)
def test_an_attempt_keeps_the_schedule_of_the_whole_run(words: list[str], expected: dict[str, Any]) -> None:
    config = frozen(Path("/launch"), *words, "grpo.max_num_steps=100").config
    changes = pausing.overlay(config, 5, 100)
    if "nano_9b" in words[0]:  # Megatron
        changes.pop(pausing.OVERRIDE, None)
    assert changes == expected
    assert pausing.MAX_STEPS not in pausing.overlay(config, 100, 100)
