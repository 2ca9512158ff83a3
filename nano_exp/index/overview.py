"""What the store says of one run, as far as a table needs it: little, plain, and the same from its files or a cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp.index import progress
from nano_exp.store import phase, runs, spells, state
from nano_exp.store.phase import Now as Phase
from nano_exp.store.runs import Attempt, Event, Run

#: Of run.json.
RECORD = ("digest", "overrides", "user", "created", "max_steps", "launch", "place", "init_from", "fork_from")
#: Of an attempt's end, and of a diagnosis in it.
END = ("kind", "rung", "why", "seconds", "last_step", "exit_code", "nonfinite", "wandb")
DIAGNOSIS = ("cause", "title", "remedy", "fault", "bad_node")
#: Events that no table needs; of every other kind the newest is kept, since a state depends on the newest ones only.
LEFT_OUT = ("engine", "end", "note")


@dataclass
class Facts:
    """One run.

    Parameters
    ----------
    run: with what a table needs of its record and events
    attempts: their ends cut to END
    started: attempt number -> unix time at which its allocation began, or itself where that is not known
    last: unix time of the newest event, or of the run's making
    newest: step, reward and validation accuracy
    job: the Slurm job of the newest submission, as far as it is known: the array's, for an array
    gpus: GPUs of one attempt, over all its nodes; None where nothing says
    phase: where the newest attempt said that it is; None where it has ended, or said nothing
    """

    run: Run
    attempts: list[Attempt] = field(default_factory=list)
    started: dict[int, float] = field(default_factory=dict)
    last: float = 0.0
    newest: progress.Newest = field(default_factory=progress.Newest)
    job: str | None = None
    gpus: int | None = None
    phase: Phase | None = None

    @property
    def done(self) -> bool:
        return state.is_done(self.attempts)


class Launches:
    """What the launches of a results folder say of their runs, each file read once at most."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.jobs: Callable[[str], Mapping[int, str]] = cache(lambda launch: runs.jobs_of(results, launch))
        self.gpus = spells.gpus_of(results)


def read(run_dir: Path, launches: Launches) -> Facts:
    """From the run's files. Never raises for what is inside of them."""
    whole = runs.load(run_dir)
    newest: dict[str, Event] = {}
    started: dict[int, float] = {}
    waited: dict[int, float] = {}
    for event in whole.events:
        if event.kind == "start" and isinstance(event.data.get("attempt"), int):
            waited[event.data["attempt"]] = spells.lead(event)
            started[event.data["attempt"]] = event.time - waited[event.data["attempt"]]
        if event.kind not in LEFT_OUT:
            newest.pop(event.kind, None)  # so that the order stays that of time
            newest[event.kind] = Event(event.time, event.kind, _cut_event(event.data))
    record = {key: whole.record[key] for key in RECORD if key in whole.record}
    run = Run(run_dir, record, list(newest.values()), whole.damaged)
    attempts = [
        Attempt(a.number, a.dir, a.owner, _cut_end(a.end, waited.get(a.number, 0.0))) for a in runs.attempts(run_dir)
    ]
    last = next((event.time for event in reversed(whole.events) if event.kind != "synced"), whole.created)
    facts = Facts(run, attempts, started, last, progress.newest(run_dir))
    facts.job = job(run, launches)
    if attempts and attempts[-1].end is None:
        facts.phase = phase.read(attempts[-1].dir)
    sent = state.submission(run)
    if sent is not None:
        facts.gpus = launches.gpus(sent.launch, sent.array)
    return facts


def job(run: Run, launches: Launches) -> str | None:
    """The Slurm job of a run's newest submission, as far as it was written down."""
    sent = state.submission(run)
    return launches.jobs(sent.launch).get(sent.array) if sent is not None and sent.local is None else None


def _cut_event(data: Mapping[str, Any]) -> dict[str, Any]:
    cut = {key: value for key, value in data.items() if key not in ("time", "kind")}
    return {**cut, "diagnosis": _cut(cut["diagnosis"], DIAGNOSIS)} if "diagnosis" in cut else cut


def _cut_end(end: Mapping[str, Any] | None, waited: float) -> dict[str, Any] | None:
    """`seconds` are since the allocation's start."""
    if end is None:
        return None
    diagnosis = _cut(end.get("diagnosis"), DIAGNOSIS)
    cut = {**_cut(end, END), "diagnosis": diagnosis} if diagnosis else _cut(end, END)
    seconds = runs.number(cut.get("seconds"))
    return cut if seconds is None else {**cut, "seconds": seconds + waited}


def _cut(value: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value} if isinstance(value, Mapping) else {}


# --- as JSON --------------------------------------------------------------------------------------------------------


def pack(facts: Facts) -> list[Any]:
    """As JSON has it. Small: status reads this of every run, every time."""
    return [
        facts.run.record,
        [[e.time, e.kind, e.data] for e in facts.run.events],
        facts.run.damaged,
        [[a.number, list(vars(a.owner).values()) if a.owner else None, a.end] for a in facts.attempts],
        list(facts.started.items()),
        facts.last,
        list(vars(facts.newest).values()),
        facts.job,
        facts.gpus,
        [facts.phase.phase, facts.phase.since] if facts.phase else None,
    ]


def unpack(run_dir: Path, packed: list[Any]) -> Facts:
    """The way back. Raises TypeError, ValueError or AttributeError on anything that `pack` did not make."""
    record, events, damaged, tried, started, last, newest, job, gpus, here = packed
    step, reward, accuracy, nonfinite = newest
    return Facts(
        Run(run_dir, record, [Event(*event) for event in events], damaged),
        [
            Attempt(number, run_dir / f"attempts/{number}", runs.Owner(*owner) if owner else None, end)
            for number, owner, end in tried
        ],
        dict(started),
        last,
        progress.Newest(step, reward, accuracy, tuple(nonfinite)),
        job,
        gpus,
        Phase(*here) if here else None,
    )


# --- has it changed? ------------------------------------------------------------------------------------------------


@dataclass
class Signature:
    """Numbers that are others once a run's files are.

    Parameters
    ----------
    times: nanoseconds since 1970; 0 for what is not there
    rest: inodes and a size
    """

    times: list[int]
    rest: list[int]


def signature(run_dir: str, inode: int, facts: Facts) -> Signature:
    """Of the run's folder as it is now.

    Whatever the store writes appears in a folder under a new name, which changes the folder's time, or makes
    metrics.jsonl longer. A run that is done gets no more steps and no more attempts: its folder and its events tell.

    Parameters
    ----------
    inode: of the run's folder
    facts: what was read of it: says which files there are to look at
    """
    signature_now = Signature([_time(run_dir), _time(f"{run_dir}/events")], [inode])
    if not facts.done:
        signature_now.times += [_time(f"{run_dir}/run.json"), _time(f"{run_dir}/attempts")]
        signature_now.times += [_time(f"{run_dir}/attempts/{facts.attempts[-1].number}")] if facts.attempts else []
        try:
            about = os.stat(f"{run_dir}/{runs.METRICS}")  # noqa: PTH116 (thousands of times; a Path costs more)
            signature_now.times.append(about.st_mtime_ns)
            signature_now.rest += [about.st_size, about.st_ino]
        except OSError:
            pass
    return signature_now


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0
