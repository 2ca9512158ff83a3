"""When a phase of a run counts as stalled, by clocks that nobody waits for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from nano_exp.errors import UserError
from nano_exp.job.watchdog import HOPELESS_S, PATIENCE_MIN, TIMES, Rule, Stall, Watchdog, learned
from nano_exp.store.phase import LABELS

H, MIN = 3600.0, 60.0
RULE = Rule("restart", 10.0, 600.0)
STEPS = [(4, 1000.0), (5, 1100.0), (6, 1200.0), (7, 1310.0)]  # median 100 s
ENGINE = {"name": "nemo_rl"}


def rule(*, longest: dict[str, float] | None = None, patience: dict[str, Any] | None = None, **site: Any) -> Rule:
    return Rule.of({"site": site, "engine": {**ENGINE, "patience_min": patience or {}}}, longest)


def watched(one: Rule, course: Iterable[tuple[str, float]], every: float = 60.0) -> tuple[list[Stall], Watchdog, float]:
    """What is said of an engine that goes through these phases, each for so many seconds. A step ends with its stay."""
    dog, now, steps, moves = Watchdog(one, 0.0), 0.0, [], 0
    found: list[Stall] = []
    for phase, seconds in course:
        until = now + seconds
        while now <= until:
            stall = dog.look(phase, steps, now, moves)
            found += [stall] if stall is not None else []
            now += every
        now = until
        if phase == "step":
            moves += 1
            steps.append((moves, now))
    return found, dog, now


def test_every_phase_has_a_patience() -> None:
    assert PATIENCE_MIN.keys() == LABELS.keys() == Rule.of({"engine": ENGINE}).patience.keys()
    assert Rule.of({"engine": {"name": "embedded"}}).patience == {}


def test_a_stall_is_many_times_the_median_step() -> None:
    """Of an engine that does not say where it is."""
    dog = Watchdog(RULE, 0.0)
    assert dog.look("", STEPS, 1310 + 999.0) is None
    found = dog.look("", STEPS, 1310 + 1000.0)
    assert found is not None
    assert (found.phase, found.step, found.seconds, found.median_s) == ("step", 7, 1000.0, 100.0)
    assert str(found) == "stalled: no new step for 1000 s after step 7, which took 100.0 s"


def test_short_steps_have_the_least_patience_of_the_site() -> None:
    quick = [(n, float(n)) for n in range(1, 9)]
    assert Watchdog(RULE, 0.0).look("", quick, 8 + 599.0) is None
    assert Watchdog(RULE, 0.0).look("", quick, 8 + 600.0) is not None


def test_an_engine_that_does_not_say_where_it_is_has_nothing_said_before_its_third_step() -> None:
    assert Watchdog(RULE, 0.0).look("", STEPS[:2], 1e9) is None
    assert Watchdog(RULE, 0.0).look("", [], 1e9) is None


@pytest.mark.parametrize("phase", LABELS)
def test_a_hang_is_reported_twice_and_then_ended_in_every_phase(phase: str) -> None:
    before = [] if phase == "environment" else [("environment", 30.0)]
    found, dog, _ = watched(rule(), [*before, (phase, 10 * H)])
    patience = PATIENCE_MIN[phase] * MIN
    assert [stall.number for stall in found] == [1, 2, 3]
    assert [dog.ends(stall) for stall in found] == [False, False, True]
    assert all(t * patience <= s.seconds < t * patience + 60 for t, s in zip(TIMES, found, strict=True))
    assert f"stalled: {LABELS[phase]} for " in str(found[0])


def test_where_it_is_only_to_be_reported_the_engine_is_left_alone() -> None:
    found, dog, _ = watched(rule(on_stall="report"), [("vllm", 20 * H)])
    assert [dog.ends(stall) for stall in found] == [False, False]


SETUP = [("environment", 300.0), ("ray", 60.0), ("data", 120.0), ("vllm", 900.0), ("policy", 900.0)]
FIRST = [("rollout", 1800.0), ("step", 600.0)]


@pytest.mark.parametrize(
    "late",
    [
        [("step", 9 * 600.0)],
        [("validation", H), ("step", 300.0)],
        [("step", 300.0), ("save", 20 * MIN)],
        [("step", 9 * 600.0), ("validation", H), ("save", 20 * MIN), ("step", 9 * 600.0)],
    ],
    ids=["a step of 9 times the median", "a validation of an hour", "a save of 20 minutes", "all of it"],
)
@pytest.mark.parametrize("longest", [None, {"validation": 60.0, "save": 5.0, "rollout": 900.0}])
def test_what_is_only_long_is_no_stall(late: list[tuple[str, float]], longest: dict[str, float] | None) -> None:
    usual = [("step", 600.0)] * 6
    assert watched(rule(longest=longest), [*SETUP, *FIRST, *usual, *late, *usual])[0] == []


def test_an_overlong_step_of_many_is_still_found_after_a_validation() -> None:
    found, _, _ = watched(rule(), [*SETUP, *FIRST, *[("step", 600.0)] * 6, ("validation", H), ("step", 4 * H)])
    assert [(s.phase, s.number, s.median_s) for s in found] == [("step", n, 600.0) for n in (1, 2, 3)]


def test_set_up_that_goes_back_and_forth_is_not_taken_for_progress() -> None:
    """vLLM's and the policy's workers print in turn where they start side by side."""
    found, dog, _ = watched(rule(), [("vllm", 300.0), ("policy", 300.0)] * 10)
    assert [(stall.phase, stall.number) for stall in found] == [("vllm", 1), ("vllm", 2), ("policy", 1)]
    assert dog.took == {"vllm": pytest.approx(50 * MIN, rel=0.1), "policy": pytest.approx(45 * MIN, rel=0.1)}


def test_steps_that_end_begin_the_patience_anew() -> None:
    stuck = rule(patience={"step": 20})
    assert watched(stuck, [("step", 15 * MIN)] * 20)[0] == []
    assert len(watched(stuck, [*[("step", 15 * MIN)] * 20, ("step", 25 * MIN)])[0]) == 1


def test_a_patience_is_learned_within_bounds_and_a_number_that_is_set_counts_as_it_is() -> None:
    assert learned("vllm", None) == 30 * MIN
    assert learned("vllm", 20 * MIN) == 60 * MIN
    assert learned("vllm", 5.0) == 15 * MIN, "a quick start of a small model is no measure of a slow disk"
    assert learned("vllm", 30 * H) == 2 * H, "nor one that hung for a day"
    one = rule(longest={"vllm": 20 * MIN, "ray": 60.0}, patience={"ray": 2.5, "data": 0, "policy": None, "step": 45})
    assert (one.patience["vllm"], one.patience["ray"]) == (60 * MIN, 150.0)
    assert not {"data", "policy"} & one.patience.keys()
    assert one.seconds("step", 60.0) == 45 * MIN
    assert rule(patience={"step": 0}).seconds("step", 60.0) is None


def test_a_phase_that_is_not_watched_is_left_alone() -> None:
    assert watched(rule(patience={"conversion": 0}), [("conversion", 50 * H)])[0] == []


def test_what_waits_for_data_that_cannot_come_is_said_soon() -> None:
    dog = Watchdog(rule(), 0.0)
    steps = [(n, 100.0 * n) for n in (1, 2, 3, 4)]
    assert dog.look("step", steps, 400.0, 4, True) is None
    found = dog.look("step", steps, 401.0 + HOPELESS_S, 4, True)
    assert found is not None and found.hopeless
    assert str(found) == "stalled: the training data are used up after step 4, and it waits for more"


def test_the_site_chooses() -> None:
    assert Rule.of({}) == Rule("restart", 10.0, 1800.0)
    site = {"on_stall": "report", "stall_factor": 3, "stall_minutes": 0}
    assert Rule.of({"site": site}) == Rule("report", 3.0, 0.0)
    with pytest.raises(UserError, match=r"site\.on_stall=reboot") as refused:
        Rule.of({"site": {"on_stall": "reboot"}})
    assert "site.on_stall=report or site.on_stall=restart" in refused.value.fix
