"""What runs cost to their last step, at the time of a step that was measured in this store, or that is estimated.

A run goes on through as many allocations as it needs, so that its cost is set by its steps and not by one time limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from nano_exp import alike, text
from nano_exp.errors import UserError
from nano_exp.launch.convergence import Row, configs_of
from nano_exp.layout import models, workload
from nano_exp.planner import gpus, steptime
from nano_exp.store import metrics_file, runs, spells
from nano_exp.study import run_length

#: The choices that make steps alike, and how many runs of a name are looked at for theirs.
ALIKE, LOOKED_AT = ("model", "cluster"), 40
#: How many of a run's newest steps are looked at.
NEWEST = 50
#: More steps than this are no end: published recipes have a million, and their epochs end them, or a time limit.
NO_END = 100_000


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, and where that is from: `measured ...` or `estimated ...`."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Whole:
    """GPU-hours of runs to their last steps.

    Parameters
    ----------
    hours: of each run for which that is known
    endless: GPU-hours of 100 steps of each run whose max_num_steps sets no end
    unknown: how many runs it is not known for
    """

    hours: tuple[float, ...]
    steps: tuple[StepTime, ...]
    endless: tuple[float, ...]
    unknown: int

    @property
    def total(self) -> float:
        return math.fsum(self.hours)

    def line(self) -> str:
        """`to the last step: 64 GPU-hours a run, 128 in all, at 36 s a step (measured ...)`; "" for nothing."""
        if not self.steps:
            return ""
        parts = []
        if self.hours:
            each = f"{gpu_hours(max(self.hours))} GPU-hours a run"
            parts.append(each if len(self.hours) == 1 else f"{each}, {gpu_hours(self.total)} in all")
        if self.endless:
            whose = f"{len(self.endless)} run{'s' * (len(self.endless) != 1)}, whose steps it does not limit"
            parts.append(f"{gpu_hours(max(self.endless))} GPU-hours for each 100 steps of {whose}")
        said = "; ".join(parts)
        seconds = sorted(one.seconds for one in self.steps)
        low, high = _seconds(seconds[0]), _seconds(seconds[-1])
        pace = f"{low} a step" if low == high else f"{low} to {high} a step"
        sources = "; ".join(dict.fromkeys(one.source for one in self.steps))
        left = f"; not known for {self.unknown} of them" if self.unknown else ""
        return f"to the last step: {said}, at {pace} ({sources}){left}"


def whole(rows: Sequence[Row]) -> Whole:
    """Of runs that are to be submitted: from their newest checkpoints on, start-ups not counted."""
    on_slurm = [row for row in rows if row.config["slurm"]["where"] == "slurm"]
    with_gpus = [row for row in on_slurm if _gpus(row.config)]
    hours, steps, endless = [], [], []
    same = rows if len(with_gpus) == len(rows) else with_gpus
    lengths = alike.each(configs_of(same), run_length.of)
    for row, length, one in zip(with_gpus, lengths, _steps(same), strict=True):
        if one is not None:
            each = one.seconds * (_gpus(row.config) or 0) / 3600
            left = max(0, length - _kept(row))
            if left > NO_END:
                endless.append(100 * each)
            else:
                hours.append(left * each)
            steps.append(one)
    return Whole(tuple(hours), tuple(steps), tuple(endless), len(on_slurm) - len(steps))


def _gpus(config: Mapping[str, Any]) -> int | None:
    nodes, each = (config.get("cluster") or {}).get("num_nodes"), (config.get("cluster") or {}).get("gpus_per_node")
    return nodes * each if type(nodes) is int and type(each) is int and nodes * each > 0 else None


def _kept(row: Row) -> int:
    """The newest checkpoint that is known of."""
    if row.is_new:
        return 0
    run = runs.load(row.dir)
    return spells.newest_checkpoint(spells.spells(run, runs.attempts(row.dir), lambda *_: None, False, 0.0))


def _steps(rows: Sequence[Row]) -> list[StepTime | None]:
    """Of each run: its own, or those of its name that are alike, or as the planner estimates it."""
    like = cache(_measured)
    measured = [_own(row) or like(row.dir.parent, _choices(row.frozen.choices)) for row in rows]
    others = [row for row, known in zip(rows, measured, strict=True) if known is None] if any(measured) else rows
    estimates = iter(alike.each(configs_of(others), estimated))
    return [known if known is not None else next(estimates) for known in measured]


def _own(row: Row) -> StepTime | None:
    seconds = None if row.is_new else _time_of(row.dir)
    return StepTime(seconds, "measured") if seconds is not None else None


def _choices(choices: Mapping[str, str | None]) -> tuple[str | None, ...]:
    return tuple(choices.get(key) for key in ALIKE)


def _measured(folder: Path, choices: tuple[str | None, ...]) -> StepTime | None:
    """The median over the runs of a name that have the same model and cluster."""
    found = []
    for path in runs.folders(folder)[:LOOKED_AT]:
        seconds = _time_of(path)
        if seconds is not None and _choices(runs.load(path, events=False).choices) == choices:
            found.append(seconds)
    if not found:
        return None
    return StepTime(median(found), f"measured in {len(found)} run{'s' * (len(found) != 1)} of {folder.name}")


def _time_of(run_dir: Path) -> float | None:
    """The median time between a run's newest steps, validation and checkpoints included."""
    rows = metrics_file.read(run_dir, tail_bytes=256 * 1024)
    times = {row["step"]: runs.number(row.get("time")) for row in rows if "train/reward" in row}
    gaps = [
        now - before
        for step, now in list(times.items())[-NEWEST:]
        if now is not None and (before := times.get(step - 1)) is not None and now > before
    ]
    return math.fsum(gaps) / len(gaps) if gaps else None


def estimated(config: Mapping[str, Any]) -> StepTime | None:
    """By the planner, whose formulas are for ranking layouts; None for models and engines that it does not know."""
    if config["engine"]["name"] != "nemo_rl":
        return None
    name = str((config.get("site") or {}).get("gpu") or "") or gpus.DEFAULT
    try:
        if models.unknown(models.named(config)):
            return None
        seconds = steptime.estimate(workload.of_config(config), gpus.gpu(name), gpus.constants(name)).total
    except (UserError, ArithmeticError, ValueError, KeyError, TypeError):
        return None  # what it refuses, preflight's rules say
    if not 0 < seconds < math.inf:
        return None
    return StepTime(seconds, f"estimated for {name}: good to a factor of 2")


def gpu_hours(hours: float) -> str:
    """In words, without the unit."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def _seconds(seconds: float) -> str:
    return text.duration(seconds) if seconds >= 10 else f"{seconds:.1f} s"
