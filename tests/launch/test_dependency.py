"""What `after=` becomes: a dependency, nothing, or a refusal in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import Answer, intend, make_attempt, make_run

from nano_exp import slurm
from nano_exp.errors import UserError
from nano_exp.launch import dependency
from nano_exp.launch.dependency import Wish
from nano_exp.store import predecessors, runs, state
from nano_exp.store.runs import Owner

ENDED = Owner("12", 0, "host", 1, 1.0)


def store(results: Path, run: str, *, end: dict[str, object] | None = None, sent: bool = True) -> Path:
    """A run that launch L sent as job 12, and its end where it has one."""
    folder = make_run(results, run=run)
    if sent:
        intend(folder)
        runs.launch_dir(results, "L").mkdir(parents=True, exist_ok=True)
        runs.record_job(results, "L", 0, "12")
    if end is not None:
        make_attempt(folder, 1, ENDED, end)
    return folder


def terms(results: Path, *words: str, squeue: list[str] | None = None) -> list[str]:
    return list(dependency.after(words, results, Answer(squeue or [])).terms)


def test_words_say_what_is_waited_for_and_how() -> None:
    assert dependency.parse("r12ab") == Wish("afterok", "r12ab")
    assert dependency.parse("afterany:12_3") == Wish("afterany", "12_3")
    assert [Wish("afterok", word).is_job for word in ("12", "12_3", "r12", "12_x")] == [True, True, False, False]


@pytest.mark.parametrize("word", ["aftercorr:12", "singleton:", "afterok:", "a:b:c"])
def test_slurms_other_kinds_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"after={word}"):
        dependency.parse(word)


def test_an_active_run_is_waited_for_by_its_job(tmp_path: Path) -> None:
    store(tmp_path, "r1111111111")
    queue = ["12|RUNNING|nx-L.0-name|None"]
    assert terms(tmp_path, "r1111", squeue=queue) == ["afterok:12"]
    assert terms(tmp_path, "afterany:r1111", "name", squeue=queue) == ["afterany:12", "afterok:12"]


def test_of_a_packed_run_the_jobs_end_is_waited_for_and_the_run_looked_at(tmp_path: Path) -> None:
    folder = store(tmp_path, "r1111111111")
    sent = runs.load(folder).last("submit")
    assert sent is not None
    state.submit_again(folder, sent, packed=True)
    lookup = Answer(["12|RUNNING|nx-L.0-name|None"])
    found = dependency.after(["r1111"], tmp_path, lookup)
    assert (found.terms, found.packed) == (("afterany:12",), ("r1111111111",))
    assert [wait.how for wait in found.waits] == ["afterok"]
    assert [one.term for one in predecessors.unfinished(tmp_path, found.waits, lookup)] == ["afterany:12"]


def test_a_run_that_is_done_imposes_nothing(tmp_path: Path) -> None:
    store(tmp_path, "r1111111111", end={"kind": "done"})
    assert terms(tmp_path, "r1111", "name") == []


@pytest.mark.parametrize("kind", ["failed", "stopped"])
def test_one_that_ended_otherwise_is_refused_with_the_way_on(tmp_path: Path, kind: str) -> None:
    store(tmp_path, "r1111111111", end={"kind": kind, "why": "exit code 1"})
    with pytest.raises(UserError) as caught:
        terms(tmp_path, "r1111")
    assert f"r1111111111 is {kind} (exit code 1)" in caught.value.found
    assert "nano-exp retry name/r1111111111" in caught.value.fix
    assert terms(tmp_path, "afterany:r1111") == []


def test_what_was_never_sent_is_refused_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    store(tmp_path, "r1111111111", sent=False)
    with pytest.raises(UserError, match="r1111111111 is unstarted"):
        terms(tmp_path, "r1111")
    with pytest.raises(UserError, match="no run and no name 'lr'"):
        terms(tmp_path, "lr")


def test_without_slurms_answer_nothing_is_guessed(tmp_path: Path) -> None:
    store(tmp_path, "r1111111111")
    with pytest.raises(UserError) as caught:
        dependency.after(["r1111"], tmp_path, Answer(None))
    assert caught.value.code == 4


# --- Slurm's jobs ---------------------------------------------------------------------------------------------------


def job(monkeypatch: pytest.MonkeyPatch, word: str, state: str = "", known: bool = False) -> list[str]:
    """The terms for a job that is not in our queue: as sacct has it, and whether slurmctld knows it."""
    ended = {word.rpartition(":")[2]: slurm.Ended(state, "1:0")} if state else {}
    monkeypatch.setattr(slurm, "accounting", lambda jobs: ended)

    def control(job: str) -> slurm.Control:
        if not known:
            raise slurm.NoAnswer("Invalid job id specified")
        return slurm.Control(0, False)

    monkeypatch.setattr(slurm, "control", control)
    return terms(Path("/nowhere"), word)


def test_a_job_in_the_queue_is_waited_for() -> None:
    queue = ["12_[3-5]|PENDING|n|Priority"]
    found = dependency.after(["12", "12_4", "afterany:12_4"], Path("/nowhere"), Answer(queue))
    assert found.terms == ("afterok:12", "afterok:12_4", "afterany:12_4")
    assert [wait.word for wait in found.waits] == ["afterok:12", "afterok:12_4", "afterany:12_4"]


def test_a_job_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job(monkeypatch, "77", "COMPLETED") == []
    assert job(monkeypatch, "afterany:77", "FAILED") == []
    assert job(monkeypatch, "77", "PREEMPTED", known=True) == ["afterok:77"]
    with pytest.raises(UserError, match="ended as CANCELLED by 1001"):
        job(monkeypatch, "77", "CANCELLED by 1001")


def test_a_job_of_somebody_else_is_waited_for_and_an_unknown_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job(monkeypatch, "77", known=True) == ["afterok:77"]
    with pytest.raises(UserError, match="after=77: Invalid job id"):
        job(monkeypatch, "77")


def test_terms_become_one_option_or_none() -> None:
    assert dependency.option("afterok:12", "afterany:13_4") == ["--dependency=afterok:12,afterany:13_4"]
    assert dependency.option() == []
