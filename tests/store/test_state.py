"""The state of a run, from real folders and a queue made of squeue's lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, dead_process, intend, make_attempt, make_run

from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import job_lookup
from nano_exp.store.runs import Owner
from nano_exp.store.state import MEANING

JOB = "12_3"
NAME = state.job_name("L", 0, "name")
SELF = runs.this_process()
DEAD = dead_process()
ELSEWHERE = Owner(None, 0, "another-host", 7, 1.0)
TASK = Owner(JOB, 0, "node1", 7, 1.0)
DONE = {"kind": "done", "why": ""}
STOPPED = {"kind": "stopped", "why": "saved before the time limit"}
EARLY = {"kind": "ended early", "why": "stop.flat_steps=3 at step 9: all advantages were 0"}
PAUSED = {"kind": "paused", "rung": 0, "why": "rung at step 20: validation/accuracy 0.5"}
FAILED = {"kind": "failed", "why": "engine: exit code 1"}

Make = Callable[[Path], Any]


def sent(folder: Path, after: int = 0, recorded: bool = True) -> None:
    """Submitted as task 3 of array 0 of launch L, which became job 12."""
    intend(folder, array=0, task=3, after=after)
    if recorded:
        runs.launch_dir(folder.parent.parent, "L").mkdir(parents=True, exist_ok=True)
        runs.record_job(folder.parent.parent, "L", 0, "12")


def packed(folder: Path) -> None:
    """Submitted with others as task 3 of array 0 of launch L, which became job 12."""
    sent(folder)
    data = {**runs.load(folder).events[-1].data, "packed": True}
    runs.record_event(folder, "submit", durable=False, **{k: v for k, v in data.items() if k not in ("time", "kind")})


def requeued(folder: Path) -> None:
    runs.record_event(folder, "requeue", durable=False, attempt=1, by="attempt", why="time limit")


def by_hand(folder: Path, after: int = 0) -> None:
    """Frozen as task 3 of array 0 of launch L."""
    intend(folder, array=0, task=3, after=after, by_hand=True)


def tried(number: int, owner: Owner, end: Mapping[str, Any] | None = None) -> Make:
    return lambda folder: make_attempt(folder, number, owner, end)


def unasked(folder: Path) -> None:
    runs.record_event(folder, "refused", durable=False, launch="L", why="Ctrl-C came first", asked=False)


def refused(folder: Path) -> None:
    runs.record_event(folder, "refused", durable=False, launch="L", why="sbatch: Invalid account")


def out_of_budget(folder: Path) -> None:
    runs.record_event(folder, "cancel", durable=False, cause="budget", why="spent")


def promoted(folder: Path) -> None:
    runs.record_event(folder, "promote", durable=False, rung=0, to=60, why="1 of 3", by="study")


def cancelled(folder: Path) -> None:
    runs.record_event(folder, "cancel", durable=False, job=JOB)


def here(owner: Owner, after: int = 0) -> Make:
    return lambda folder: intend(folder, local=owner, after=after)


def unreadable(folder: Path) -> None:
    (folder / "run.json").write_text("{")


def again(after: int) -> Make:
    return lambda folder: sent(folder, after=after)


def line(status: str, reason: str = "None", job: str = JOB) -> str:
    return f"{job}|{status}|{NAME}|{reason}"


#: what happened to the run, squeue's lines (None: no answer), and: state, part of why, job
CASES: dict[str, tuple[list[Make], list[str] | None, tuple[str, str, str]]] = {
    # waiting
    "pending": ([sent], [line("PENDING", "Priority", "12_[0-3]")], ("pending", "Priority", JOB)),
    "configuring": ([sent], [line("CONFIGURING")], ("pending", "configuring", JOB)),
    "sbatch done, number not written down": (
        [lambda f: sent(f, recorded=False)],
        [line("PENDING", "Resources", "12_[0-3]")],
        ("pending", "Resources", JOB),
    ),
    "killed before sbatch": ([lambda f: sent(f, recorded=False)], [], ("unstarted", "before it started", "")),
    "another launch's job of a like name": (
        [lambda f: sent(f, recorded=False)],
        [f"12_[0-3]|PENDING|{state.job_name('L', 10, 'name')}|Priority"],
        ("unstarted", "", ""),
    ),
    "only other tasks of the array are left": ([sent], [line("PENDING", job="12_[4-9]")], ("unstarted", "", "")),
    "cancelled while pending": ([sent], [], ("unstarted", "left the queue", "")),
    "requeued": ([sent, tried(1, TASK)], [line("PENDING", "BeginTime")], ("pending", "BeginTime", JOB)),
    "requeued after an end": ([sent, tried(1, TASK, STOPPED)], [line("REQUEUED")], ("pending", "requeued", JOB)),
    # executing
    "running": ([sent, tried(1, TASK)], [line("RUNNING")], ("running", "", JOB)),
    "started, not claimed yet": ([sent], [line("RUNNING")], ("running", "", JOB)),
    "completing, no end yet": ([sent, tried(1, TASK)], [line("COMPLETING")], ("running", "completing", JOB)),
    "completing after its end": ([sent, tried(1, TASK, FAILED)], [line("COMPLETING")], ("failed", "exit code 1", JOB)),
    "completing, the end is of an earlier attempt": (
        [tried(1, TASK, FAILED), again(1)],
        [line("COMPLETING")],
        ("running", "completing", JOB),
    ),
    "suspended": ([sent, tried(1, TASK)], [line("SUSPENDED")], ("running", "suspended", JOB)),
    # ended
    "done": ([sent, tried(1, TASK, DONE)], [], ("done", "", JOB)),
    "done, and Slurm silent": ([sent, tried(1, TASK, DONE)], None, ("done", "", JOB)),
    "done, and its job completing": ([sent, tried(1, TASK, DONE)], [line("COMPLETING")], ("done", "", JOB)),
    "done once, whatever came after": ([sent, tried(1, TASK, DONE), tried(2, DEAD)], [], ("done", "", "")),
    "stopped": ([sent, tried(1, TASK, STOPPED)], [], ("stopped", "time limit", JOB)),
    "failed": ([sent, tried(1, TASK, FAILED)], [], ("failed", "exit code 1", JOB)),
    "failed, stopped after": ([sent, tried(1, TASK, FAILED), tried(2, TASK, STOPPED)], [], ("stopped", "", JOB)),
    "an end of no known kind": ([sent, tried(1, TASK, {"kind": "odd"})], [], ("failed", "", JOB)),
    "lost": ([sent, tried(1, TASK)], [], ("lost", "killed, or its node died", JOB)),
    "lost, and another task runs": ([sent, tried(1, TASK)], ["12_4|RUNNING|n|None"], ("lost", "", JOB)),
    "failed, then submitted again": ([tried(1, TASK, FAILED), again(1)], [line("PENDING")], ("pending", "", JOB)),
    "failed, again submitted, left the queue": ([tried(1, TASK, FAILED), again(1)], [], ("unstarted", "", "")),
    # sbatch is left to the user
    "frozen": ([by_hand], [], ("frozen", "launch L, array 0", "")),
    "frozen, Slurm silent": ([by_hand], None, ("unknown", "does not answer", "")),
    "frozen, sent by hand": ([by_hand], [line("PENDING", "Priority", "77_[3-5]")], ("pending", "Priority", "77_3")),
    "frozen, its siblings sent by hand": ([by_hand], [line("PENDING", "Priority", "77_[0-2]")], ("frozen", "", "")),
    "frozen, sent by hand, done": ([by_hand, tried(1, TASK, DONE)], [], ("done", "", JOB)),
    "frozen, sent without the name": ([by_hand, tried(1, TASK)], ["12_3|RUNNING|other|None"], ("running", "", JOB)),
    "frozen, then sent by a launch": ([by_hand, sent], [line("PENDING")], ("pending", "", JOB)),
    "failed, then frozen": ([sent, tried(1, TASK, FAILED), lambda f: by_hand(f, 1)], [], ("frozen", "", "")),
    "sent again by hand under its name": ([sent], ["13_3|RUNNING|" + NAME + "|None"], ("running", "", "13_3")),
    # refused
    "refused": ([sent, refused], [], ("refused", "Invalid account", "")),
    "refused, Slurm not asked": ([sent, refused], None, ("refused", "Invalid account", "")),
    "never submitted": ([], None, ("unstarted", "never submitted", "")),
    "Ctrl-C before sbatch": ([sent, unasked], None, ("unstarted", "never submitted: Ctrl-C came first", "")),
    "refused, submitted again": ([sent, refused, sent], [line("PENDING")], ("pending", "", JOB)),
    "failed, then refused": ([sent, tried(1, TASK, FAILED), again(1), refused], [], ("failed", "exit code 1", JOB)),
    # nobody can tell
    "Slurm silent": ([sent], None, ("unknown", "does not answer", JOB)),
    "Slurm silent, number not written down": ([lambda f: sent(f, recorded=False)], None, ("unknown", "", "")),
    "Slurm silent, attempt without an end": ([sent, tried(1, TASK)], None, ("unknown", "", JOB)),
    # this machine
    "waits for its turn here": ([here(SELF)], None, ("pending", "waits for its turn", f"{SELF.host}:{SELF.pid}")),
    "its launcher here died first": ([here(DEAD)], None, ("unstarted", "", "")),
    "runs here": ([here(SELF), tried(1, SELF)], None, ("running", "", f"{SELF.host}:{SELF.pid}")),
    "runs here, its launcher killed": ([here(DEAD), tried(1, SELF)], None, ("running", "", "")),
    "killed here": ([here(DEAD), tried(1, DEAD)], None, ("lost", "killed", "")),
    "killed here, its launcher lives": ([here(SELF), tried(1, DEAD)], None, ("lost", "killed", "")),
    "stopped here": ([here(DEAD), tried(1, DEAD, STOPPED)], None, ("stopped", "", "")),
    "stopped here, to be started again": ([tried(1, DEAD, STOPPED), here(SELF, 1)], None, ("pending", "turn", "")),
    "runs on another host": (
        [here(ELSEWHERE), tried(1, ELSEWHERE)],
        None,
        ("unknown", "may still run there", "another-host:7"),
    ),
    "waited on another host": ([here(ELSEWHERE)], None, ("unstarted", "", "")),  # the claim decides who executes it
    # cancelled
    "cancelled while it waited": ([sent, cancelled], [], ("cancelled", "", "")),
    "cancelled, Slurm not done with it": ([sent, cancelled], [line("COMPLETING")], ("running", "completing", JOB)),
    "cancelled while it ran": ([sent, tried(1, TASK, STOPPED), cancelled], [], ("cancelled", "", JOB)),
    "cancelled, and killed before its end": ([sent, tried(1, TASK), cancelled], [], ("lost", "", JOB)),
    "a rule ended it": ([sent, tried(1, TASK, EARLY)], [], ("ended early", "stop.flat_steps=3", JOB)),
    "paused at a rung": ([sent, tried(1, TASK, PAUSED)], [], ("paused", "rung at step 20", JOB)),
    "promoted, and killed before sbatch": (
        [sent, tried(1, TASK, PAUSED), promoted],
        [],
        ("unstarted", "promoted", JOB),
    ),
    "promoted, its new job waits": (
        [sent, tried(1, TASK, PAUSED), promoted, again(1)],
        [line("PENDING", "Priority", "57_3")],
        ("pending", "Priority", "57_3"),
    ),
    "its budget is spent": ([sent, tried(1, TASK, STOPPED), out_of_budget], [], ("budget", "spent", JOB)),
    "cancelled, submitted again": ([sent, cancelled, sent], [line("PENDING")], ("pending", "", JOB)),
    "cancelled too late": ([sent, tried(1, TASK, DONE), cancelled], [], ("done", "", JOB)),
    # several runs in a job
    "packed, waits for a slot": ([packed], [line("RUNNING")], ("pending", "waits for its turn in its job", JOB)),
    "packed, the job waits": ([packed], [line("PENDING", "Priority")], ("pending", "Priority", JOB)),
    "packed, runs": ([packed, tried(1, TASK)], [line("RUNNING")], ("running", "", JOB)),
    "packed, failed beside others": (
        [packed, tried(1, TASK, FAILED)],
        [line("RUNNING")],
        ("failed", "exit code 1", JOB),
    ),
    "packed, failed, the job waits to go on": (
        [packed, tried(1, TASK, FAILED)],
        [line("PENDING")],
        ("failed", "", JOB),
    ),
    "packed, cut off": ([packed, tried(1, TASK, STOPPED), requeued], [line("PENDING")], ("pending", "", JOB)),
    "packed, goes on in its turn": (
        [packed, tried(1, TASK, STOPPED), requeued],
        [line("RUNNING")],
        ("pending", "waits for its turn", JOB),
    ),
    "packed, cancelled beside others": ([packed, cancelled], [line("RUNNING")], ("cancelled", "", "")),
    "packed, being cancelled": ([packed, tried(1, TASK), cancelled], [line("RUNNING")], ("running", "", JOB)),
    "packed, cancelled, and ended": (
        [packed, tried(1, TASK, STOPPED), cancelled],
        [line("RUNNING")],
        ("cancelled", "", JOB),
    ),
    "packed, the job over before its turn": ([packed], [], ("unstarted", "before it started", "")),
    # damage
    "run.json unreadable": ([sent, unreadable], [line("RUNNING")], ("damaged", "run.json", "")),
    "owner unreadable": (
        [sent, tried(1, TASK), lambda f: (f / "attempts" / "1" / "owner.json").write_text("{")],
        [],
        ("lost", "", ""),
    ),
}


@pytest.mark.parametrize(("happened", "lines", "expected"), CASES.values(), ids=CASES.keys())
def test_the_state_of_a_run(
    tmp_path: Path, happened: list[Make], lines: list[str] | None, expected: tuple[str, str, str]
) -> None:
    folder = make_run(tmp_path)
    for step in happened:
        step(folder)
    found = state.state(runs.load(folder), runs.attempts(folder), job_lookup(tmp_path), Answer(lines))
    kind, why, job = expected
    assert found.kind == kind
    assert why in found.why
    if job:
        assert found.job == job
    assert found.attempt == len(runs.attempts(folder))


def test_every_state_that_a_stored_run_can_have_is_in_the_table() -> None:
    assert {expected[0] for _, _, expected in CASES.values()} == set(MEANING) - {"new", "changed"}


@pytest.mark.parametrize(
    "happened",
    [[sent, tried(1, TASK, DONE)], [here(SELF)], [here(DEAD), tried(1, DEAD)], [sent, refused], [sent, unreadable]],
)
def test_slurm_is_not_asked_where_it_does_not_matter(tmp_path: Path, happened: list[Make]) -> None:
    folder = make_run(tmp_path)
    for step in happened:
        step(folder)
    asked = Answer(None)
    state.state(runs.load(folder), runs.attempts(folder), job_lookup(tmp_path), asked)
    assert asked.times == 0


def test_a_state_says_what_a_launch_does_about_it() -> None:
    actions = {kind: state.State(kind).action for kind in MEANING}
    assert {k for k, action in actions.items() if action == "submit"} == {
        "new",
        "budget",
        "cancelled",
        "stopped",
        "failed",
        "lost",
        "unstarted",
        "frozen",
        "refused",
    }
    assert {k for k, action in actions.items() if action == "leave"} == {
        "pending",
        "running",
        "done",
        "ended early",
        "paused",
    }


def test_a_job_that_is_no_array_has_its_plain_id(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    intend(folder)
    runs.launch_dir(tmp_path, "L").mkdir(parents=True)
    runs.record_job(tmp_path, "L", 0, "15")
    queue = Answer([f"15|RUNNING|{NAME}|None"])
    found = state.state(runs.load(folder), [], job_lookup(tmp_path), queue)
    assert (found.kind, found.job) == ("running", "15")


@pytest.mark.parametrize(
    ("lines", "alive"), [(["12_3|RUNNING|n|None"], True), (["12_3|PENDING|n|None"], False), ([], False), (None, None)]
)
def test_whether_the_owner_of_an_attempt_lives(lines: list[str] | None, alive: bool | None) -> None:
    assert state.owner_alive(TASK, Answer(lines)) is alive


def test_a_claim_without_an_owner_started_nothing() -> None:
    assert state.owner_alive(None, Answer(None)) is False


def test_a_run_that_ends_while_slurm_is_asked_is_not_lost(tmp_path: Path) -> None:
    """Its files were read before its end, and squeue answers after it."""
    folder = make_run(tmp_path)
    sent(folder)
    attempt = make_attempt(folder, 1, TASK)

    class Late(Answer):
        def __call__(self) -> Any:
            (attempt / "end.json").write_text('{"kind": "done"}')
            return super().__call__()

    assert Late([]).state(runs.load(folder)).kind == "done"
