"""What runs cost: the time that each attempt held its allocation, and its GPUs. Reads files of the store alone.

Times come from a run's own files. Slurm's accounting has the same times, to the second, and energy besides
(`slurm.usage`); a launch, an attempt and a table must agree also where there is no accounting.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp import files, slurm
from nano_exp.files import Damaged
from nano_exp.store import runs
from nano_exp.store.runs import Attempt, Event, Run

#: How much the clocks of Slurm's controller and of a node may differ, seconds.
SLACK_S = 5.0
#: A manifest that says more is damaged.
MOST_GPUS = 10**6
#: Launch id and array number -> GPUs of one of its runs; None where nothing says, and for this machine's.
GpusOf = Callable[[str, int], int | None]


@dataclass(frozen=True)
class Spell:
    """One attempt and the time that it held its allocation. Times are unix seconds.

    Parameters
    ----------
    began: the allocation's start, or the attempt's where that is not known
    ended: its end; of one that runs, now; of one that vanished, when it last printed something
    gpus: of the allocation, over all its nodes; None where nothing says, as for runs of the launching machine
    kind: done, stopped, failed, cancelled; lost without an end, running while it executes
    job: the Slurm job or array task; None without Slurm, and where other runs executed in it too
    restart: how often Slurm had started that job before
    setup_s: from the engine's start to its first step; None where there was no step
    resumed: the step that its engine went on from; None where no engine started
    last_step: the newest whole checkpoint at its end; None where its end does not say
    energy_j: joules that Slurm measured; None where it does not
    accounted: whether times and GPUs are those of Slurm's accounting
    """

    attempt: int
    began: float
    ended: float
    gpus: int | None
    kind: str
    job: str | None = None
    restart: int = 0
    setup_s: float | None = None
    resumed: int | None = None
    last_step: int | None = None
    energy_j: float | None = None
    accounted: bool = False

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.began)

    @property
    def gpu_hours(self) -> float | None:
        return None if self.gpus is None else self.gpus * self.seconds / 3600


def gpu_hours(runs_of_one_store: Iterable[Run]) -> float | None:
    """Of all attempts of runs, by their files; None where none had a GPU of an allocation.

    An attempt without an end counts until it last printed something.
    """
    hours: list[float] = []
    look: GpusOf | None = None
    for run in runs_of_one_store:
        look = look or gpus_of(run.results)
        every = spells(run, runs.attempts(run.dir), look, False, 0.0)
        hours += [spell.gpu_hours for spell in every if spell.gpu_hours is not None]
    return math.fsum(hours) if hours else None


def newest_checkpoint(every: Iterable[Spell]) -> int:
    """The newest step that attempts are known to have saved, from which a run goes on; 0 without one."""
    return max((spell.last_step or spell.resumed or 0 for spell in every), default=0)


def gpus_of(results: Path) -> GpusOf:
    """Looks into the launches' manifests, each read once."""
    arrays = cache(lambda launch: launch_gpus(results, launch))

    def look(launch: str, array: int) -> int | None:
        known = arrays(launch)
        return known[array] if 0 <= array < len(known) else None

    return look


def launch_gpus(results: Path, launch: str) -> list[int | None]:
    """GPUs of one run of each array of a launch; none are counted for runs of the launching machine itself."""
    try:
        manifest = files.read_json(runs.launch_dir(results, launch) / "manifest.json")
        return [None if manifest.get("where") == "local" else _gpus(array) for array in manifest["arrays"]]
    except (Damaged, OSError, KeyError, TypeError, AttributeError):
        return []


def _gpus(array: Any) -> int | None:
    try:
        return min(int(array["shape"]["nodes"]) * int(array["shape"]["gpus_per_node"]), MOST_GPUS)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def spells(run: Run, attempts: Sequence[Attempt], gpus: GpusOf, running: bool, now: float) -> list[Spell]:
    """The attempts of a run, first to last, with the time that each took.

    Parameters
    ----------
    run: with all its events
    running: whether the last attempt executes, or may
    """
    array_of = {e.data.get("launch"): e.data.get("array") for e in run.events if e.kind == "submit"}
    starts = {e.data["attempt"]: e for e in run.events if e.kind == "start" and type(e.data.get("attempt")) is int}
    engines = {e.data["attempt"]: e for e in run.events if e.kind == "engine" and type(e.data.get("attempt")) is int}
    found: list[Spell] = []
    for attempt in attempts:
        start = starts.get(attempt.number)
        if start is None:
            continue
        launch = start.data.get("launch")
        array = array_of.get(launch)
        end = attempt.end or {}
        began = _began(start, found)
        alive = attempt.end is None and running and attempt is attempts[-1]
        ended = _ended(attempt, start.time, now if alive else None)
        kind = "running" if alive else str(end.get("kind") or "lost")
        owner = attempt.owner
        resumed = engines[attempt.number].data.get("resumes_from") if attempt.number in engines else None
        found.append(
            Spell(
                attempt.number,
                began,
                max(began, ended),
                gpus(str(launch), array) if type(array) is int else None,
                kind,
                owner.job if owner and not start.data.get("packed") else None,
                owner.restart if owner else 0,
                _finite(end.get("setup_s")),
                resumed if type(resumed) is int else None,
                end["last_step"] if type(end.get("last_step")) is int else None,
            )
        )
    return found


def accounted(found: Sequence[Spell], usages: Iterable[slurm.Usage]) -> list[Spell]:
    """The same with the times, GPUs and energy that Slurm's accounting has for them, where it has.

    Slurm uses its numbers again; another job of a number did not run when the attempt began.

    Parameters
    ----------
    usages: all starts of their jobs
    """
    every = list(usages)
    return [_accounted(spell, [one for one in every if one.job == spell.job], found) for spell in found]


def _accounted(spell: Spell, starts: Sequence[slurm.Usage], found: Sequence[Spell]) -> Spell:
    """The start of its job that an attempt fell into. Of several attempts in one start none has it for itself."""

    def within(one: Spell, start: slurm.Usage) -> bool:
        return start.began - SLACK_S <= one.began and (start.ended is None or one.began <= start.ended)

    for start in reversed(starts):
        if within(spell, start) and sum(one.job == spell.job and within(one, start) for one in found) == 1:
            ended = spell.ended if start.ended is None else start.ended
            gpus = spell.gpus if start.gpus is None else start.gpus
            began = min(start.began, ended)
            return replace(spell, began=began, ended=ended, gpus=gpus, energy_j=start.energy_j, accounted=True)
    return spell


def lead(start: Event) -> float:
    """Seconds that an allocation had been held when an attempt in it began; 0 where its event does not say."""
    allocated = _finite(start.data.get("allocated"))
    return start.time - allocated if allocated is not None and 0 < allocated <= start.time else 0.0


def _began(event: Event, before: Sequence[Spell]) -> float:
    """The start of the allocation, where the attempt wrote it down, but no time of an attempt before it."""
    start = event.time
    began = start - lead(event)
    return max(began, before[-1].ended) if before and before[-1].ended <= start else min(began, start)


def _ended(attempt: Attempt, start: float, now: float | None) -> float:
    end: Mapping[str, Any] = attempt.end or {}
    if (seconds := _finite(end.get("seconds"))) is not None:
        return start + seconds
    if attempt.end is not None:
        return _finite(end.get("time")) or start
    return _modified(attempt.dir / "stdout.log", start) if now is None else now


def _modified(path: Path, otherwise: float) -> float:
    try:
        return os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return otherwise


def _finite(value: Any) -> float | None:
    number = runs.number(value)
    return number if number is not None and math.isfinite(number) else None
