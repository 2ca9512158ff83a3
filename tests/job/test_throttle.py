"""Shares of `parallel` by what Slurm's queue shows, and who hands them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nano_exp import slurm
from nano_exp.job import throttle
from nano_exp.slurm.arrays import Alive
from nano_exp.store import runs


def manifest(parallel: int | None, *arrays: tuple[int, int, int | None]) -> dict[str, Any]:
    """(runs, throttle, behind) of each array."""
    entries = [
        {"job_name": f"nx-L.{k}-n", "throttle": share, "behind": behind, "runs": ["r"] * count}
        for k, (count, share, behind) in enumerate(arrays)
    ]
    return {"terms": {"parallel": parallel}, "arrays": entries, "by_hand": False}


def queue(*lines: str) -> slurm.Queue:
    """Lines as `%i|%T|K`, K the array's number in the launch."""
    whole = [f"{line.rpartition('|')[0]}|nx-L.{line.rpartition('|')[2]}-n|None" for line in lines]
    return slurm.Queue([job for line in whole if (job := slurm.parse_squeue_line(line))])


def test_the_queue_tells_what_each_array_uses() -> None:
    three = manifest(6, (9, 2, None), (9, 2, None), (1, 2, None))
    now = queue("11_[4-8%2]|PENDING|0", "11_3|RUNNING|0", "11_2|CONFIGURING|0", "11_1|PENDING|0", "13|RUNNING|2")
    alive, reserved = throttle.look(three, now, {0: "11", 1: "12", 2: "13"})
    assert alive == [Alive("11", 2, running=2, waiting=6), Alive("13", None, running=1, waiting=0)]
    assert reserved == 0


def test_an_array_that_is_not_sent_yet_keeps_its_share_and_a_refused_one_has_none() -> None:
    three = manifest(6, (9, 2, None), (9, 3, None), (9, 1, None))
    now = queue("11_[4-8%2]|PENDING|0")
    assert throttle.look(three, now, {0: "11"})[1] == 4
    assert throttle.look(three, now, {0: "11", 1: "", 2: ""})[1] == 0
    # Sent, and its number is not written down yet.
    assert throttle.look(three, queue("11_[4-8%2]|PENDING|0", "12_[0-8%3]|PENDING|1"), {0: "11"})[1] == 1


def test_an_array_behind_another_has_no_share_before_that_one_has_ended() -> None:
    two = manifest(1, (2, 1, None), (2, 1, 0))
    sent = {0: "11", 1: "12"}
    both = throttle.look(two, queue("11_1|RUNNING|0", "12_[0-1%1]|PENDING|1"), sent)
    assert [a.job for a in both[0]] == ["11"]
    assert [a.job for a in throttle.look(two, queue("12_[0-1%1]|PENDING|1"), sent)[0]] == ["12"]
    assert throttle.look(two, queue(), {}) == ([], 1)


def test_slurm_is_asked_for_a_throttle_that_squeue_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "control", lambda job: slurm.Control(0, False, throttle=3))
    now = queue("11_8|PENDING|0", "11_7|RUNNING|0", "12|PENDING|1")
    alive, _ = throttle.look(manifest(4, (9, 2, None), (1, 1, None)), now, {0: "11", 1: "12"})
    assert alive == [Alive("11", 3, 1, 1), Alive("12", None, 0, 1)]


# --- telling Slurm --------------------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is told to Slurm while array 0 drains and array 1 could use more."""
    found: list[tuple[str, int]] = []

    def tell(job: str, tasks: int) -> str:
        found.append((job, tasks))
        return ""

    now = queue("11_[8-8%4]|PENDING|0", "11_7|RUNNING|0", "12_[3-8%4]|PENDING|1", "12_2|RUNNING|1")
    monkeypatch.setattr(slurm, "queue", lambda merged: now)
    monkeypatch.setattr(slurm, "throttle", tell)
    return found


def hand_on(folder: Path, given: dict[str, Any]) -> list[str]:
    for number in (0, 1):
        runs.record_job(folder.parent.parent, folder.name, number, f"{11 + number}")
    said: list[str] = []
    throttle.hand_on(folder, given, said.append)
    return said


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    folder = runs.launch_dir(tmp_path, "L")
    folder.mkdir(parents=True)
    return folder


BOTH = manifest(8, (9, 4, None), (9, 4, None))


def test_shares_are_given_up_before_they_are_given_away(launch: Path, told: list[tuple[str, int]]) -> None:
    said = hand_on(launch, BOTH)
    assert told == [("11", 2), ("12", 6)]
    assert said == [f"parallel=8: job {job} may run {n} at once now" for job, n in told]


def test_a_study_of_one_array_gets_back_what_it_gave_to_a_run_that_went_on(
    launch: Path, told: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = manifest(3, (9, 3, None))
    given["terms"]["halving"] = {"rungs": [20]}
    now = queue("11_[5-8%2]|PENDING|0", "11_4|RUNNING|0", "20_1|RUNNING|0", "20_2|RUNNING|0")
    monkeypatch.setattr(slurm, "queue", lambda merged: now)
    runs.record_job(launch.parent.parent, launch.name, 0, "11")
    throttle.hand_on(launch, given, print, "11_4")
    assert told == [], "it still has one"
    now = queue("11_[5-8%2]|PENDING|0", "11_4|RUNNING|0", "20_1|RUNNING|0")
    throttle.hand_on(launch, given, print, "20_1")
    assert told == [("11", 3)]


def test_a_share_that_was_not_given_up_is_not_given_away(
    launch: Path, told: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "throttle", lambda job, tasks: told.append((job, tasks)) or "Access denied")
    assert hand_on(launch, BOTH) == ["parallel=8: job 11 may run 2 at once now: refused (Access denied)"]
    assert told == [("11", 2)]


@pytest.mark.parametrize(
    "given", [manifest(None, (9, 4, None), (9, 4, None)), manifest(8, (9, 8, None)), {**BOTH, "by_hand": True}]
)
def test_where_nothing_is_shared_slurm_is_not_asked(
    launch: Path, told: list[tuple[str, int]], given: dict[str, Any]
) -> None:
    assert hand_on(launch, given) == []
    assert told == []


def test_an_array_that_is_sent_while_the_queue_is_looked_up_keeps_its_share(
    launch: Path, told: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = manifest(8, (9, 3, None), (9, 3, None), (9, 2, None))
    before = slurm.queue(merged=True)

    def sent_behind_it(merged: bool) -> slurm.Queue:
        runs.record_job(launch.parent.parent, launch.name, 2, "13")
        return before

    monkeypatch.setattr(slurm, "queue", sent_behind_it)
    assert hand_on(launch, three) == told == []


def test_without_an_answer_shares_stay(launch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(merged: bool) -> slurm.Queue:
        raise slurm.NoAnswer("Unable to contact slurm controller")

    monkeypatch.setattr(slurm, "queue", no_answer)
    assert hand_on(launch, BOTH) == ["parallel=8: shares stay as they are: Unable to contact slurm controller"]


def test_one_process_at_a_time_hands_on(
    launch: Path, told: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(throttle, "PATIENCE_S", 0.0)
    with (launch / "throttle.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert hand_on(launch, BOTH) == []
    assert told == []


# --- room for a run that goes on from a rung ------------------------------------------------------------------------


def make_room(folder: Path, parallel: int | None, now: slurm.Queue, leaving: str | None) -> bool:
    runs.record_job(folder.parent.parent, folder.name, 0, "11")
    return throttle.make_room(folder, manifest(parallel, (9, parallel or 1, None)), leaving, lambda _: None)


@pytest.mark.parametrize(
    ("parallel", "lines", "leaving", "room", "tells"),
    [
        (None, [], None, True, []),
        (2, ["11_8|RUNNING|0"], None, True, []),
        (2, ["11_8|RUNNING|0", "11_7|RUNNING|0"], None, False, []),
        (2, ["11_8|RUNNING|0", "11_7|RUNNING|0"], "11_7", True, []),
        (2, ["11_8|RUNNING|0", "15_3|PENDING|0"], "11_8", True, []),
        (2, ["11_7|RUNNING|0", "15_3|RUNNING|0", "11_8|RUNNING|0"], "11_8", False, []),
        (3, ["11_[7-8%3]|PENDING|0", "11_6|RUNNING|0", "11_5|RUNNING|0"], "11_5", True, [("11", 2)]),
        (1, ["11_[7-8%1]|PENDING|0", "11_6|RUNNING|0"], "11_6", False, []),
    ],
    ids=["no limit", "room", "full", "its place", "its place besides another", "another took it", "a share", "last"],
)
def test_a_run_goes_on_within_parallel(
    launch: Path,
    told: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    parallel: int | None,
    lines: list[str],
    leaving: str | None,
    room: bool,
    tells: list[tuple[str, int]],
) -> None:
    monkeypatch.setattr(slurm, "queue", lambda merged: queue(*lines))
    assert make_room(launch, parallel, queue(*lines), leaving) is room
    assert told == tells


def test_there_is_no_room_where_an_array_keeps_its_share(
    launch: Path, told: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = queue("11_[7-8%3]|PENDING|0", "11_6|RUNNING|0", "11_5|RUNNING|0")
    monkeypatch.setattr(slurm, "queue", lambda merged: now)
    monkeypatch.setattr(slurm, "throttle", lambda job, tasks: "Access denied")
    assert not make_room(launch, 3, now, "11_5")
