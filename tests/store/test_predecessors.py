"""What a launch waits for, as its folder keeps it; what an attempt makes of it; who waits for a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from core_case import Answer, intend, make_attempt, make_run

from nano_exp import files, slurm
from nano_exp.job import turn
from nano_exp.job.claim import Refuse
from nano_exp.launch import dependency
from nano_exp.store import predecessors, runs
from nano_exp.store.predecessors import Wait
from nano_exp.store.runs import Owner

RUNNING = "12_{task}|RUNNING|nx-L.0-pre|None"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Runs pre/r0 to r2, sent as the array 12 of launch L; post/r9, which comes after them, as job 20 of launch M."""
    made = [make_run(tmp_path, name="pre", run=f"r{n}") for n in range(3)]
    for task, run in enumerate(made):
        intend(run, task=task)
    sent(tmp_path, "L", "12", made)
    post = make_run(tmp_path, name="post", run="r9")
    runs.record_event(post, "submit", launch="M", array=0, task=None, after_attempt=0, after=["afterok:12"])
    predecessors.write(sent(tmp_path, "M", "20", [post]), [Wait("afterok", run=f"pre/r{n}") for n in range(3)])
    return tmp_path


def sent(results: Path, launch: str, job: str, members: Sequence[Path]) -> Path:
    folder = runs.launch_dir(results, launch)
    files.make_dir(folder)
    arrays = [{"runs": [str(run) for run in members], "behind": None}]
    files.write_json(folder / "manifest.json", {"arrays": arrays, "parameters": {}})
    runs.record_job(results, launch, 0, job)
    return folder


def ending(run: Path, task: int, kind: str) -> None:
    make_attempt(run, 1, Owner(f"12_{task}", 0, "host", 1, 1.0), {"kind": kind})


def queue(*tasks: int) -> Answer:
    return Answer([RUNNING.format(task=task) for task in tasks])


def look(
    monkeypatch: pytest.MonkeyPatch, results: Path, asked: Answer, job: str | None = "20", refusal: str = ""
) -> tuple[str, list[str]]:
    """What an attempt of post/r9 says that does not start ("" where it does), and what it asked of Slurm."""
    done: list[str] = []

    def requeue(job: str) -> None:
        done.append(f"requeue {job}")
        if refusal:
            raise slurm.NoAnswer(refusal)

    def depend(job: str, terms: Sequence[str]) -> str:
        done.append(f"{job}: {','.join(terms)}")
        return ""

    monkeypatch.setattr(turn, "QueueLookup", lambda: asked)
    monkeypatch.setattr(turn, "TRIES_S", 0.0)
    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "depend", depend)
    try:
        turn.require(runs.launch_dir(results, "M"), runs.load(results / "post/r9"), job)
    except Refuse as refused:
        return str(refused), done
    return "", done


def test_an_array_that_is_waited_for_as_a_whole_is_one_term(store: Path) -> None:
    """Slurm drops the edge to a single array task that is cancelled."""
    assert dependency.after(["pre"], store, queue(0, 1, 2)).terms == ("afterok:12",)
    assert dependency.after(["pre/r1"], store, queue(0, 1, 2)).terms == ("afterok:12_1",)
    ending(store / "pre/r0", 0, "done")  # of the same array, so the whole of it can still end well
    found = dependency.after(["pre"], store, queue(1, 2))
    assert found.terms == ("afterok:12",)
    assert [wait.run for wait in found.waits] == ["pre/r1", "pre/r2"]


def test_an_array_of_which_a_run_is_in_another_job_by_now_is_waited_for_task_by_task(store: Path) -> None:
    run = store / "pre/r2"
    ending(run, 2, "failed")
    runs.record_event(run, "submit", launch="N", array=0, task=None, after_attempt=1)
    sent(store, "N", "13", [run])
    lines = [RUNNING.format(task=0), RUNNING.format(task=1), "13|PENDING|nx-N.0-pre|Priority"]
    assert dependency.after(["pre"], store, Answer(lines)).terms == ("afterok:12_0", "afterok:12_1", "afterok:13")


def test_a_run_starts_when_all_that_it_comes_after_is_done(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in range(3):
        ending(store / f"pre/r{task}", task, "done")
    assert look(monkeypatch, store, queue()) == ("", [])


def test_its_job_goes_back_behind_what_is_under_way(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(store / "pre/r0", 0, "done")
    said, done = look(monkeypatch, store, queue(1, 2))
    assert said == "run r9 waits again, for pre/r1 (running), pre/r2 (running)"
    assert done == ["requeue 20", "20: afterok:12_1,afterok:12_2"]
    assert runs.load(store / "post/r9").last("cancel") is None


@pytest.mark.parametrize("kind", ["failed", "stopped", "cancelled"])
def test_it_does_not_start_after_what_ended_otherwise(store: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    ending(store / "pre/r1", 1, kind)
    said, done = look(monkeypatch, store, queue(0, 2))
    why = f"it comes after pre/r1 ({kind}), pre/r0 (running), pre/r2 (running)"
    assert (said, done) == (f"run r9 does not start: {why}", [])
    now = Answer([]).state(runs.load(store / "post/r9"))
    assert (now.kind, now.why) == ("cancelled", why)


def test_it_does_not_start_where_its_job_cannot_go_back(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, _ = look(monkeypatch, store, queue(0, 1, 2), refusal="Requested operation is presently disabled")
    assert "has not ended, and this job cannot go back into the queue (Requested operation" in said
    assert Answer([]).state(runs.load(store / "post/r9")).kind == "cancelled"


def test_it_does_not_start_while_nobody_can_tell(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, done = look(monkeypatch, store, Answer(None))
    assert said.startswith("run r9 does not start: it comes after pre/r0 (unknown)") and done == []


def test_a_run_that_had_started_goes_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.record_event(store / "post/r9", "start", attempt=1, launch="M")
    assert look(monkeypatch, store, queue(0, 1, 2)) == ("", [])


def test_what_only_has_to_end_is_slurms_to_say(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predecessors.write(runs.launch_dir(store, "M"), [Wait("afterany", run="pre/r0")])
    assert look(monkeypatch, store, queue(0)) == ("", [])


@pytest.mark.parametrize(("state", "starts"), [("COMPLETED", True), ("CANCELLED by 0", False), ("", True)])
def test_a_job_that_is_no_run_is_looked_up_in_the_accounts(
    store: Path, monkeypatch: pytest.MonkeyPatch, state: str, starts: bool
) -> None:
    predecessors.write(runs.launch_dir(store, "M"), [Wait("afterok", job="77_3")])
    ended = {"77_3": slurm.Ended(state, "0:0")} if state else {}
    monkeypatch.setattr(slurm, "accounting", lambda jobs, names=None: ended)
    assert (look(monkeypatch, store, queue())[0] == "") == starts
    again = Answer(["77_3|RUNNING|n|None"])
    assert look(monkeypatch, store, again)[1] == ["requeue 20", "20: afterok:77_3"]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"how": "afterok"}]', "3"])
def test_a_damaged_list_starts_nothing(store: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = runs.launch_dir(store, "M") / predecessors.FILE
    path.write_text(text)
    with pytest.raises(files.Damaged, match=r"after\.json"):
        look(monkeypatch, store, queue())
    assert predecessors.known(path.parent) == []


# --- who waits ------------------------------------------------------------------------------------------------------


def test_what_comes_after_a_run_is_found(store: Path) -> None:
    first, post = runs.load(store / "pre/r0"), runs.load(store / "post/r9")
    assert [one.run.dir for one in predecessors.dependants(store, [first])] == [post.dir]
    assert list(predecessors.dependants(store, [post])) == []
    runs.record_event(post.dir, "start", attempt=1, launch="M")
    assert list(predecessors.dependants(store, [first])) == []


def test_what_waits_is_told_of_the_job_that_a_run_is_tried_again_in(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(slurm, "depend", lambda job, terms: told.append((job, list(terms))) or "")
    run = store / "pre/r2"
    ending(run, 2, "failed")
    runs.record_event(run, "submit", launch="N", array=0, task=None, after_attempt=1)
    sent(store, "N", "13", [run])
    ours = ["13|PENDING|nx-N.0-pre|Priority", RUNNING.format(task=1), RUNNING.format(task=0)]
    waiting = Answer([*ours, "20|PENDING|nx-M.0-post|Dependency"])
    assert dependency.renew(store, [runs.load(run)], waiting) == [
        "r9 waits for afterok:12_0, afterok:12_1, afterok:13 now"
    ]
    assert told == [("20", ["afterok:12_0", "afterok:12_1", "afterok:13"])]
    said = dependency.renew(store, [runs.load(run)], Answer(ours))
    assert said == ["came after what is sent now, and left the queue: nano-exp retry r9"]
