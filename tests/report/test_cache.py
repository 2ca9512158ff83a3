"""Status's cache: the same lines as without it, whatever happened to the runs; ignored where it cannot be right."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, aged, intend, make_attempt, make_run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nano_exp import files
from nano_exp.index import cache, overview
from nano_exp.index.selection import folders
from nano_exp.report import status
from nano_exp.store import metrics_file, phase, runs, state
from nano_exp.store.runs import Owner

NOW = 2e9
TASK = Owner("12_0", 0, "node1", 7, 1.0)
DIAGNOSIS = {
    "cause": "gpu_oom",
    "title": "out of GPU memory",
    "remedy": "policy.x=1",
    "fault": "config",
    "lines": ["x"],
}


def sent(folder: Path) -> None:
    intend(folder, array=0, task=0, after=len(runs.attempts(folder)))


def job_written_down(folder: Path) -> None:
    launch = runs.launch_dir(folder.parent.parent, "L")
    launch.mkdir(parents=True, exist_ok=True)
    runs.record_job(folder.parent.parent, "L", 0, "12")


def claimed(folder: Path) -> None:
    number = len(runs.attempts(folder)) + 1
    make_attempt(folder, number, TASK)
    runs.record_event(folder, "start", durable=False, attempt=number, launch="L")


def ended(end: dict[str, Any]) -> Callable[[Path], None]:
    def end_it(folder: Path) -> None:
        tried = runs.attempts(folder)
        if tried:
            files.write_json(tried[-1].dir / "end.json", {"seconds": 90, **end})
            runs.record_event(folder, "end", durable=False, end=end)

    return end_it


def stepped(folder: Path) -> None:
    with metrics_file.open_to_append(folder) as file:
        step = overview.progress.newest(folder).step + 1
        file.write(json.dumps({"step": step, "train/reward": step / 7, "time": float(step)}) + "\n")
        file.write(json.dumps({"step": step, "validation/accuracy": step / 9}) + "\n")


def told(kind: str, **data: Any) -> Callable[[Path], None]:
    return lambda folder: runs.record_event(folder, kind, durable=False, **data)


def without_its_record(folder: Path) -> None:
    (folder / "run.json").unlink(missing_ok=True)


def _in_phase(folder: Path, name: str) -> None:
    if (folder / "attempts" / "1").is_dir():
        phase.write(folder / "attempts" / "1", phase.Now(name, NOW - 60.0))


HAPPENINGS: dict[str, Callable[[Path], None]] = {
    "sent": sent,
    "job": job_written_down,
    "claimed": claimed,
    "stepped": stepped,
    "stopped": ended({"kind": "stopped", "why": "time limit"}),
    "failed": ended({"kind": "failed", "why": "exit code 1", "diagnosis": DIAGNOSIS}),
    "done": ended({"kind": "done", "why": ""}),
    "stalled": told("stalled", attempt=1, seconds=600.0, step=1),
    "set-up": lambda folder: _in_phase(folder, "vllm"),
    "training": lambda folder: _in_phase(folder, "step"),
    "requeue": told("requeue", attempt=1, why="time limit"),
    "cancel": told("cancel", job="12_0"),
    "refused": told("refused", why="Invalid account"),
    "note": told("note", text="a word"),
    "damaged": without_its_record,
}
QUEUES = [
    [],
    None,
    [f"12_0|RUNNING|{state.job_name('L', 0, 'name')}|None"],
    [f"12_[0-3%2]|PENDING|{state.job_name('L', 0, 'name')}|Priority"],
]


def shown(results: Path, queue: list[str] | None = None) -> str:
    return repr(status.lines(results, [], Answer(queue), now=NOW))


def shown_without_cache(results: Path, queue: list[str] | None) -> str:
    """As on the first call ever; what is in the cache stays."""
    kept = cache.Cache(results).of("name").path
    aside = kept.with_name("aside")
    if kept.exists():
        kept.rename(aside)
    found = shown(results, queue)
    if aside.exists():
        aside.replace(kept)
    else:
        kept.unlink(missing_ok=True)
    return found


@given(st.lists(st.tuples(st.sampled_from(list(HAPPENINGS)), st.integers(0, 2), st.sampled_from(QUEUES)), max_size=12))
@example([(name, 0, []) for name in ("sent", "cancel", "claimed", "failed")])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_the_lines_are_the_same_with_and_without_the_cache(
    tmp_path_factory: pytest.TempPathFactory, happened: list[tuple[str, int, list[str] | None]]
) -> None:
    results = tmp_path_factory.mktemp("results")
    made = [make_run(results, run=f"r{n}", record={"created": 1e9}) for n in range(3)]
    for name, which, queue in happened:
        HAPPENINGS[name](made[which])
        aged(results)
        assert shown(results, queue) == shown_without_cache(results, queue)
        asked = Answer(queue)
        for line in status.lines(results, [], asked, now=NOW):
            assert line.state == asked.state(runs.load(Path(line.dir))).kind, "as from all of its events"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the runs that were read."""
    read: list[Path] = []
    real = overview.read
    monkeypatch.setattr(overview, "read", lambda folder, launches: read.append(folder) or real(folder, launches))
    return read


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One run that is done, one that failed, one that waits."""
    results = tmp_path / "results"
    for number, end in enumerate(("done", "failed", None)):
        folder = make_run(results, run=f"r{number}")
        sent(folder)
        if end:
            claimed(folder)
            stepped(folder)
            HAPPENINGS[end](folder)
    aged(results)
    return results


def test_what_did_not_change_is_not_read_again(store: Path, counted: list[Path]) -> None:
    first = shown(store)
    assert len(counted) == 3
    assert shown(store) == first
    assert len(counted) == 3


@pytest.mark.parametrize("name", sorted(set(HAPPENINGS) - {"job"}))
@pytest.mark.parametrize("which", [1, 2])
def test_whatever_changes_a_run_is_noticed(store: Path, counted: list[Path], name: str, which: int) -> None:
    shown(store)
    counted.clear()
    HAPPENINGS[name](store / "name" / f"r{which}")
    shown(store)
    if not (which == 2 and name in ("stopped", "failed", "done", "set-up", "training")):  # no attempt yet
        assert counted == [store / "name" / f"r{which}"]


def test_what_has_just_changed_is_not_kept_because_it_may_change_again_in_the_same_tick(
    store: Path, counted: list[Path]
) -> None:
    stepped(store / "name" / "r2")
    shown(store)
    counted.clear()
    shown(store)
    assert counted == [store / "name" / "r2"]


def test_a_file_system_whose_clock_is_behind_is_believed_and_not_this_hosts(
    store: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped(store / "name" / "r2")
    monkeypatch.setattr(cache.time, "time", lambda: 9e9)
    shown(store)
    counted.clear()
    shown(store)
    assert counted == [store / "name" / "r2"]


DAMAGES = {
    "cut off": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: "",
    "binary": lambda whole: "\0\1\2",
    "another version": lambda whole: whole.replace(f'"version":{cache.VERSION}', '"version":0'),
    "a list": lambda whole: "[]",
    "runs are a list": lambda whole: '{"version":2,"runs":[],"accounting":{}}',
    "entries of another shape": lambda whole: (
        '{"version":2,"runs":{"r0":[[1],[2],[3]],"r1":7},"accounting":{"12":[1]}}'
    ),
    "accounting of another shape": lambda whole: '{"version":2,"runs":{},"accounting":[1]}',
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_ignored_and_written_anew(
    store: Path, counted: list[Path], damage: Callable[[str], str]
) -> None:
    first = shown(store)
    path = cache.Cache(store).of("name").path
    path.write_text(damage(path.read_text()))
    assert shown(store) == first
    counted.clear()
    assert shown(store) == first
    assert counted == []


def test_results_that_cannot_be_written_are_shown_all_the_same(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shown(store)
    cache.Cache(store).of("name").path.unlink()
    real = Path.open

    def read_only(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if "w" in mode or "a" in mode:
            raise PermissionError(30, "Read-only file system")
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", read_only)
    assert shown(store) == first
    assert not cache.Cache(store).of("name").path.exists()


def test_many_at_once_leave_a_whole_cache_and_nothing_else(store: Path) -> None:
    first = shown(store)
    saved = cache.Cache(store).of("name").path.read_text()

    def look() -> None:
        for _ in range(20):
            made = cache.Cache(store)
            made.get(folders(store))
            made.read_anew = 99
            made.save(folders(store))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in cache.Cache(store).folder.iterdir()] == [cache.Cache(store).of("name").path.name]
    assert cache.Cache(store).of("name").path.read_text() == saved
    assert shown(store) == first


def test_a_look_at_some_runs_forgets_nothing_of_the_others(store: Path, counted: list[Path]) -> None:
    make_run(store, name="other", run="r9")
    aged(store)
    shown(store)
    stepped(store / "name" / "r2")
    status.lines(store, ["r2"], Answer([]))
    counted.clear()
    shown(store)
    assert counted == [store / "name" / "r2"]


def test_runs_that_are_gone_are_gone_from_the_cache(store: Path) -> None:
    shown(store)
    runs.discard(store / "name" / "r2")
    (store / "name" / "r1").rename(store / "name" / "r3")
    assert shown(store).count("Line(") == 2
    known = json.loads(cache.Cache(store).of("name").path.read_text())["runs"]
    assert sorted(known) == ["r0", "r3"]
