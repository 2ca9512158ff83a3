"""Stopping the rest of a launch: after `fail_fast=N` failures, or when its canary did not come through.

The reason is written into the launch's folder first. From then on no run of this launch starts: its launcher sends no
more arrays, an attempt that begins all the same ends at once, and what waits in the queue is cancelled. Runs that had
started go on, those that wait to be started again too. Each run that is stopped has the reason as an event, so that it
shows as cancelled with it, and the same launch (or nano-exp retry) submits it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp import files, slurm
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.text import Say

FILE = "halted.json"


def reason(launch_dir: Path) -> str:
    """Why nothing more of a launch starts; empty where it does."""
    try:
        record = files.read_json(launch_dir / FILE)
    except FileNotFoundError:
        return ""
    except (files.Damaged, OSError):
        return "this launch was stopped"
    return str(record.get("why") if isinstance(record, dict) else "") or "this launch was stopped"


def halt(launch_dir: Path, manifest: Mapping[str, Any], why: str, say: Say) -> None:
    """Let nothing more of a launch start. Doing it again does what the first time left undone."""
    if not reason(launch_dir):
        files.write_json(launch_dir / FILE, {"why": why, "time": time.time()}, durable=True)
    lookup = QueueLookup()
    count = 0
    jobs: list[str] = []  # tasks by name: of a whole array, one that waits to go on would be cancelled too
    for folder in run_dirs(manifest):
        run = runs.load(folder)
        sent = state.submission(run)
        if sent is None or sent.launch != launch_dir.name:
            continue  # another launch has it by now
        now = lookup.state(run)
        if now.kind == "pending" and not has_started(run, launch_dir.name):
            cancelled(run, why, now.job)
            count += 1
            jobs += [] if sent.packed else [now.job]  # the others of a packed run's job may be waiting to go on
    problem = lookup.error or slurm.cancel_waiting(jobs)
    failed = f" (not taken out of the queue: {problem}; they end when they start)" if problem else ""
    say(f"{why}: {count} waiting run{'s' if count != 1 else ''} of launch {launch_dir.name} stopped{failed}")


def has_started(run: runs.Run, launch: str) -> bool:
    """Whether an attempt of this launch has ever begun a run."""
    return any(e.kind == "start" and e.data.get("launch") == launch for e in run.events)


def cancelled(run: runs.Run, why: str, job: str | None) -> None:
    """Say of a run that it was stopped before it started, once."""
    newest = run.last("submit", "cancel", "start")
    if newest is None or newest.kind != "cancel":
        runs.record_event(run.dir, "cancel", job=job, why=why)


def run_dirs(manifest: Mapping[str, Any]) -> list[Path]:
    """The folders of a launch's runs. Raises KeyError or TypeError for a damaged manifest."""
    return [Path(folder) for entry in manifest["arrays"] for folder in entry["runs"]]


def failures(launch_dir: Path, manifest: Mapping[str, Any]) -> int:
    """How many runs of a launch have failed for good."""
    count = 0
    for folder in run_dirs(manifest):
        tried = runs.attempts(folder)
        if tried and tried[-1].end is not None and tried[-1].end.get("kind") == "failed":
            count += failed_for_good(runs.load(folder), tried[-1].number, launch_dir.name)
    return count


def failed_for_good(run: runs.Run, attempt: int, launch: str) -> bool:
    """Whether a run's failed last attempt was one of this launch and is not started again by itself."""
    return is_of(run, attempt, launch) and not goes_on(run, attempt)


def is_of(run: runs.Run, attempt: int, launch: str) -> bool:
    """Whether an attempt of a run began for a launch."""
    return any(
        e.kind == "start" and e.data.get("attempt") == attempt and e.data.get("launch") == launch for e in run.events
    )


def goes_on(run: runs.Run, attempt: int) -> bool:
    """Whether a run that an attempt ended is started again by itself."""
    kinds = [e.kind for e in run.events if e.kind in ("requeue", "note") and e.data.get("attempt") == attempt]
    return kinds[-1:] == ["requeue"]
