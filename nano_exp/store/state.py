"""What state a run is in: a pure function of its events, its attempts and Slurm's queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import slurm
from nano_exp.store import runs
from nano_exp.store.runs import Attempt, Event, Owner, Run

#: Every state, with what it means and what a launch does about it.
MEANING: dict[str, tuple[str, str]] = {
    "new": ("not in the store", "submit"),
    "pending": ("waiting in the queue", "leave"),
    "running": ("an attempt is executing", "leave"),
    "done": ("all its steps are finished", "leave"),
    "ended early": ("a rule of stop= ended it; it goes on when launched without that rule", "leave"),
    "paused": ("reached a rung of its study, from which other points went on", "leave"),
    "stopped": ("ended with steps left: time limit, preemption, requeue or Ctrl-C", "submit"),
    "failed": ("its last attempt failed", "submit"),
    "lost": ("its last attempt vanished: killed, or its node died", "submit"),
    "unstarted": ("never submitted, or left the queue before it started", "submit"),
    "frozen": ("made with submit=false and not in the queue", "submit"),
    "cancelled": ("ended with nano-exp cancel or scancel", "submit"),
    "budget": ("does not start, or go on: its name's budget= is spent", "submit"),
    "refused": ("Slurm refused its last submission", "submit"),
    "unknown": ("Slurm does not answer, so nobody can tell", "ask"),
    "changed": ("the same overrides now give another config", "ask"),
    "damaged": ("files of the run cannot be read", "ask"),
}
ACTIVE = ("pending", "running")
#: How the reason of an `unstarted` run begins that goes on from a rung and has no job for that yet.
PROMOTED = "promoted, not sent yet"
#: Ends that are no failure: of what was waited for nothing went wrong.
ENDED_WELL = ("done", "ended early", "paused")


@dataclass(frozen=True)
class State:
    """A state with its reason.

    Parameters
    ----------
    kind: a key of MEANING
    why: pending reason, exit code, what is damaged, ...: one line, may be empty
    job: the Slurm job (`12` or `12_3`) or `host:pid` of the newest submission or attempt
    attempt: number of attempts so far
    """

    kind: str
    why: str = ""
    job: str = ""
    attempt: int = 0

    @property
    def action(self) -> str:
        return MEANING[self.kind][1]


def job_name(launch: str, array: int, name: str) -> str:
    """The Slurm job name: the launch's id stands in it, so that a launch whose record was cut off is found again."""
    return f"nx-{launch}.{array}-{name}"


@dataclass(frozen=True)
class Submission:
    """The newest submission of a run that was not refused."""

    launch: str
    array: int
    task: int | None  # None: not an array
    after_attempt: int  # attempts that existed before it
    local: Owner | None  # the launcher, where there is no Slurm
    by_hand: bool = False  # submit=false: the user types sbatch, now or later or never
    named: bool = True  # its job has the launch's name, as one that a launch sends has
    packed: bool = False  # its job has other runs too

    def job(self, number: str) -> str:
        return number if self.task is None else f"{number}_{self.task}"


def submission(run: Run) -> Submission | None:
    """The run's newest intent to submit, unless Slurm refused it afterwards."""
    event = run.last("submit", "refused")
    if event is None or event.kind == "refused":
        return None
    return as_submission(event)


def is_packed(run: Run) -> bool:
    """Whether the job of the run's newest submission has other runs too."""
    sent = submission(run)
    return sent is not None and sent.packed


def as_submission(event: Event) -> Submission | None:
    """A submit event as it was written; None where it says too little."""
    data = event.data
    try:
        local = runs.as_owner(data["local"]) if data.get("local") else None
        task = data.get("task")
        return Submission(
            str(data["launch"]),
            int(data["array"]),
            None if task is None else int(task),
            int(data["after_attempt"]),
            local,
            data.get("by_hand") is True,
            data.get("named", not data.get("by_hand")) is True,
            data.get("packed") is True,
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def state(
    run: Run,
    attempts: list[Attempt],
    jobs: Callable[[str], Mapping[int, str]],
    queue: Callable[[], slurm.Queue | None],
) -> State:
    """The state of one run.

    Parameters
    ----------
    attempts: `runs.attempts(run.dir)`
    jobs: launch id -> (array number -> job id) as recorded after sbatch
    queue: Slurm's queue, asked for only where it matters; None when Slurm does not answer
    """
    if "digest" not in run.record:
        return State("damaged", "; ".join(run.damaged) or "run.json says nothing")
    last = attempts[-1] if attempts else None
    n = last.number if last else 0
    if is_done(attempts):
        return State("done", "", _owner_name(last), n)
    sent = submission(run)
    if sent is not None and sent.local is None:
        in_slurm = _in_slurm(run, sent, last, jobs, queue)
        if in_slurm is not None:
            return in_slurm
    elif sent is not None and sent.local is not None and sent.after_attempt == n and _comes_here(run, sent.local):
        return State("pending", "waits for its turn on this machine", f"{sent.local.host}:{sent.local.pid}", n)
    newest = run.last("submit", "cancel", "start")  # a start after it: the run was quicker
    if newest is not None and newest.kind == "cancel" and (last is None or last.end is not None):
        kind = "budget" if newest.data.get("cause") == "budget" else "cancelled"
        return State(kind, str(newest.data.get("why") or ""), _owner_name(last), n)
    if last is not None and (sent is None or n > sent.after_attempt):
        return _after_attempt(run, last, queue, _name_of_its_job(run, sent, last, jobs))
    if sent is None:
        refused = run.last("refused")
        if refused is None or refused.data.get("asked") is False:
            return State("unstarted", "never submitted" + (f": {refused.data.get('why')}" if refused else ""), "", n)
        return State("refused", str(refused.data.get("why", "")), "", n)
    if sent.by_hand:
        return State("frozen", f"launch {sent.launch}, array {sent.array}", "", n)
    waited = run.last("submit")
    after = [str(term) for term in _listed(waited.data.get("after"))] if waited else []
    if waited and waited.data.get("canary"):
        after.append("the launch's canary")
    return State(
        "unstarted",
        "left the queue before it started" + (f"; it waited for {', '.join(after)}" if after else ""),
        "",
        n,
    )


def _comes_here(run: Run, launcher: Owner) -> bool:
    """Whether the launcher that is to execute a run on this machine lives, and has not given it up."""
    newest = run.last("submit", "cancel")
    return runs.local_alive(launcher) is True and newest is not None and newest.kind == "submit"


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _in_slurm(
    run: Run,
    sent: Submission,
    last: Attempt | None,
    jobs: Callable[[str], Mapping[int, str]],
    queue: Callable[[], slurm.Queue | None],
) -> State | None:
    """The state as Slurm's queue has it; None when the submission's job is not in the queue any more."""
    n = last.number if last else 0
    number = jobs(sent.launch).get(sent.array)
    now = queue()
    if now is None:
        job = sent.job(number) if number else ""
        return State("unknown", "Slurm does not answer", job, n)
    entry = now.find(number, sent.task) if number else None
    name = job_name(sent.launch, sent.array, run.name)
    if entry is not None and sent.named and entry.name != name:
        entry = None  # Slurm uses its numbers again: by now it is another job's
    # By its name: a job whose number was never recorded, or one of several that a user sent by hand.
    entry = entry or now.named(name, sent.task)
    if entry is None:
        return None
    job = sent.job(entry.id)
    if sent.packed:
        return _in_pack(run, sent, last, entry, job)
    if entry.state in slurm.WAITING:
        return State("pending", entry.reason if entry.reason != "None" else entry.state.lower(), job, n)
    if last is not None and last.end is not None and n > sent.after_attempt:
        again = run.last("requeue")
        if again is not None and again.data.get("attempt") == n:
            return State("pending", f"starts again: {again.data.get('why')}", job, n)
        if entry.state == "COMPLETING":
            return None
    return State("running", "" if entry.state == "RUNNING" else entry.state.lower(), job, n)


def is_done(attempts: Iterable[Attempt]) -> bool:
    """Whether all of a run's steps are finished."""
    return any(attempt.end is not None and attempt.end.get("kind") == "done" for attempt in attempts)


def is_requeued(run: Run, attempt: int) -> bool:
    """Whether an attempt has written down that its run is started again."""
    again = run.last("requeue")
    return again is not None and again.data.get("attempt") == attempt


def submit_again(run_dir: Path, sent: Event, **changed: Any) -> None:
    """Write down a submission like an earlier one of the run."""
    again = {key: value for key, value in sent.data.items() if key not in ("time", "kind")}
    runs.record_event(run_dir, "submit", **{**again, **changed})


def _in_pack(run: Run, sent: Submission, last: Attempt | None, entry: slurm.Job, job: str) -> State | None:
    """The state of one of several runs in a job that is in the queue; None once the job does nothing for it."""
    n = last.number if last else 0
    if not due(run, sent, last):
        return None
    if entry.state in slurm.WAITING:
        return State("pending", entry.reason if entry.reason != "None" else entry.state.lower(), job, n)
    if last is not None and last.end is None and n > sent.after_attempt:
        return State("running", "" if entry.state == "RUNNING" else entry.state.lower(), job, n)
    return None if entry.state == "COMPLETING" else State("pending", "waits for its turn in its job", job, n)


def due(run: Run, sent: Submission, last: Attempt | None) -> bool:
    """Whether a job that has several runs executes this one, or is still to do so: it has not ended there for good.

    Parameters
    ----------
    sent: the run's submission to that job
    """
    if last is not None and last.end is None and last.number > sent.after_attempt:
        return True
    newest = run.last("submit", "cancel")
    if newest is not None and newest.kind == "cancel":
        return False
    if last is None or last.number <= sent.after_attempt:
        return True
    return is_requeued(run, last.number)


def _name_of_its_job(run: Run, sent: Submission | None, last: Attempt, jobs: Callable[[str], Mapping[int, str]]) -> str:
    """The name of the job that the last attempt ran in, where that is the newest submission's; "" for others' jobs."""
    if sent is None or not sent.named or last.owner is None:
        return ""
    number = jobs(sent.launch).get(sent.array)
    return job_name(sent.launch, sent.array, run.name) if number and last.owner.job == sent.job(number) else ""


def _after_attempt(run: Run, last: Attempt, queue: Callable[[], slurm.Queue | None], job: str) -> State:
    """The state when nothing is queued: as the last attempt ended, or whether its owner, a job of that name, lives."""
    name = _owner_name(last)
    if last.end is not None:
        if last.end.get("kind") == "paused" and runs.rungs_left(run) > int(last.end.get("rung") or 0):
            return State("unstarted", f"{PROMOTED}: {_promoted(run)}", name, last.number)
        return _ended(last.end, name, last.number)
    alive = owner_alive(last.owner, queue, job)
    if alive:
        return State("running", "", name, last.number)
    if alive is None:
        return State("unknown", "its attempt was started elsewhere, and may still run there", name, last.number)
    if end := runs.announced(run, last.number):
        return _ended(end, name, last.number)
    return State("lost", "its attempt ended without recording why: killed, or its node died", name, last.number)


def _promoted(run: Run) -> str:
    event = run.last("promote")
    return str(event.data.get("why") or "") if event is not None else ""


def _ended(end: Mapping[str, Any], name: str, attempt: int) -> State:
    kind = str(end.get("kind"))
    known = kind if kind in ("stopped", "cancelled", "ended early", "paused") else "failed"
    return State(known, str(end.get("why", "")), name, attempt)


def owner_alive(owner: Owner | None, queue: Callable[[], slurm.Queue | None], name: str = "") -> bool | None:
    """Whether an attempt's owner still executes it; None when that cannot be told.

    Parameters
    ----------
    name: of the owner's job, where it is known: another job that has its number by now is not the owner
    """
    if owner is None:
        return False  # the claim is written whole, with its owner: without one nothing was ever started
    if owner.job is None:
        return runs.local_alive(owner)
    now = queue()
    if now is None:
        return None
    job, _, task = owner.job.partition("_")
    entry = now.find(job, int(task) if task.isdigit() else None)
    return entry is not None and entry.state not in slurm.WAITING and entry.name == (name or entry.name)


def _owner_name(attempt: Attempt | None) -> str:
    owner = attempt.owner if attempt else None
    if owner is None:
        return ""
    return owner.job or f"{owner.host}:{owner.pid}"
