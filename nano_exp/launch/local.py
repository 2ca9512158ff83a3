"""Execute a launch on this machine: attempts as processes, waited for with a live line; Ctrl-C ends them whole."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nano_exp import files, text
from nano_exp.credentials import redact
from nano_exp.index import progress
from nano_exp.launch.convergence import Row
from nano_exp.launch.executors import ManifestLocalExecutor
from nano_exp.launch.machine import Places
from nano_exp.launch.submit import Launch
from nano_exp.store import runs
from nano_exp.terminal import progress_line

POLL_S = 0.3
#: After the second Ctrl-C, or when an attempt does not end, it is killed. Its own engine gets less (child.grace).
GRACE_S = 30.0


class Interrupted(Exception):
    """Ctrl-C: every attempt was ended whole; the same command resumes."""


def execute(launch: Launch, parallel: int) -> dict[str, str]:
    """Run all of a launch's runs here, `parallel` at a time; with `pack` each with its part of this machine.

    Returns
    -------
    run folder -> how it ended: done, stopped or failed

    Raises
    ------
    UserError: there are no ports for so many at once
    Interrupted: after Ctrl-C, when the attempts have ended
    """
    executor = ManifestLocalExecutor(launch.dir)
    tasks = [(array.number, task, row) for array in launch.arrays for task, row in enumerate(array.rows)]
    rows = [row for _, _, row in tasks]
    places = _places(launch, rows, parallel)
    waiting = deque(range(len(tasks)))
    running: dict[int, Any] = {}
    ends: dict[str, str] = {}
    live = progress_line.Live()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                index = waiting.popleft()
                array, task, _ = tasks[index]
                running[index] = executor.start(array, task, places.take(index) if places else None)
            time.sleep(POLL_S)
            for index in [i for i, job in running.items() if job.done()]:
                running.pop(index)
                if places:
                    places.give_back(index)
                array, task, row = tasks[index]
                ends[str(row.dir)] = how_ended(row.dir)
                waiting.extendleft(_promoted(tasks, {*running, *waiting}))
                if ends[str(row.dir)] != "done" and not _started(row.dir, launch.id):
                    ends[str(row.dir)] = "failed"
                    live.say(never_started(row.id, executor.log(array, task)))
                    continue
                if len(rows) > 1:
                    shown = progress_line.text(row.id, progress.sample(row.dir), _steps(row))
                    live.say(f"{ends[str(row.dir)]:8}{shown}")
            _show(live, [rows[i] for i in running], len(ends), len(rows))
    except KeyboardInterrupt:
        live.say("Ctrl-C: ending at the current step; the last checkpoint stays (Ctrl-C again to kill)")
        end(running.values(), live)
        raise Interrupted() from None
    live.clear()
    return ends


def _places(launch: Launch, rows: list[Row], parallel: int) -> Places | None:
    """The parts of this machine, where the launch packs its runs."""
    if launch.terms.pack is None:
        return None
    engines = {str(row.config["engine"]["name"]) for row in rows}
    return Places(parallel, launch.arrays[0].shape.gpus_per_node, engines)


def _promoted(tasks: list[tuple[int, int, Row]], under_way: set[int]) -> list[int]:
    """The places of the runs that were promoted from a rung and are not under way."""
    places = []
    for place, (_, _, row) in enumerate(tasks):
        tried = runs.attempts(row.dir) if place not in under_way else []
        end = (tried[-1].end or {}) if tried else {}
        if end.get("kind") == "paused" and runs.rungs_left(runs.load(row.dir)) > int(end.get("rung") or 0):
            places.append(place)
    return places


def _started(run_dir: Path, launch: str) -> bool:
    """Whether an attempt of this launch claimed the run."""
    return any(e.kind == "start" and e.data.get("launch") == launch for e in runs.load(run_dir).events)


def never_started(run: str, log: Path) -> str:
    """What the process of a run said, that ended before it was an attempt."""
    said = [line.strip() for line in files.tail(log).splitlines() if line.strip()]
    why = redact(said[-1]) if said else "it printed nothing"
    return f"{run} never started: {why}\n  its log: {text.relative(log)}"


def _show(live: progress_line.Live, active: list[Row], ended: int, total: int) -> None:
    samples = [(row.id, progress.sample(row.dir), _steps(row)) for row in active]
    if total == 1 and samples:
        live.show(progress_line.text(*samples[0]))
    elif samples:
        live.show(progress_line.many(samples, ended, total))


def _steps(row: Row) -> int:
    return int(row.config["grpo"]["max_num_steps"])


def end(attempts: Iterable[Any], live: progress_line.Live) -> None:
    """SIGTERM to each attempt, which ends its engine; SIGKILL to the session of one that does not end."""
    jobs = list(attempts)
    for job in jobs:
        _signal(job, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    try:
        while any(not job.done() for job in jobs) and time.monotonic() < until:
            live.show("ending ...")
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        live.say("Ctrl-C again: killing")
    for job in jobs:
        if not job.done():
            _signal(job, signal.SIGKILL)
            job._process.wait()
    live.clear()


def _signal(job: Any, number: signal.Signals) -> None:
    process = job._process
    try:
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except ProcessLookupError:
        return


def how_ended(run_dir: Path) -> str:
    """done, stopped, failed, or lost (no word of an end) of the newest attempt."""
    tried = runs.attempts(run_dir)
    if not tried:
        return "failed"
    end = tried[-1].end or runs.announced(runs.load(run_dir), tried[-1].number)
    return str(end.get("kind", "failed")) if end else "lost"
