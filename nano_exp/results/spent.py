"""What runs took, and how much of it was useful. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nano_exp.store.spells import Spell

#: Ends after which what was trained since the last checkpoint is lost by a fault, not by a time limit.
FAULTS = ("failed", "lost", "cancelled")
#: The fields of a Cost that every one has.
SUMMED = (
    *("seconds", "failed", "repeated", "requeued"),
    *("failed_gpu_hours", "repeated_gpu_hours", "requeued_gpu_hours"),
)


@dataclass(frozen=True)
class Cost:
    """What a run, or several, took so far; the queue is not counted.

    Parameters
    ----------
    seconds: of all attempts in their allocations
    gpu_hours: the same times their GPUs; None where nothing says, as for runs of the launching machine
    failed: seconds of attempts that failed, vanished or were cancelled, after the last step that was kept
    repeated: seconds of steps that were trained again after an attempt was ended
    requeued: seconds of set-up that a later attempt needed again
    failed_gpu_hours, repeated_gpu_hours, requeued_gpu_hours: the same in GPU-hours
    energy_j: as Slurm measured it (joules); None where it does not
    source: what the times are from: sacct, or the runs' own files
    """

    seconds: float = 0.0
    gpu_hours: float | None = None
    failed: float = 0.0
    repeated: float = 0.0
    requeued: float = 0.0
    failed_gpu_hours: float = 0.0
    repeated_gpu_hours: float = 0.0
    requeued_gpu_hours: float = 0.0
    energy_j: float | None = None
    source: str = "files"

    @property
    def wasted(self) -> float:
        """Seconds."""
        return self.failed + self.repeated + self.requeued

    @property
    def useful(self) -> float:
        """Seconds."""
        return self.seconds - self.wasted

    @property
    def wasted_gpu_hours(self) -> float:
        return self.failed_gpu_hours + self.repeated_gpu_hours + self.requeued_gpu_hours

    @property
    def useful_gpu_hours(self) -> float | None:
        return None if self.gpu_hours is None else self.gpu_hours - self.wasted_gpu_hours


def of_spells(spells: Sequence[Spell], times: Sequence[tuple[int, float]]) -> Cost:
    """The cost of a run, by its attempts.

    What an attempt did after the last step that the run kept is lost: to its failure, or, where it was stopped, to the
    steps that were trained again. A later attempt's set-up is lost to being started again. What an attempt still does
    is useful so far.

    Parameters
    ----------
    times: step and unix time of each row that there is
    """
    return total(_of_spell(spell, spells[i + 1 :], times, i == 0) for i, spell in enumerate(spells))


def _of_spell(spell: Spell, later: Sequence[Spell], times: Sequence[tuple[int, float]], first: bool) -> Cost:
    kept = spell.ended
    if spell.kind not in ("done", "running"):
        step = next((one.resumed for one in later if one.resumed is not None), spell.last_step or 0)
        in_time = [t for number, t in times if number <= step and spell.began <= t <= spell.ended]
        kept = max(in_time, default=spell.began)
    elif spell.kind == "running" and later:
        kept = spell.began
    setup = 0.0 if first else min(spell.setup_s or 0.0, max(0.0, kept - spell.began))
    lost = spell.ended - kept
    fault = spell.kind in FAULTS
    hours = (spell.gpus or 0) / 3600
    return Cost(
        seconds=spell.seconds,
        gpu_hours=spell.gpu_hours,
        failed=lost if fault else 0.0,
        repeated=0.0 if fault else lost,
        requeued=setup,
        failed_gpu_hours=lost * hours if fault else 0.0,
        repeated_gpu_hours=0.0 if fault else lost * hours,
        requeued_gpu_hours=setup * hours,
        energy_j=spell.energy_j,
        source="sacct" if spell.accounted else "files",
    )


def total(parts: Iterable[Cost]) -> Cost:
    """The sum; GPU-hours and energy are those of the parts that have them, and None where none has."""
    every = list(parts)
    hours = [part.gpu_hours for part in every if part.gpu_hours is not None]
    energy = [part.energy_j for part in every if part.energy_j is not None]
    sums = {key: math.fsum(getattr(part, key) for part in every) for key in SUMMED}
    return Cost(
        **sums,
        gpu_hours=math.fsum(hours) if hours else None,
        energy_j=math.fsum(energy) if energy else None,
        source="sacct" if every and all(part.source == "sacct" for part in every) else "files",
    )
