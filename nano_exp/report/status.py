"""Runs as lines of a table: state and why, step, reward, validation, GPU-hours, age, what to do next."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import pwd
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nano_exp import text
from nano_exp.errors import UserError, choice, nearest
from nano_exp.index.cache import Cache
from nano_exp.index.overview import Facts
from nano_exp.index.selection import Folder, folders, select
from nano_exp.report import rungs
from nano_exp.report.next_step import advice, ending
from nano_exp.report.rungs import Rungs
from nano_exp.slurm import reasons
from nano_exp.store import axes, halt, predecessors, runs, state
from nano_exp.store.axes import Value
from nano_exp.store.phase import LABELS
from nano_exp.store.predecessors import Open
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.state import State


@dataclass(frozen=True)
class Line:
    """One run. Times are unix seconds.

    Parameters
    ----------
    why: pending reason, cause of failure, how long it stalls, ...: one line, may be empty
    reward, validation_accuracy: the newest ones
    gpu_hours: of all attempts so far, those that still run until now; None where nothing tells
    age_s: seconds since the newest thing that happened to the run
    cause, remedy: of the last attempt's failure: a key of triage.causes(), and what to type against it
    stalled_s: for how long it got no further when the watchdog looked last; None where it does not stall
    next: what to type, or what happens by itself; may be empty
    unsent: whether it has ended, recorded W&B offline, and has steps that nano-exp sync has not sent
    phase, phase_s: where a run that executes is (store.phase.LABELS), and for how long, seconds
    rung: of a run of a study: rungs reached and passed, of how many, until which step it trains, the newest one's value
    origin: what it started from: how (init: weights, fork: all of a checkpoint), run, step, path; None: its model
    point: key -> value on each axis of the runs of its name, typed or not; empty where they have none
    """

    name: str
    run: str
    state: str
    why: str
    job: str
    attempt: int
    step: int
    max_steps: int | None
    reward: float | None
    validation_accuracy: float | None
    gpu_hours: float | None
    age_s: float | None
    cause: str
    remedy: str
    stalled_s: float | None
    next: str
    overrides: list[str]
    point: dict[str, Value]
    user: str | None
    created: float
    dir: str
    damaged: list[str]
    unsent: bool = False
    phase: str = ""
    phase_s: float | None = None
    origin: dict[str, Value] | None = None
    rung: dict[str, Value] | None = None


def lines(results: Path, words: Sequence[str], lookup: QueueLookup, now: float | None = None) -> list[Line]:
    """The runs of a results folder, or those whose name, id or Slurm job is wanted (an id may be cut short).

    Raises
    ------
    UserError: nothing there, or nothing of that name
    """
    return look(Cache(results), words, lookup, now)


def look(cache: Cache, words: Sequence[str], lookup: QueueLookup, now: float | None = None) -> list[Line]:
    """The same with a cache that is kept; it is written where that is worth it."""
    moment = time.time() if now is None else now
    chosen = select(cache.results, words)
    all_facts = sorted(cache.get(chosen), key=_launched)
    lookup.include(facts.run for facts in all_facts)
    pairs = [(facts, _state(facts, lookup)) for facts in all_facts]
    ends = _endings(pairs, cache, lookup)
    every = folders(cache.results, {folder.name for folder in chosen}) if words else chosen
    points = _points(cache, all_facts, every)
    word_of = {folder.path: folder.word for folder in chosen}
    before, rungs_of = Before(cache.results, lookup), Rungs(cache.results)
    lines = []
    for facts, now_state in pairs:
        path = str(facts.run.dir)
        line = _line(facts, now_state, points[path], ends, moment, word_of[path], rungs_of.of(facts))
        lines.append(_waiting(line, facts, now_state, before, word_of[path]))
    cache.save(every)
    return lines


def _points(cache: Cache, all_facts: Sequence[Facts], every: Sequence[Folder]) -> dict[str, dict[str, Value]]:
    """Run folder -> its point, among all runs of its name, also those that are not looked at."""
    whole = all_facts
    if len(all_facts) != len(every):
        whole = sorted(cache.get(every), key=_launched)
    points: dict[str, dict[str, Value]] = {}
    by_name: dict[str, list[Facts]] = {}
    for facts in whole:
        by_name.setdefault(facts.run.name, []).append(facts)
    for same in by_name.values():
        of_name = axes.points([axes.typed(f.run.overrides) for f in same], partial(_of, cache, same))
        points |= {str(facts.run.dir): point for facts, point in zip(same, of_name, strict=True)}
    return points


def _of(cache: Cache, same: Sequence[Facts], index: int, key: str) -> Value:
    return cache.of(same[index].run.name).value(same[index], key)


def _launched(facts: Facts) -> tuple[str, str, int, float, str]:
    """Orders runs by name, and those of a name as they were launched: a sweep's as its axes have them."""
    run = facts.run
    place = run.record.get("place")
    return run.name, str(run.record.get("launch")), place if isinstance(place, int) else 0, run.created, run.id


def _state(facts: Facts, lookup: QueueLookup) -> State:
    sent = None if facts.done else state.submission(facts.run)
    jobs = {sent.array: facts.job} if sent is not None and facts.job else {}
    return state.state(facts.run, facts.attempts, lambda _: jobs, lookup)


# --- what accounting knows of those that left no word ---------------------------------------------------------------


def _endings(pairs: Sequence[tuple[Facts, State]], cache: Cache, lookup: QueueLookup) -> dict[str, str]:
    """`12_3 its name` -> how it ended, for runs that vanished. What has ended does not change, so it is asked once."""
    name_of = {key: facts.run.name for facts, now in pairs if (key := _job_key(facts, now))}
    missing = {key.split()[0]: key for key, name in name_of.items() if key not in cache.of(name).accounting}
    for job, ended in lookup.endings({job: key.split(" ", 1)[1] for job, key in missing.items()}).items():
        of_name = cache.of(name_of[missing[job]])
        of_name.accounting[missing[job]] = [ended.state, ended.exit_code, ended.nodes]
        of_name.asked_anew = True
    known = {key: end for key, name in name_of.items() if (end := cache.of(name).accounting.get(key))}
    return {key: ending(ended_as, code, nodes, _user(ended_as)) for key, (ended_as, code, nodes) in known.items()}


def _job_key(facts: Facts, now: State) -> str:
    sent = state.submission(facts.run) if now.kind in ("lost", "unstarted") else None
    if sent is None or sent.local is not None or now.why.startswith(state.PROMOTED):
        return ""
    job = now.job or (sent.job(facts.job) if facts.job else "")
    name = state.job_name(sent.launch, sent.array, facts.run.name) if sent.named else ""
    return f"{job} {name}" if job else ""


def _user(state_word: str) -> str:
    """The name of the user in `CANCELLED by 1001`."""
    with contextlib.suppress(ValueError, KeyError):
        return pwd.getpwuid(int(state_word.rpartition(" by ")[2])).pw_name
    return ""


# --- what is waited for ---------------------------------------------------------------------------------------------


class Before:
    """What launches wait for and has not ended as it has to, looked up once for each launch."""

    def __init__(self, results: Path, lookup: QueueLookup) -> None:
        self.results, self._lookup = results, lookup
        self.of = functools.cache(self._of)
        self.canary = functools.cache(self._canary)

    def _canary(self, launch: str) -> str:
        return _canary_words(self.results, launch)

    def _of(self, launch: str) -> list[Open]:
        waits = predecessors.known(runs.launch_dir(self.results, launch))
        return predecessors.unfinished(self.results, waits, self._lookup)


def _canary_words(results: Path, launch: str) -> str:
    """A launch's canary with its job, and how far it is."""
    job = runs.canary_job(results, launch)
    folders = [
        run for name in runs.folders(runs.launch_dir(results, launch) / runs.CANARY) for run in runs.folders(name)
    ]
    tried = runs.attempts(folders[0]) if folders else []
    end = tried[-1].end if tried else None
    how = "came through" if end and end.get("kind") == "done" else str(end.get("kind")) if end else "started"
    return f"its launch's canary ({f'job {job}, ' if job else ''}{how if tried else 'not started'})"


def _waiting(line: Line, facts: Facts, now: State, before: Before, word: str) -> Line:
    """The line of a run that has not started, with what it waits for or waited for in vain."""
    sent = facts.run.last("submit")
    waits = now.kind == "pending" and now.why.startswith("Dependency")
    if source := _source_in_vain(facts, now):
        return dataclasses.replace(line, next=f"nano-exp retry {source} {word}")
    if sent is None or not (waits or (now.kind in ("unstarted", "cancelled") and sent.data.get("after"))):
        return line
    launch = str(sent.data.get("launch"))
    if halt.has_started(facts.run, launch):
        return line
    waits_for = before.of(launch) if sent.data.get("after") else []
    never = [one for one in waits_for if not one.comes]
    if not waits_for:
        other = before.canary(launch) if sent.data.get("canary") else "another job"
        return dataclasses.replace(line, why=f"waits for {other}") if waits and now.why == "Dependency" else line
    listed = predecessors.listed(waits_for)
    first = next((one.wait.run for one in never if one.wait.run), "")
    if waits:
        again = f"nano-exp retry {first}" if first else line.next
        return dataclasses.replace(line, why=f"waits for {listed}", next=again)
    why = line.why if now.kind == "cancelled" else f"did not start: it came after {listed}"
    return dataclasses.replace(line, why=why, next=f"nano-exp retry {first} {word}" if first else line.next)


def _source_in_vain(facts: Facts, now: State) -> str:
    """The run that a link of a chain on this machine starts from, where it was given up and that one is not done."""
    sent, origin = facts.run.last("submit"), facts.run.record.get("init_from")
    if now.kind != "cancelled" or sent is None or not sent.data.get("local") or not isinstance(origin, Mapping):
        return ""
    source = str(origin.get("run") or "")
    done = state.is_done(runs.attempts(facts.run.results / source)) if source else True
    return "" if done or facts.run.last("origin") else source


# --- one line -------------------------------------------------------------------------------------------------------


def _line(
    facts: Facts,
    now: State,
    point: dict[str, Value],
    ends: Mapping[str, str],
    moment: float,
    word: str,
    rung: dict[str, Value] | None,
) -> Line:
    run, newest = facts.run, facts.newest
    last = facts.attempts[-1] if facts.attempts else None
    end: Mapping[str, Any] = last.end if last is not None and last.end is not None else {}
    recorded = end.get("diagnosis") if now.kind in ("failed", "unknown") else None
    diagnosis: Mapping[str, Any] = recorded if isinstance(recorded, Mapping) else {}
    stalled = _stalled(facts, now)
    why = reasons.in_words(now.why) if now.kind == "pending" else str(diagnosis.get("title") or now.why)
    if now.kind == "unknown" and end:  # whether it was started again is not known, how it ended is
        why = f"{now.why}; attempt {now.attempt} {end.get('kind')}: {diagnosis.get('title') or end.get('why')}"
    if now.kind == "running" and (waits := run.last("waiting")) and waits.data.get("attempt") == now.attempt:
        why = f"waits for {waits.data['what']}" if waits.data.get("what") else why
    here = facts.phase if now.kind == "running" else None
    if stalled is not None:
        why = _stalled_words(facts, stalled)
    elif here is not None and here.phase != "step":
        why = f"{here.label} for {text.duration(moment - here.since)}"
    elif now.kind == "running" and not why:
        why = rungs.words(rung)
    why = ends.get(_job_key(facts, now), why) if ends else why
    why = "; ".join(filter(None, [why, _nonfinite(facts, now, end)]))
    goes_on = last is not None and state.is_requeued(run, last.number)
    max_steps = run.record.get("max_steps")
    return Line(
        name=run.name,
        run=run.id,
        state=now.kind,
        why=why,
        job=now.job,
        attempt=now.attempt,
        step=newest.step,
        max_steps=max_steps if isinstance(max_steps, int) else None,
        reward=newest.reward,
        validation_accuracy=newest.accuracy,
        gpu_hours=_gpu_hours(facts, now, moment),
        age_s=moment - facts.last if facts.last and math.isfinite(facts.last) else None,
        cause=str(diagnosis.get("cause") or ""),
        remedy=str(diagnosis.get("remedy") or ""),
        stalled_s=stalled,
        next=advice(word, now, diagnosis, goes_on, stalled is not None),
        overrides=run.overrides,
        point=point,
        user=run.user,
        created=run.created,
        dir=str(run.dir),
        damaged=run.damaged,
        unsent=_unsent(facts, now, end),
        origin=_origin(run),
        rung=rung,
        phase=here.phase if here else "",
        phase_s=moment - here.since if here and math.isfinite(here.since) else None,
    )


def _origin(run: runs.Run) -> dict[str, Value] | None:
    """Run, step and whether it is a fork; None of a run that started from its model's weights. The step is the word
    that was typed (best, last) until the run has started."""
    found = run.last("origin")
    for key in ("fork_from", "init_from"):
        if isinstance(source := run.record.get(key), Mapping):
            if found is not None and found.data.get("key") == key:
                source = found.data
            place = {name: source.get(name) for name in ("run", "step", "path")}
            return {"how": key.removesuffix("_from"), **place}
    return None


def _unsent(facts: Facts, now: State, end: Mapping[str, Any]) -> bool:
    sent = facts.run.last("synced")
    step = sent.data.get("step") if sent is not None else None
    known = step if isinstance(step, int) else 0
    return end.get("wandb") == "offline" and now.kind not in state.ACTIVE and facts.newest.step > known


def _nonfinite(facts: Facts, now: State, end: Mapping[str, Any]) -> str:
    """What was NaN or infinite: in the newest step of a run that executes, in any step of one that is done.

    A failure's cause says more, and the end of one that stopped says it already."""
    if now.kind == "running" and facts.newest.nonfinite:
        return f"{facts.newest.nonfinite[0]} is not finite in step {facts.newest.step}"
    return str(end.get("nonfinite") or "") if now.kind == "done" else ""


def _stalled(facts: Facts, now: State) -> float | None:
    """Seconds, where the running attempt's watchdog said so, and it has got no further since."""
    event = facts.run.last("stalled")
    if now.kind != "running" or event is None or event.data.get("attempt") != now.attempt:
        return None
    step, seconds = event.data.get("step"), event.data.get("seconds")
    if not isinstance(step, int) or not isinstance(seconds, int | float) or step < facts.newest.step:
        return None
    if facts.phase is not None and event.data.get("phase", facts.phase.phase) != facts.phase.phase:
        return None
    return float(seconds) if math.isfinite(seconds) else None


def _stalled_words(facts: Facts, seconds: float) -> str:
    event = facts.run.last("stalled")
    where = str(event.data.get("phase") or "step") if event is not None else "step"
    what = f"no step after {facts.newest.step}" if where == "step" else LABELS.get(where, where)
    return f"stalled: {what} for {text.duration(seconds)} or longer"


def _gpu_hours(facts: Facts, now: State, moment: float) -> float | None:
    """One that vanished counts until it last printed something; one that still runs, until now."""
    if facts.gpus is None:
        return None
    seconds = 0.0
    for attempt in facts.attempts:
        spent = attempt.end.get("seconds") if attempt.end is not None else None
        if isinstance(spent, int | float):
            seconds += spent
        elif attempt.end is None and attempt.number in facts.started:
            running = now.kind in ("running", "unknown") and attempt is facts.attempts[-1]
            until = moment if running else _modified(f"{attempt.dir}/stdout.log")
            seconds += max(0.0, until - facts.started[attempt.number])
    return facts.gpus * seconds / 3600 if math.isfinite(seconds) else None


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return 0.0


# --- which, and in which order --------------------------------------------------------------------------------------

#: --sort's words -> what a line is sorted by.
SORTS: dict[str, Callable[[Line], Value]] = {
    "name": lambda line: line.name,  # the runs of one stay as they were launched
    "state": lambda line: line.state,
    "step": lambda line: line.step,
    "reward": lambda line: line.reward,
    "validation": lambda line: line.validation_accuracy,
    "gpu-hours": lambda line: line.gpu_hours,
    "age": lambda line: line.age_s,
    "created": lambda line: line.created,
}


def filtered(lines: Iterable[Line], states: str) -> list[Line]:
    """Those in one of these states (`failed,running`; `active` means pending and running, `stalled` those that stall).

    Raises
    ------
    UserError: no such state
    """
    kinds = {word.strip() for word in states.split(",") if word.strip()}
    known = {*state.MEANING, "active", "stalled"} - {"new", "changed"}
    for word in kinds - known:
        near = nearest(word, known)
        raise UserError(
            f"--state {word}",
            f"no run can be in that state; the states are {', '.join(sorted(known))}",
            choice("--state ", near, sorted(known)),
        )
    if "active" in kinds:
        kinds |= set(state.ACTIVE)
    return [line for line in lines if line.state in kinds or ("stalled" in kinds and line.stalled_s is not None)]


def ordered(lines: Sequence[Line], by: str) -> list[Line]:
    """Greatest first, words from a to z, what has no value last; a leading - turns it round.

    Parameters
    ----------
    by: a word of SORTS, or an axis: its key, or its name in the table

    Raises
    ------
    UserError: neither
    """
    word, turned = by.removeprefix("-"), by.startswith("-")
    value = _sorter(lines, word)
    numbers = [(number, line) for line in lines if isinstance(number := value(line), int | float) and number == number]
    texts = [(str(text_value), line) for line in lines if isinstance(text_value := value(line), str)]
    without = [
        line
        for line in lines
        if not isinstance(text_value := value(line), int | float | str) or text_value != text_value
    ]
    numbers.sort(key=lambda pair: pair[0], reverse=not turned)
    texts.sort(key=lambda pair: pair[0])
    return [line for _, line in [*numbers, *(reversed(texts) if turned else texts)]] + without


def _sorter(lines: Sequence[Line], word: str) -> Callable[[Line], Value]:
    keys = list(dict.fromkeys(key for line in lines for key in line.point))
    named = axes.names(keys)
    if word in SORTS:
        return SORTS[word]
    for key, name in named.items():
        if word in (key, name):
            return lambda line: line.point.get(key)
    there = [*SORTS, *named.values()]
    near = nearest(word, there)
    raise UserError(f"--sort {word}", f"sorted by one of {', '.join(there)}", choice("--sort ", near, there))


# --- for scripts ----------------------------------------------------------------------------------------------------


def as_json(lines: Iterable[Line], lookup: QueueLookup) -> str:
    """One object: Slurm's error where it did not answer, and the runs, one on each line of the text."""
    rows = ",\n".join(json.dumps({k: _finite(v) for k, v in vars(line).items()}) for line in lines)
    return f'{{"slurm_error": {json.dumps(lookup.error or None)},\n "runs": [\n{rows}\n]}}'


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
