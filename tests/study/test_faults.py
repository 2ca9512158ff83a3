"""A study's ends while things go wrong: kills between two steps, two ends in one second, a controller that is away.

Slurm is a folder of commands: `squeue` prints a file, `sbatch` adds to it; each fails while `away-NAME` is there.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from core_case import dead_process, make_attempt, make_run

from nano_exp import cli, files, slurm
from nano_exp.after import jobs
from nano_exp.job import follow_up, rung_end
from nano_exp.job.ending import Ending
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Owner
from nano_exp.study import book
from nano_exp.study.halving import Halving

RULES = Halving((20, 60), 0.34)
#: Run -> what it had at the first rung: the second one is the best.
VALUES = {"ra": 0.1, "rb": 0.5, "rc": 0.3}
JOB = "7"
NAME = state.job_name("L", 0, "name")
AWAY = "Unable to contact slurm controller (connect failure)"

COMMANDS = {
    "squeue": 'cat "$here/queue"',
    "sbatch": "for word; do case $word in --array=*) task=${word#*=};; --job-name=*) name=${word#*=};; esac; done\n"
    'echo "9_$task|PENDING|$name|None" >>"$here/queue"; echo "$task" >>"$here/sent"; echo 9',
    "scontrol": 'echo "$@" >>"$here/told"',
}


class Killed(BaseException):
    """Where a kill -9 would have come."""


class Lab:
    """A study of three runs, tasks 0 to 2 of job 7, of which the last attempt is at its end."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.results = folder / "bin", folder / "results"
        self.bin.mkdir()
        for name, text in COMMANDS.items():
            away = f'if [ -e "$here/away-{name}" ]; then echo "{name}: error: {AWAY}" >&2; exit 1; fi'
            (self.bin / name).write_text(f"#!/bin/sh\nhere={self.bin}\n{away}\n{text}\n")
            (self.bin / name).chmod(0o755)
        self.queue()
        self.said: list[str] = []
        launch = runs.launch_dir(self.results, "L")
        launch.mkdir(parents=True)
        (launch / "array-0.sbatch").write_text(f"#!/bin/sh\n#SBATCH --array=0-2\n#SBATCH --job-name={NAME}\n")
        self.parallel(None)
        runs.record_job(self.results, "L", 0, JOB)
        for task, name in enumerate(VALUES):
            overrides = [f"optimizer.lr={task + 1}"]
            run = make_run(self.results, run=name, record={"overrides": overrides, "place": task, "created": 1.0})
            sent = {"launch": "L", "array": 0, "task": task, "after_attempt": 0, "local": None, "halving": True}
            runs.record_event(run, "submit", **sent)

    def parallel(self, most: int | None) -> None:
        array = {"job_name": NAME, "behind": None, "throttle": most or 3, "runs": list(VALUES)}
        manifest = {"terms": {"parallel": most}, "arrays": [array]}
        files.write_json(runs.launch_dir(self.results, "L") / "manifest.json", manifest)

    def queue(self, *lines: str) -> None:
        (self.bin / "queue").write_text("".join(f"{line}|{NAME}|None\n" for line in lines))

    def away(self, *names: str) -> None:
        for path in self.bin.glob("away-*"):
            path.unlink()
        for name in names:
            (self.bin / f"away-{name}").touch()

    @property
    def sent(self) -> list[str]:
        """Tasks that sbatch was asked for."""
        path = self.bin / "sent"
        return path.read_text().split() if path.exists() else []

    def run(self, name: str) -> Path:
        return self.results / "name" / name

    def reaches(self, name: str, attempt: int = 1) -> None:
        """An attempt's end at the first rung is written; what follows from it is not yet."""
        run = self.run(name)
        runs.record_event(run, "rung", rung=0, step=20, value=VALUES[name], attempt=attempt)
        owner = Owner(f"{JOB}_{list(VALUES).index(name)}", 0, "node1", 7, 1.0)
        make_attempt(run, attempt, owner, {"kind": "paused", "rung": 0, "attempt": attempt})

    def settle(self, name: str) -> bool:
        """The rest of that attempt; whether the run goes on in it."""
        return rung_end.settle(self.run(name), RULES, self.ending(name))

    def ending(self, name: str, attempt: int = 1) -> Ending:
        owner = runs.attempts(self.run(name))[-1].owner
        assert owner is not None
        stop = cast(Any, SimpleNamespace(signal=0))
        return Ending(self.run(name), attempt, owner, stop, None, {}, time.time(), self.said.append)

    def state(self, name: str) -> str:
        return QueueLookup().state(runs.load(self.run(name))).kind

    def promotions(self) -> dict[str, list[Any]]:
        loaded = {name: runs.load(self.run(name)) for name in VALUES}
        return {name: [e.data["rung"] for e in run.events if e.kind == "promote"] for name, run in loaded.items()}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(rung_end, "TRIES_S", 0.0)
    made = Lab(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


def all_reach(lab: Lab) -> None:
    for name in VALUES:
        lab.reaches(name)


def test_killed_after_the_promotion_the_next_end_sends_it_once(lab: Lab) -> None:
    all_reach(lab)
    book.promote(lab.results, "name", RULES)  # and its attempt is killed here
    assert lab.state("rb") == "unstarted", "what the same launch submits"
    assert not lab.settle("rc")
    assert lab.sent == ["1"] and lab.state("rb") == "pending"
    assert not lab.settle("ra")
    assert lab.sent == ["1"]
    assert lab.promotions() == {"ra": [], "rb": [0], "rc": []}


@pytest.mark.parametrize("queued", [False, True], ids=["before sbatch", "after sbatch"])
def test_killed_around_sbatch_the_next_end_asks_slurm_first(
    lab: Lab, queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*words: Any, **more: Any) -> str:
        if queued:
            sbatch(*words, **more)
        raise Killed

    sbatch = slurm.sbatch
    all_reach(lab)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(slurm, "sbatch", killed)
        lab.settle("rc")
    assert lab.state("rb") == ("pending" if queued else "unstarted")
    assert not lab.settle("ra")
    assert lab.sent == ["1"]


def test_a_run_that_goes_on_in_its_allocation_gets_no_job_besides(lab: Lab) -> None:
    all_reach(lab)
    lab.queue(f"{JOB}_0|RUNNING", f"{JOB}_1|RUNNING")
    assert lab.settle("rb"), "it was the best, and goes on here"
    assert not lab.settle("ra"), "before rb's next attempt has claimed it"
    assert lab.sent == []
    lab.queue()  # rb's allocation was killed before that
    assert lab.state("rb") == "unstarted"
    assert not lab.settle("rc")
    assert lab.sent == ["1"]


def test_two_ends_in_the_same_second_decide_once_and_it_is_executed_once(lab: Lab) -> None:
    all_reach(lab)
    lab.queue(f"{JOB}_0|RUNNING", f"{JOB}_1|RUNNING")
    together = threading.Barrier(2)
    here: dict[str, bool] = {}

    def end(name: str) -> None:
        together.wait()
        here[name] = lab.settle(name)

    threads = [threading.Thread(target=end, args=(name,)) for name in ("ra", "rb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not here["ra"]
    assert lab.promotions() == {"ra": [], "rb": [0], "rc": []}
    assert here["rb"] + len(lab.sent) == 1, "in its allocation, or in a job of its own"


@pytest.mark.parametrize("command", ["squeue", "scontrol", "sbatch"])
def test_with_the_controller_away_an_attempt_ends_and_the_next_one_sends_it(lab: Lab, command: str) -> None:
    all_reach(lab)
    lab.parallel(2)
    lab.queue(f"{JOB}_[3-4%2]|PENDING", f"{JOB}_0|RUNNING", f"{JOB}_2|RUNNING")
    lab.away(command)
    assert not lab.settle("rc")
    assert lab.sent == []
    lab.away()
    lab.queue(f"{JOB}_[3-4%2]|PENDING")
    assert lab.state("rb") == "unstarted"
    assert not lab.settle("ra")
    assert lab.sent == ["1"]
    assert "ArrayTaskThrottle=1" in (lab.bin / "told").read_text()


def test_a_run_that_goes_on_here_does_so_with_the_controller_away(lab: Lab) -> None:
    lab.reaches("rb")
    lab.reaches("ra")
    runs.record_event(lab.run("ra"), "promote", rung=0, to=60, why="by hand", by="a user")
    lab.reaches("rc")
    lab.away("squeue", "sbatch")
    assert lab.settle("rb")
    assert lab.sent == [] and "promoted runs have no job yet" in " ".join(lab.said)
    lab.away()
    assert not lab.settle("rc")
    assert sorted(lab.sent) == ["0", "1"]


def test_an_end_asks_again_until_slurm_answers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    all_reach(lab)
    lab.away("sbatch")
    monkeypatch.setattr(rung_end, "TRIES_S", 600.0)
    monkeypatch.setattr(rung_end.time, "sleep", lambda _: lab.away())
    assert not lab.settle("rc")
    assert lab.sent == ["1"]


def test_what_slurm_refuses_is_said_and_tried_at_the_next_end(lab: Lab) -> None:
    all_reach(lab)
    sbatch = lab.bin / "sbatch"
    works = sbatch.read_text()
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: Job violates accounting/QOS policy' >&2; exit 1\n")
    assert not lab.settle("rc")
    now = QueueLookup().state(runs.load(lab.run("rb")))
    assert (now.kind, now.why.partition(":")[0]) == ("unstarted", "promoted, not sent yet")
    assert "rb does not go on yet: sbatch: Job violates accounting/QOS policy" in lab.said
    sbatch.write_text(works)
    assert not lab.settle("ra")
    assert lab.sent == ["1"]


def test_by_hand_a_run_goes_on_within_its_launch_and_one_that_is_not_paused_says_what_to_type(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    def promote(*words: str) -> tuple[int, str]:
        code = cli.main(["promote", *words, "--results", str(lab.results)])
        return code, "".join(capsys.readouterr())

    lab.reaches("ra")
    lab.reaches("rb")
    make_attempt(lab.run("rc"), 1, dead_process(), {"kind": "failed", "why": "", "attempt": 1})
    code, said = promote("ra")
    assert code == 2 and f"{book.path(lab.results, 'name')} is missing" in said
    book.write(lab.results, "name", RULES)
    lab.parallel(1)
    lab.queue(f"{JOB}_3|RUNNING")
    code, said = promote("ra", "rc")
    assert code == 0 and "left alone, not paused: rc (failed)" in said
    assert "ra goes on when parallel=1 has room for it" in said and lab.sent == []
    lab.queue()
    code, said = promote("ra")
    assert code == 0 and "ra goes on as job 9_0" in said and lab.sent == ["0"]
    code, said = promote("ra", "rc")
    assert code == 2 and "ra is pending, rc is failed" in said and "fix: nano-exp retry rc" in said
    assert lab.promotions() == {"ra": [0], "rb": [], "rc": []}


def test_what_follows_the_training_is_sent_once_by_the_attempt_that_ends_it(lab: Lab) -> None:
    launch = runs.launch_dir(lab.results, "L")
    (launch / "code/nano_exp/after").mkdir(parents=True)
    rb = lab.run("rb")

    def ends(attempt: int) -> None:
        follow_up.send(rb, {"terms": {"after_training": ["export"]}}, lab.ending("rb", attempt))

    lab.reaches("rb")
    make_attempt(rb, 2, Owner(f"{JOB}_1", 0, "node1", 7, 1.0), {"kind": "done", "attempt": 2})
    ends(2)
    assert lab.sent == [], "the launch's own waits for that job"
    sent = runs.load(rb).last("submit")
    assert sent is not None
    state.submit_again(rb, sent, after_attempt=1)
    lab.away("squeue")
    ends(2)
    assert "launching again does it" in lab.said[-1]
    lab.away()
    (lab.bin / "queue").write_text("8_1|PENDING|nx-L.after-0|Dependency\n")
    ends(2)
    assert lab.sent == [], "it went on in that job, and the launch's own still waits for it"
    (lab.bin / "queue").write_text(f"8_1|PENDING|nx-L.after-0|{jobs.IN_VAIN}\n")
    ends(2)
    ends(2)
    assert lab.sent == ["1"], "once"
    assert "after training: export, submitted: job 9" in lab.said[-1]


def test_what_a_user_cancelled_is_not_sent(lab: Lab) -> None:
    all_reach(lab)
    book.promote(lab.results, "name", RULES)
    runs.record_event(lab.run("rb"), "cancel", why="by its user")
    assert not lab.settle("rc")
    assert lab.sent == []


def test_replayed_from_the_rungs_that_were_reached_the_same_runs_go_on(tmp_path: Path) -> None:
    """In one store each end decides; in the other one what was written down there is decided again, twice each."""
    values = [(0.2, 0.3), (0.6, 0.5), (0.4, 0.2), (0.5, 0.9), (0.1, 0.1), (0.3, 0.4)]
    first, again = (_six(tmp_path / name) for name in ("first", "again"))
    for place in range(len(values)):
        _reaches(first, place, 0, values)
        book.promote(first, "name", RULES)
        for other in range(place):  # those that were promoted reach the next rung meanwhile
            if runs.rungs_left(runs.load(first / "name" / f"r{other}")):
                _reaches(first, other, 1, values)
                book.promote(first, "name", RULES)
    whole = [(event, run.dir.name) for run in _loaded(first) for event in run.events if event.kind == "rung"]
    for event, name in sorted(whole, key=lambda pair: pair[0].time):
        data = {key: value for key, value in event.data.items() if key not in ("time", "kind")}
        runs.record_event(again / "name" / name, "rung", **data)
        book.promote(again, "name", RULES)
        assert book.promote(again, "name", RULES) == []
    assert _decisions(first) == _decisions(again)
    assert len(_decisions(first)) == len({(name, rung) for name, rung, _ in _decisions(first)}) > 2


def _six(store: Path) -> Path:
    for place in range(6):
        record = {"overrides": [f"optimizer.lr={place}"], "place": place, "created": 1.0}
        runs.record_event(make_run(store, run=f"r{place}", record=record), "submit", launch="L", halving=True)
    return store


def _reaches(store: Path, place: int, rung: int, values: list[tuple[float, float]]) -> None:
    run = runs.load(store / "name" / f"r{place}")
    if rung not in book.reached(run):
        runs.record_event(run.dir, "rung", rung=rung, step=RULES.rungs[rung], value=values[place][rung])


def _loaded(store: Path) -> list[runs.Run]:
    return [runs.load(folder) for folder in runs.folders(store / "name")]


def _decisions(store: Path) -> list[tuple[str, int, str]]:
    return [
        (run.id, e.data["rung"], e.data["why"]) for run in _loaded(store) for e in run.events if e.kind == "promote"
    ]
