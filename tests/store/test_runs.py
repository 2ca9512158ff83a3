"""The store: runs appear whole, damage stays in its own row, and of many claims one wins."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_case import DIGEST, Answer, aged, dead_process, everything_below, intend, make_attempt, make_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pace import limit

from nano_exp import files
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.launch import convergence
from nano_exp.report import status, table
from nano_exp.store import metrics_file, runs, state
from nano_exp.store.runs import Owner

HERE = runs.this_process()
JOB = Owner("12_3", 0, "node1", 77, 5.0)

# --- creating -------------------------------------------------------------------------------------------------------


def test_a_run_appears_whole(tmp_path: Path) -> None:
    folder = make_run(tmp_path, config={"grpo": {"seed": 1}}, record={"x": "é"})
    assert everything_below(tmp_path) == [
        "name",
        *(f"name/{folder.name}{e}" for e in ("", "/config.yaml", "/events", "/run.json")),
    ]
    run = runs.load(folder)
    assert (run.id, run.name, run.results) == (folder.name, "name", tmp_path)
    assert run.config() == {"grpo": {"seed": 1}}
    assert run.record["x"] == "é"
    assert run.damaged == []


def test_a_run_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path, config={"first": 1})
    assert runs.create(folder, {"second": 2}, {}) is False
    assert runs.load(folder).config() == {"first": 1}
    assert not [p for p in everything_below(tmp_path) if "staging" in p]


def test_a_creation_that_fails_midway_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        runs.create(tmp_path / "name" / "r1", {"a": 1}, {"cannot be JSON": object()})
    assert list(runs.find(tmp_path)) == []
    assert everything_below(tmp_path) == []


def test_a_file_where_the_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("in the way")
    with pytest.raises(UserError) as caught:
        make_run(tmp_path)
    assert "cannot write" in caught.value.found
    assert "run.results=" in caught.value.fix


def _create(folder: Path, barrier: Any, number: int, out: Any) -> None:
    barrier.wait()
    out.put((number, runs.create(folder, {"by": number}, {"digest": DIGEST})))


def race(target: Callable[..., None], count: int, *arguments: Any) -> list[Any]:
    """`count` processes let go at the same moment; what each put into the queue."""
    context = multiprocessing.get_context("fork")
    barrier, out = context.Barrier(count), context.Queue()
    started = [context.Process(target=target, args=(*arguments, barrier, n, out)) for n in range(count)]
    for process in started:
        process.start()
    found = [out.get(timeout=limit(60)) for _ in started]
    for process in started:
        process.join(timeout=limit(60))
        assert process.exitcode == 0
    return found


def test_of_many_creations_of_one_run_one_is_the_creator(tmp_path: Path) -> None:
    folder = tmp_path / "name" / "r1"
    found = race(_create, 8, folder)
    winners = [number for number, made in found if made]
    assert len(winners) == 1
    assert runs.load(folder).config() == {"by": winners[0]}
    assert everything_below(tmp_path / "name") == ["r1", "r1/config.yaml", "r1/events", "r1/run.json"]


# --- claiming -------------------------------------------------------------------------------------------------------

NUMBERS = 25


def _claim_all(folder: Path, barrier: Any, who: int, out: Any) -> None:
    won = []
    for number in range(1, NUMBERS + 1):
        barrier.wait()
        if runs.claim(folder, number, Owner(None, 0, "host", who, 0.0)) is not None:
            won.append(number)
    out.put((who, won))


def test_of_many_claims_of_one_attempt_exactly_one_wins(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    won = [(number, who) for who, numbers in race(_claim_all, 8, folder) for number in numbers]
    assert sorted(number for number, _ in won) == list(range(1, NUMBERS + 1))
    made = runs.attempts(folder)
    assert {a.number: a.owner.pid for a in made if a.owner} == dict(won), "the winner's own name is in what it won"
    assert not [p for p in (folder / "attempts").iterdir() if p.name.startswith(".")]


def test_a_claim_names_its_owner(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert runs.claim(folder, 1, JOB) == folder / "attempts" / "1"
    assert runs.claim(folder, 1, HERE) is None
    assert runs.attempts(folder) == [runs.Attempt(1, folder / "attempts" / "1", JOB, None)]


def test_attempts_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for number in (10, 2, 1):
        make_attempt(folder, number, HERE, {"kind": "failed"})
    (folder / "attempts" / "latest").symlink_to("10")
    (folder / "attempts" / ".claim-x").mkdir()
    (folder / "attempts" / "notes").mkdir()
    assert [a.number for a in runs.attempts(folder)] == [1, 2, 10]


# --- processes ------------------------------------------------------------------------------------------------------


def test_whether_an_owner_on_this_host_lives() -> None:
    assert runs.local_alive(HERE) is True
    assert runs.local_alive(Owner(None, 0, HERE.host, HERE.pid, HERE.started + 1)) is False, "the pid was given again"
    assert runs.local_alive(dead_process()) is False
    assert runs.local_alive(Owner(None, 0, "another-host", HERE.pid, HERE.started)) is None


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["true"])
    started = runs.process_start(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").is_dir()
    assert runs.process_start(process.pid) is None
    assert runs.local_alive(Owner(None, 0, HERE.host, process.pid, started or 0.0)) is False
    process.wait()


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for number in range(200):
        runs.record_event(folder, ("submit", "start", "note")[number % 3], durable=False, number=number)
    run = runs.load(folder)
    assert [e.data["number"] for e in run.events] == list(range(200))
    assert [e.time for e in run.events] == sorted(e.time for e in run.events)
    assert abs(run.events[-1].time - time.time()) < 60
    last = run.last("submit")
    assert last is not None
    assert last.data["number"] == 198
    assert run.last("refused") is None


def _record(folder: Path, barrier: Any, who: int, out: Any) -> None:
    barrier.wait()
    for number in range(25):
        runs.record_event(folder, "note", durable=False, who=who, number=number)
    out.put(who)


def test_events_that_nobody_wants_are_not_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    runs.record_event(folder, "note", text="x")
    assert [event.kind for event in runs.load(folder).events] == ["note"]
    assert runs.load(folder, events=False).events == [] and runs.load(folder, events=False).record


def test_no_event_of_many_writers_is_lost_or_torn(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    race(_record, 6, folder)
    run = runs.load(folder)
    assert run.damaged == []
    for who in range(6):
        assert [e.data["number"] for e in run.events if e.data["who"] == who] == list(range(25))


# --- taking away ----------------------------------------------------------------------------------------------------


def test_a_refused_run_vanishes_with_its_empty_folders(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folder = make_run(results)
    intend(folder)
    runs.discard(folder)
    assert everything_below(tmp_path) == []


def test_other_runs_stay_when_one_vanishes(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, run="r1"), make_run(tmp_path, run="r2")
    runs.discard(first)
    assert [r.dir for r in runs.find(tmp_path)] == [second]


@pytest.mark.parametrize("trace", ["attempts/1", "metrics.jsonl"])
def test_a_run_that_ever_did_something_is_never_taken_away(tmp_path: Path, trace: str) -> None:
    folder = make_run(tmp_path)
    (folder / trace).mkdir(parents=True)
    runs.discard(folder)
    assert folder.is_dir()


# --- damage ---------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[str, bytes | None]] = {
    "run.json cut off": ("run.json", b'{"digest": "d'),
    "run.json empty": ("run.json", b""),
    "run.json missing": ("run.json", None),
    "run.json not UTF-8": ("run.json", b"\xff\xfe{}"),
    "run.json a list": ("run.json", b"[1]"),
    "an event cut off": ("events/00000000000000000001-note-abcdef.json", b'{"time": 1'),
    "an event without a time": ("events/00000000000000000001-note-abcdef.json", b'{"kind": "note"}'),
    "an event that is a number": ("events/00000000000000000001-note-abcdef.json", b"7"),
    "owner.json cut off": ("attempts/1/owner.json", b'{"job"'),
    "owner.json of another shape": ("attempts/1/owner.json", b'{"who": 1}'),
    "owner.json of other types": ("attempts/1/owner.json", b'{"job":1,"restart":"x","host":2,"pid":"p","started":[]}'),
    "end.json a string": ("attempts/1/end.json", b'"done"'),
    "metrics.jsonl with garbage": (
        "metrics.jsonl",
        b'{"step": "x"}\n\x00\xff\n{"step": 3, "train/reward": "high"}\n[1]\n',
    ),
}


@pytest.mark.parametrize(("name", "content"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_harms_its_own_row_alone(tmp_path: Path, name: str, content: bytes | None) -> None:
    good, bad = make_run(tmp_path, run="r1"), make_run(tmp_path, run="r2")
    for folder in (good, bad):
        intend(folder, local=dead_process())
        make_attempt(folder, 1, dead_process(), {"kind": "stopped", "why": "SIGINT"})
    path = bad / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    asked = Answer([])
    lines = sorted(status.lines(tmp_path, [], asked), key=lambda line: line.run)  # a damaged one has no age
    assert [line.run for line in lines] == ["r1", "r2"]
    assert lines[0].state == "stopped"
    assert "r2" in table.table(lines, asked.error)
    assert len(json.loads(status.as_json(lines, asked))["runs"]) == 2
    if name == "run.json":
        assert lines[1].state == "damaged"
        assert lines[1].damaged
    if name.startswith("events"):
        assert lines[1].damaged
        assert lines[1].state == "stopped", "its other files still tell"


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


def shaped(*keys: str) -> st.SearchStrategy[Any]:
    """A mapping with some of the keys that are looked for, each holding anything; or anything at all."""
    return st.one_of(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, anything)), anything)


@given(
    record=shaped("digest", "overrides", "launch", "created", "user", "max_steps", "id"),
    event=st.fixed_dictionaries(
        {
            "time": st.one_of(st.just(1.0), anything),
            "kind": st.sampled_from(["submit", "refused", "start", "end", "requeue", "stalled"]),
        },
        optional=dict.fromkeys(
            ("launch", "array", "task", "after_attempt", "local", "why", "attempt", "seconds", "step"), anything
        ),
    ),
    owner=shaped("job", "restart", "host", "pid", "started"),
    end=st.one_of(st.none(), shaped("kind", "why", "seconds", "diagnosis")),
    metric=shaped("step", "time", "train/reward", "validation/accuracy"),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_files_hold_nothing_fails_as_a_whole(
    record: Any, event: Any, owner: Any, end: Any, metric: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read_damaged(Path(folder), record, event, owner, end, metric)


def read_damaged(results: Path, record: Any, event: Any, owner: Any, end: Any, metric: Any) -> None:
    make_run(results, run="r1")
    bad = make_run(results, run="r" + DIGEST[:10])
    (bad / "run.json").write_text(json.dumps(record))
    (bad / "events" / "00000000000000000001-x-abcdef.json").write_text(json.dumps(event))
    folder = bad / "attempts" / "1"
    folder.mkdir(parents=True)
    (folder / "owner.json").write_text(json.dumps(owner))
    if end is not None:
        (folder / "end.json").write_text(json.dumps(end))
    (bad / "metrics.jsonl").write_text(json.dumps(metric) + "\n")

    asked = Answer([])
    aged(results)
    lines = status.lines(results, [], asked, now=2e9)
    assert repr(status.lines(results, [], asked, now=2e9)) == repr(lines), "the same from the cache"
    assert {line.run for line in lines} == {"r1", bad.name}
    assert all(line.state in state.MEANING for line in lines)
    table.table(lines, asked.error)
    json.loads(status.as_json(lines, asked), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    wanted = [frozen_of(results, digest) for digest in (DIGEST, "e" * 64)]
    try:
        made = convergence.make(wanted, False, asked)
    except UserError as error:
        assert error.fix
    else:
        assert len(made.rows) == 2


def frozen_of(results: Path, digest: str) -> Frozen:
    config = {"run": {"results": str(results)}, "grpo": {"max_num_steps": 4}, "engine": {"name": "embedded"}}
    return Frozen("name", digest, (), config)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_are_read_while_they_are_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert metrics_file.read(folder) == []
    lines = [json.dumps({"step": n, "train/reward": n / 10}) for n in range(1, 6)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "train/rew')
    assert [row["step"] for row in metrics_file.read(folder)] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in metrics_file.read(folder, tail_bytes=100)] == [4, 5]


def test_rows_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    path = folder / "metrics.jsonl"
    assert metrics_file.cut(folder, 3) == 0
    assert not path.exists()
    path.write_text("".join(json.dumps({"step": n, "x": 0.1 + 0.2}) + "\n" for n in (0, 1, 2, 3, 4)) + '{"step": 5, "x')
    assert [metrics_file.cut(folder, 3) for _ in range(2)] == [2, 0]
    assert [(row["step"], row["x"]) for row in metrics_file.read(folder)] == [(n, 0.1 + 0.2) for n in (0, 1, 2, 3)]
    assert path.read_text().endswith("}\n"), "the next row starts on a line of its own"
    assert metrics_file.cut(folder, 0) == 4
    assert metrics_file.read(folder) == []


def test_half_a_line_is_cut_even_where_no_row_goes(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "x')
    metrics_file.cut(folder, 1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    assert [row["step"] for row in metrics_file.read(folder)] == [1, 2]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([0.1, 0.2], ""),
        ([0.1, float("nan")], "train/loss was not finite in step 2"),
        ([0.1, float("inf"), 0.3, float("-inf")], "train/loss was not finite in 2 steps, first in step 2"),
    ],
)
def test_what_was_not_finite_is_said(tmp_path: Path, losses: list[float], words: str) -> None:
    folder = make_run(tmp_path)
    with metrics_file.open_to_append(folder) as file:
        for step, loss in enumerate(losses, 1):
            file.write(metrics_file.line({"step": step, "train/loss": loss, "train/reward": 0.5}))
    rows = metrics_file.read(folder)
    assert metrics_file.nonfinite(rows) == words
    metrics_file.cut(folder, len(losses) - 1)
    assert metrics_file.read(folder) == rows[:-1]


def test_bare_nan_of_another_writer_is_read_as_null(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / "metrics.jsonl").write_text('{"step": 3, "train/loss": NaN, "x": -Infinity, "y": 1}\n')
    assert metrics_file.read(folder) == [
        {"step": 3, "train/loss": None, "x": None, "y": 1, "nonfinite": ["train/loss", "x"]}
    ]


def test_first_and_last_value_of_a_metric() -> None:
    rows = [{"step": 1, "a": 0.5}, {"step": 2}, {"step": 3, "a": 1, "b": "x"}]
    assert metrics_file.first_and_last(rows, "a") == (0.5, 1.0)
    assert metrics_file.first_and_last(rows, "b") is None


# --- launches and files ---------------------------------------------------------------------------------------------


def test_the_jobs_of_a_launch_are_remembered(tmp_path: Path) -> None:
    runs.launch_dir(tmp_path, "L").mkdir(parents=True)
    for array, job in ((0, "12"), (1, "13"), (10, "14")):
        runs.record_job(tmp_path, "L", array, job)
    (runs.launch_dir(tmp_path, "L") / "job-2.json").write_text("{")
    assert runs.jobs_of(tmp_path, "L") == {0: "12", 1: "13", 10: "14"}
    assert runs.jobs_of(tmp_path, "another") == {}


def test_a_launch_folder_is_no_run(tmp_path: Path) -> None:
    runs.launch_dir(tmp_path, "L").mkdir(parents=True)
    make_run(tmp_path)
    assert len(list(runs.find(tmp_path))) == 1
    assert list(runs.find(tmp_path / "nowhere")) == []


def test_reading_damage_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.yaml").write_text("a: [1\nb: }")
    with pytest.raises(Damaged, match=r"a\.json is not JSON"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(Damaged, match=r"a\.yaml is not YAML"):
        files.read_yaml(tmp_path / "a.yaml")


def test_writing_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \ud800")
    assert files.read_json(path) == {"a": 1}
    assert everything_below(tmp_path) == ["a.json"]


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("0123456789é")
    assert files.tail(tmp_path / "log", window=5) == "789é"
    assert files.tail(tmp_path / "none") == ""


def test_events_are_in_the_order_of_their_making_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 30 * 10**9)
    runs.record_event(folder, "refused", launch="A")
    monkeypatch.setattr(time, "time_ns", lambda: now)
    runs.record_event(folder, "submit", launch="B")
    assert [event.kind for event in runs.load(folder).events] == ["refused", "submit"]


def test_a_run_may_have_jobs_of_everybody_who_submitted_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path, record={"user": "alice"})
    runs.record_event(folder, "submit", launch="A", user="bob")
    runs.record_event(folder, "submit", launch="B")
    assert runs.load(folder).users == {"alice", "bob"}
