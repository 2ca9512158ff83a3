"""From the store to Results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_exp import slurm
from nano_exp.errors import UserError, choice, nearest
from nano_exp.index.cache import Cache
from nano_exp.report import status
from nano_exp.report.status import Line
from nano_exp.results.model import Point, Results, Run
from nano_exp.store import axes, runs, spells
from nano_exp.store.axes import Value
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.spells import Spell

#: The key whose values repeat a point.
SEED = "grpo.seed"


def load_results(
    store: Path,
    names: Sequence[str] = (),
    seed_key: str = SEED,
    asked: QueueLookup | None = None,
    now: float | None = None,
    accounting: bool = True,
) -> Results:
    """The runs of these names, run ids or Slurm jobs, as Results; all of the store where none is named.

    Parameters
    ----------
    store: the results folder
    seed_key: runs that differ in this key alone are repeats of one point
    asked: a look at Slurm that others share
    now: unix time; for tests
    accounting: whether Slurm's accounting is asked for times, GPUs and energy (one sacct, where any run had a job)

    Raises
    ------
    UserError: no runs there, or none of that name
    """
    asked = asked or QueueLookup()
    moment = time.time() if now is None else now
    lines = status.look(Cache(store), names, asked, moment)
    return of_lines(store, names, lines, seed_key, asked.error, moment, accounting)


def of_lines(
    store: Path,
    names: Sequence[str],
    lines: Sequence[Line],
    seed_key: str = SEED,
    slurm_error: str = "",
    now: float | None = None,
    accounting: bool = True,
) -> Results:
    """The same of runs that status has looked at already."""
    points = _points(lines)
    seed_key = _seed(seed_key, points)
    gpus = spells.gpus_of(store)
    taken = _spells(lines, gpus, time.time() if now is None else now, accounting and not slurm_error)
    found = [_run(line, point, seed_key, own) for line, point, own in zip(lines, points, taken, strict=True)]
    grouped: dict[tuple[str, ...], list[Run]] = {}
    for run in found:
        place = (run.name, *(f"{key}={axes.as_typed(value)}" for key, value in run.axes.items()))
        grouped.setdefault(place, []).append(run)
    return Results(
        tuple(names),
        tuple(found),
        tuple(Point(same[0].name, same[0].axes, tuple(same)) for same in grouped.values()),
        tuple(dict.fromkeys(key for run in found for key in run.axes)),
        seed_key,
        axes.typed(axes.shared([line.overrides for line in lines])),
        slurm_error,
    )


def _seed(word: str, points: Sequence[Mapping[str, Value]]) -> str:
    """The key of an axis by its key or its name in a table. Raises UserError where there is no such axis."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    if word in keys or word == SEED:
        return word
    named = axes.names(keys)
    found = next((key for key, name in named.items() if name == word), None)
    if found is None:
        there = list(named.values())
        raise UserError(
            f"--seeds {word}",
            "these runs do not differ in it" if there else "these runs differ in nothing",
            choice("--seeds ", nearest(word, [*keys, *there]), there) if there else "the same without it",
        )
    return found


def _points(lines: Sequence[Line]) -> list[dict[str, Value]]:
    """Each run's value on every axis: status's, and for several names those in which the names differ too."""
    if len({line.name for line in lines}) == 1:
        return [line.point for line in lines]
    read = [runs.load(Path(line.dir), events=False) for line in lines]
    return axes.points([axes.typed(line.overrides) for line in lines], lambda index, key: read[index].value(key))


def _spells(lines: Sequence[Line], gpus: spells.GpusOf, now: float, accounting: bool) -> list[list[Spell]]:
    """The attempts of each run, by Slurm's accounting where that is asked and knows them."""
    found = []
    for line in lines:
        run = runs.load(Path(line.dir))
        found.append(spells.spells(run, runs.attempts(run.dir), gpus, line.state == "running", now))
    jobs = {spell.job for own in found for spell in own if spell.job}
    usages: dict[str, list[slurm.Usage]] = {}
    for one in slurm.usage(jobs) if accounting else ():
        usages.setdefault(one.job, []).append(one)
    if not usages:
        return found
    return [
        spells.accounted(own, [one for job in {spell.job for spell in own if spell.job} for one in usages.get(job, ())])
        for own in found
    ]


def _run(line: Line, point: dict[str, Value], seed_key: str, own: Sequence[Spell]) -> Run:
    without = {key: value for key, value in point.items() if key != seed_key}
    return Run(line, without, point.get(seed_key), tuple(own))
