"""What the store has of a study: its runs with the rungs that they reached, and the lock under which points go on.

    results/.studies/<name>.json    rungs, part that goes on, metric: written by the launch
                                    more_to_come: a search adds points
    results/.studies/<name>.lock    one decision at a time; the kernel frees it when its holder dies
    events of a run: rung (reached: rung, step, value), promote (goes on: from which rung, why)

Nothing else is remembered: who goes on follows from the events, whoever looks, and however often.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.files import Damaged
from nano_exp.store import metrics_file, runs, state
from nano_exp.study import halving, peers
from nano_exp.study.halving import Halving, Member, Promotion

FOLDER = ".studies"
MORE = "more_to_come"
#: Who had a run go on, in its event; else a user did.
BY_STUDY = "study"
#: How long one decision waits for another's, seconds: each takes a moment.
PATIENCE_S = 60.0
#: Ends after which a run goes no further by itself.
OUT = ("failed", "cancelled", "ended early")


def path(results: Path, name: str) -> Path:
    """Where a name's rungs are written."""
    return results / FOLDER / f"{name}.json"


def write(results: Path, name: str, rules: Halving, more_to_come: bool = False) -> None:
    """
    Parameters
    ----------
    more_to_come: a search adds points, so that nobody is the best of all yet
    """
    files.make_dir(results / FOLDER)
    known = {**rules.as_dict(), MORE: more_to_come}
    files.write_json(path(results, name), known, durable=True)


def is_open(results: Path, name: str) -> bool:
    """Whether a search adds points to a study."""
    try:
        return files.read_json(path(results, name)).get(MORE) is True
    except (Damaged, OSError, AttributeError):
        return False


def read(results: Path, name: str) -> Halving | None:
    """The rules of a name's study; None where it has none. Raises Damaged."""
    try:
        return halving.of(files.read_json(path(results, name)))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise Damaged(f"{path(results, name)} cannot be read: {error}") from error


def names(results: Path) -> list[str]:
    """Those that have a study, sorted."""
    return sorted(found.stem for found in (results / FOLDER).glob("*.json"))


@contextmanager
def lock(results: Path, name: str) -> Iterator[bool]:
    """One at a time. False where that cannot be had: a file system without locks, or another that takes too long."""
    files.make_dir(results / FOLDER)
    with (results / FOLDER / f"{name}.lock").open("a") as file:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    yield False
                    return
                time.sleep(0.05)
            except OSError:
                yield False
                return
        yield True


def reached(run: runs.Run) -> dict[int, float]:
    """Rung -> the value that was measured there."""
    values: dict[int, float] = {}
    for event in run.events:
        rung = event.data.get("rung")
        if event.kind == "rung" and isinstance(rung, int):
            value = runs.number(event.data.get("value"))
            values[rung] = float("nan") if value is None else value
    return values


def members(results: Path, name: str, rules: Halving) -> list[tuple[runs.Run, Member]]:
    """The runs of a study in the order of their launch, of fresh starts the newest."""
    newest: dict[str, runs.Run] = {}
    for folder in runs.folders(results / name):
        run = runs.load(folder)
        if any(event.kind == "submit" and event.data.get("halving") for event in run.events):
            base = run.id.partition("-")[0]
            if base not in newest or run.created >= newest[base].created:
                newest[base] = run
    ordered = sorted(newest.values(), key=lambda run: (run.created, _place(run), run.id))
    return [(run, _member(run, rules)) for run in ordered]


def _place(run: runs.Run) -> int:
    place = run.record.get("place")
    return place if isinstance(place, int) else 0


def _member(run: runs.Run, rules: Halving) -> Member:
    """`out` says nothing of a run that was sent again after that end."""
    tried = runs.attempts(run.dir)
    end = (tried[-1].end or {}) if tried else {}
    kind, own, values = str(end.get("kind") or ""), runs.rungs_left(run), reached(run)
    sent = run.last("submit", "cancel", "refused")
    after = sent.data.get("after_attempt") if sent is not None and sent.kind == "submit" else None
    again = tried and after == tried[-1].number
    goes_on = tried and state.is_requeued(run, tried[-1].number)
    out = kind in OUT and not again and not goes_on
    out = out or (sent is not None and sent.kind != "submit" and kind not in ("done", "paused"))
    if kind in ("ended early", "done") and own not in values and own < len(rules.rungs):
        rows = metrics_file.read(run.dir)
        values[own] = halving.value_at(rows, rules.metric, rules.rungs[own])
    return Member(f"{run.name}/{run.id}", peers.point_of(run), own, values, out)


def is_promoted(run: runs.Run, tried: Sequence[runs.Attempt]) -> bool:
    """Whether a run was promoted from the rung at which its last attempt ended."""
    end = (tried[-1].end or {}) if tried else {}
    newest = run.last("submit", "cancel")
    cancelled = newest is not None and newest.kind == "cancel"
    return end.get("kind") == "paused" and runs.rungs_left(run) > int(end.get("rung") or 0) and not cancelled


def reach(run: runs.Run, rules: Halving, rung: int, attempt: int) -> None:
    """Write down that a run has reached a rung, once."""
    if rung not in reached(run):
        value = halving.value_at(metrics_file.read(run.dir), rules.metric, rules.rungs[rung])
        known: Any = None if value != value else value
        runs.record_event(run.dir, "rung", rung=rung, step=rules.rungs[rung], value=known, attempt=attempt)


def promote(results: Path, name: str, rules: Halving) -> list[Promotion]:
    """Decide who goes on and write it into the runs' events. Under the lock; doing it again does what is left."""
    told: list[Promotion] = []
    while True:
        pairs = members(results, name, rules)
        for run, event in _cut_off(pairs):
            record(run, rules, event.data["rung"], str(event.data.get("why")), BY_STUDY)
        news = halving.decide([member for _, member in pairs], rules, is_open(results, name))
        if not news:
            return told
        for promotion in news:
            for run, member in pairs:
                if member.point == promotion.point and member.level == promotion.rung and not member.out:
                    record(run, rules, promotion.rung, promotion.why(rules), BY_STUDY)
        told += news


def _cut_off(pairs: Sequence[tuple[runs.Run, Member]]) -> list[tuple[runs.Run, runs.Event]]:
    """Runs that were to go on with the rest of their point, each with the event of one that does: whoever wrote those
    down was killed in between. What reached the rung only later is decided anew."""
    points: dict[str, list[tuple[runs.Run, Member]]] = {}
    for run, member in pairs:
        points.setdefault(member.point, []).append((run, member))
    found: dict[Path, tuple[runs.Run, runs.Event]] = {}
    for seeds in points.values():
        for told in [event for run, _ in seeds for event in run.events if event.kind == "promote"]:
            for run, member in seeds if told.data.get("by") == BY_STUDY else ():
                if member.level == told.data.get("rung") and not member.out and _was_there(run, told):
                    found.setdefault(run.dir, (run, told))
    return list(found.values())


def _was_there(run: runs.Run, told: runs.Event) -> bool:
    """Whether a run had reached the rung of a promotion by then."""
    return any(
        event.kind == "rung" and event.data.get("rung") == told.data.get("rung") and event.time < told.time
        for event in run.events
    )


def record(run: runs.Run, rules: Halving, rung: int, why: str, by: str) -> None:
    to = rules.rungs[rung + 1] if rung + 1 < len(rules.rungs) else None
    runs.record_event(run.dir, "promote", rung=rung, to=to, why=why, by=by)
