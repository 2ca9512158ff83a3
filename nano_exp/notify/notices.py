"""What there is to tell of a launch: its first failure of each cause, and its end, once for all of its runs.

Each attempt looks as it ends. Of several that see the same, the one that makes the notice's file first sends it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.notify.message import About, Message
from nano_exp.store import halt, runs, spells

#: Below a launch's folder: a file for each notice that was sent.
FOLDER = "notified"


@dataclass(frozen=True)
class Ended:
    """What became of one run of a launch; `kind` is empty where it has not ended for good."""

    run: runs.Run
    kind: str
    cause: str = ""
    title: str = ""
    remedy: str = ""


def first(launch_dir: Path, notice: str) -> bool:
    """Whether this is the first one to tell it. Of several at once, one is. Raises OSError."""
    folder = launch_dir / FOLDER
    folder.mkdir(exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in notice)[:120]
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def ended(run_dir: Path, launch: str) -> Ended:
    """What became of a run, from its own files."""
    run = runs.load(run_dir)
    tried = runs.attempts(run_dir)
    end = tried[-1].end if tried else None
    if not tried or not halt.is_of(run, tried[-1].number, launch):
        newest = run.last("submit", "cancel", "refused", "start")
        return Ended(run, "cancelled" if newest is not None and newest.kind in ("cancel", "refused") else "")
    if end is None:
        return Ended(run, "")
    kind = str(end.get("kind") or "")
    if kind == "failed":
        kind = kind if halt.failed_for_good(run, tried[-1].number, launch) else ""
    elif kind == "stopped":
        kind = "" if halt.goes_on(run, tried[-1].number) else kind
    diagnosis = end.get("diagnosis")
    known = diagnosis if isinstance(diagnosis, Mapping) else {}
    title = str(known.get("title") or end.get("why") or "no cause was found")
    return Ended(run, kind, str(known.get("cause") or title), title, str(known.get("remedy") or ""))


def failure(launch_dir: Path, manifest: Mapping[str, Any], this: Ended) -> Message:
    """The first failure of a cause."""
    count = len(halt.run_dirs(manifest))
    where = f"{this.run.name}/{this.run.id}"
    lines = [f"cause: {this.title}", *([f"do: {this.remedy}"] if this.remedy else [])]
    lines += [f"nano-exp logs {where}"]
    if count > 1:
        lines.append(f"of the {count} runs of this launch others may fail so too: they are told of at its end")
    return Message("failed", this.run.name, launch_dir.name, f"{where} failed: {this.title}", tuple(lines))


def budget(launch_dir: Path, name: str, why: str) -> Message:
    """A name's GPU-hours are spent."""
    lines = ("no further attempt of it starts; what executes goes on", f"nano-exp summary {name}")
    return Message("budget", name, launch_dir.name, why, lines)


def stalled(launch_dir: Path, run: runs.Run, why: str) -> Message:
    """A run of a launch makes no step."""
    where = f"{run.name}/{run.id}"
    return Message("stalled", run.name, launch_dir.name, f"{where} stalls: {why}", (f"nano-exp logs {where}",))


def finish(launch_dir: Path, manifest: Mapping[str, Any]) -> Message | None:
    """The end of a launch; None while a run of it goes on, or waits."""
    every = []
    for folder in halt.run_dirs(manifest):
        every.append(ended(folder, launch_dir.name))
        if not every[-1].kind:
            return None
    if not every:
        return None
    counts = Counter(one.kind for one in every)
    name = every[0].run.name
    total = f"{len(every)} run" + "s" * (len(every) != 1)
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    lines = []
    for title, count in Counter(one.title for one in every if one.kind == "failed").most_common():
        remedy = next((one.remedy for one in every if one.title == title and one.remedy), "")
        lines.append(f"{count} failed: {title}" + (f"; do: {remedy}" if remedy else ""))
    hours = spells.gpu_hours(one.run for one in every)
    if hours is not None:
        lines.append(f"{hours:,.1f} GPU-hours")
    lines.append(f"nano-exp compare {name}" if len(every) > 1 else f"nano-exp status {name}")
    about: About = "failed" if counts["failed"] == len(every) else "done"
    return Message(about, name, launch_dir.name, f"{name}: {total} ended: {listed}", tuple(lines))
