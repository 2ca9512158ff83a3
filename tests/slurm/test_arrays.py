"""Chunks of an array, and shares of `parallel`: within every limit, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_exp.slurm.arrays import Alive, Slot, chunks, fill, hand_on, slots


@given(count=st.integers(0, 5000), limit=st.integers(1, 1200))
def test_chunks_hold_every_run_once_and_none_is_larger_than_the_limit(count: int, limit: int) -> None:
    made = chunks(count, limit)
    assert [i for chunk in made for i in chunk] == list(range(count))
    assert len(made) == -(-count // limit)
    assert all(1 <= len(chunk) <= limit for chunk in made)


def test_a_thousand_points_of_three_shapes_at_a_limit_of_101() -> None:
    assert [len(c) for c in chunks(334, 101)] == [83, 84, 83, 84]
    assert [len(c) for c in chunks(101, 101)] == [101]
    assert [len(c) for c in chunks(102, 101)] == [51, 51]


@given(parallel=st.integers(1, 60), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_the_parts_of_what_may_run_at_once_are_parallel_at_most(parallel: int, sizes: list[int]) -> None:
    made = slots(parallel, sizes)
    free = [slot.throttle for slot in made if slot.behind is None]
    assert sum(free) <= parallel
    assert sum(free) == min(parallel, sum(sizes)) or len(sizes) > parallel
    assert all(slot.throttle >= 1 for slot in made)  # 0 is no limit to Slurm
    for number, slot in enumerate(made):  # each one that waits gets the part of one that is before it, alone
        assert slot.behind is None or slot.behind < number
    waited_for = [slot.behind for slot in made if slot.behind is not None]
    assert len(waited_for) == len(set(waited_for))


def test_parts_are_even_and_no_larger_than_an_array() -> None:
    assert slots(8, [100, 100, 100]) == [Slot(3), Slot(3), Slot(2)]
    assert slots(8, [1, 100]) == [Slot(1), Slot(7)]
    assert slots(2, [5, 5, 5]) == [Slot(1), Slot(1), Slot(1, behind=0)]


def test_what_is_left_when_all_have_their_most_stays() -> None:
    assert fill(10, [1, 1], [2, 3]) == [2, 3]


# --- handing on -----------------------------------------------------------------------------------------------------


def test_the_share_of_an_array_that_is_gone_passes_on() -> None:
    assert hand_on(4, [Alive("12", 2, running=2, waiting=30)]) == [("12", 4)]


def test_shares_that_an_array_has_no_tasks_for_any_more_pass_on() -> None:
    drained, busy = Alive("11", 5, running=2, waiting=1), Alive("12", 3, running=3, waiting=30)
    assert hand_on(8, [drained, busy]) == [("11", 3), ("12", 5)]  # first the one that gives
    assert hand_on(8, [Alive("11", None, running=2, waiting=0), busy]) == [("12", 6)]


def test_a_task_that_runs_is_never_counted_out() -> None:
    ending = Alive("11", None, running=1, waiting=0)
    assert hand_on(2, [ending, Alive("12", 1, running=1, waiting=9)]) == []


def test_nothing_is_changed_where_nobody_would_get_more() -> None:
    assert hand_on(4, [Alive("11", 3, 1, 0), Alive("12", 3, 3, 0)]) == []
    assert hand_on(2, [Alive("11", 1, 1, 5), Alive("12", 1, 1, 5)]) == []
    assert hand_on(4, [Alive("12", 2, 2, 9)], reserved=2) == []
    assert hand_on(4, []) == []


def test_an_array_whose_throttle_is_not_known_counts_with_all_its_tasks() -> None:
    assert hand_on(6, [Alive("11", None, running=1, waiting=2), Alive("12", 2, running=2, waiting=9)]) == [("12", 3)]


@st.composite
def moments(draw: st.DrawFn) -> tuple[int, list[Alive], int]:
    """Shares as they may be at some moment: never more in sum than `parallel`."""
    alive: list[Alive] = []
    for number in range(draw(st.integers(0, 6))):
        throttle = draw(st.integers(1, 6))
        waiting = draw(st.integers(0, 20))
        alive.append(Alive(str(number), throttle if waiting else None, draw(st.integers(0, throttle)), waiting))
    reserved = draw(st.integers(0, 4))
    used = sum(a.running if a.throttle is None else a.throttle for a in alive)
    return used + reserved + draw(st.integers(0, 5)) or 1, alive, reserved


@given(moments())
def test_at_no_moment_of_a_change_is_the_sum_more_than_parallel(moment: tuple[int, list[Alive], int]) -> None:
    parallel, alive, reserved = moment
    now = {a.job: a.running if a.throttle is None else a.throttle for a in alive}
    running = {a.job: a.running for a in alive}
    for job, tasks in hand_on(parallel, alive, reserved):
        now[job] = tasks
        assert tasks >= max(1, running[job])
        assert sum(now.values()) + reserved <= parallel
    # Nothing is left over while somebody could use it.
    could = [a for a in alive if a.throttle is not None and now[a.job] < a.running + a.waiting]
    spare = parallel - reserved - sum(min(now[a.job], a.running + a.waiting) for a in alive)
    assert not could or spare == 0


@pytest.mark.parametrize("parallel", [1, 2, 3, 7])
def test_arrays_that_drain_end_with_everything_in_the_last_one(parallel: int) -> None:
    sizes = [9, 4, 30]
    left = [size for size, slot in zip(sizes, slots(parallel, sizes), strict=True) if slot.behind is None]
    assert left
    last = Alive("2", 1, 1, 20)
    assert hand_on(parallel, [last]) == ([("2", parallel)] if parallel > 1 else [])
