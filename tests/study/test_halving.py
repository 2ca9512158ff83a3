"""Who goes on from a rung: a pure function of what was measured there, whatever comes first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_exp.study import halving
from nano_exp.study.halving import Halving, Member, decide

RULES = Halving((20, 60), 0.34)


def member(point: str, *values: float, level: int = 0, seed: int = 1, out: bool = False) -> Member:
    return Member(f"{point}{seed}", point, level, dict(enumerate(values)), out)


def going(members: list[Member], rules: Halving = RULES) -> list[tuple[str, int]]:
    return [(one.point, one.rung) for one in decide(members, rules)]


def test_the_best_third_of_those_that_came_goes_on_at_once() -> None:
    waits = [member(p) for p in "defghi"]
    assert going([member("a", 0.2), member("b", 0.4), member("c"), *waits]) == [], "a third of two is none"
    three = [member("a", 0.2), member("b", 0.4), member("c", 0.3), *waits]
    promotion = decide(three, RULES)[0]
    assert (promotion.point, promotion.place, promotion.reached, promotion.goes_on) == ("b", 1, 3, 1)
    assert promotion.why(RULES) == "validation/accuracy 0.4, 1 of 3 that reached step 20"
    assert going([replace(one, level=one.point == "b") for one in three]) == [], "it was told so"


def test_a_point_is_the_mean_of_its_seeds_and_waits_for_all_of_them() -> None:
    a = [member("a", 0.9, seed=1), member("a", 0.1, seed=2)]
    b = [member("b", 0.6, seed=1), member("b", 0.6, seed=2)]
    assert going([*a, *b, member("c", 0.2)]) == [("b", 0)]
    assert going([*a, b[0], member("b", seed=2), member("c", 0.2)]) == [], "one of b's seeds is still to come"
    assert going([*a, b[0], member("b", seed=2, out=True), member("c", 0.2)]) == [("b", 0)], "it will not come"


def test_where_nothing_is_to_come_the_best_goes_on_in_any_case() -> None:
    assert going([member("a", 0.1), member("b", 0.2)]) == [("b", 0)]
    assert going([member("a", 0.1), member("b", 0.2, 0.3, level=1)]) == [("b", 1)], "and from the next rung to its end"
    assert going([member("a"), member("b", 0.2, 0.3, level=1)]) == [], "a may still come to the lower rung"
    assert going([member("a", out=True), member("b", math.nan)]) == [("b", 0)]
    assert going([member("a", 0.3, out=True), member("b", 0.2)]) == [], "the best was ended by a rule"


def test_while_a_search_adds_points_nobody_goes_on_for_being_the_last() -> None:
    two = [member("a", 0.1), member("b", 0.2)]
    assert decide(two, RULES, more_to_come=True) == []
    assert [one.point for one in decide([*two, member("c", 0.3)], RULES, more_to_come=True)] == ["c"], (
        "a third of three"
    )


def test_less_may_be_better_and_what_is_not_finite_is_the_worst() -> None:
    rules = replace(RULES, higher_is_better=False)
    assert going([member("a", math.nan), member("b", 0.5), member("c", 0.2)], rules) == [("c", 0)]


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9), st.randoms(use_true_random=False))
def test_replayed_in_any_order_and_decided_twice_nobody_is_lost_and_the_best_of_all_goes_on(values, chance) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(values)))
    chance.shuffle(order)
    members = [member(str(n)) for n in range(len(values))]
    told: list[tuple[str, int]] = []
    for n in order:
        members[n] = member(str(n), values[n])
        for again in (1, 2):  # two ends in one second: the second finds nothing left to decide
            news = going(members)
            assert again == 1 or not news
            told += news
            promoted = {point for point, _ in told}
            members = [replace(one, level=int(one.point in promoted)) for one in members]
    best = max(range(len(values)), key=lambda n: (values[n], -n))
    assert str(best) in {point for point, _ in told}
    assert len(told) == len(set(told)) >= max(1, int(0.34 * len(values)))


@pytest.mark.parametrize(("level", "step"), [(0, 20), (1, 60), (2, 120), (3, 120)])
def test_an_attempt_trains_to_its_rung(level: int, step: int) -> None:
    assert halving.target(RULES, level, 120) == step
    assert halving.target(None, level, 120) == 120


def test_a_value_is_the_last_one_up_to_the_rung() -> None:
    rows = [{"step": 10, "v": 0.1}, {"step": 20, "v": 0.2}, {"step": 30, "v": 0.3}]
    assert halving.value_at(rows, "v", 20) == 0.2
    assert math.isnan(halving.value_at(rows, "v", 5))
    assert math.isnan(halving.value_at([*rows, {"step": 31, "v": None}], "v", 40))


def test_at_least_each_rungs_part_goes_on() -> None:
    assert halving.least_steps(9, Halving((20, 40)), 120) == 9 * 20 + 3 * 20 + 80
    assert halving.least_steps(1, Halving((20, 40)), 120) == 120
