"""What jobs took, from sacct: when each of their starts began and ended, its GPUs and its energy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nano_exp.slurm import client
from nano_exp.slurm.client import NoAnswer
from nano_exp.slurm.sacct import MOST_ASKED

FORMAT = "JobID,Start,End,AllocTRES,ConsumedEnergyRaw"
#: The GPUs of a list such as `billing=8,cpu=64,gres/gpu=8,gres/gpu:h100=8,mem=1T,node=1`.
_GPUS = re.compile(r"(?:^|,)gres/gpu=(\d+)")
#: What a site's energy plugin says where it cannot measure (NO_VAL64 and its neighbours).
_NO_ENERGY = 2**63


@dataclass(frozen=True)
class Usage:
    """One start of a job or array task. A requeued one has several.

    Parameters
    ----------
    job: `12` or `12_3`
    began, ended: unix seconds; ended is None while it runs
    gpus: of the allocation; None where accounting does not track them
    energy_j: joules of its nodes; None where Slurm does not measure it
    """

    job: str
    began: float
    ended: float | None
    gpus: int | None
    energy_j: float | None = None


def usage(jobs: Iterable[str]) -> list[Usage]:
    """Every start of these jobs or array tasks, in one call; empty where there is no accounting."""
    numbers = sorted({int(number) for job in set(jobs) if (number := job.partition("_")[0]).isdigit()})
    if not numbers:
        return []
    ids = ",".join(map(str, numbers[-MOST_ASKED:]))
    try:
        done = client.run(
            ["sacct", "-n", "-P", "-D", "-j", ids, f"--format={FORMAT}"], more={"SLURM_TIME_FORMAT": "%s"}
        )
    except NoAnswer:
        return []
    return parse_usage(done.stdout if done.returncode == 0 else "")


def parse_usage(text: str) -> list[Usage]:
    """Lines of sacct with FORMAT and times in unix seconds: a job's line, then those of its steps.

    Slurm measures energy by step, and of whole nodes; steps of a job lie upon each other (the batch step is there from
    its first to its last second), so the greatest is the job's.
    """
    found: list[Usage] = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 5:
            continue
        job, start, end, tres, energy = parts
        whole, _, step = job.partition(".")
        joules = _joules(energy)
        if step:
            if found and found[-1].job == whole and joules is not None:
                found[-1] = replace(found[-1], energy_j=max(joules, found[-1].energy_j or 0.0))
        elif start.isdigit():  # a job that never started has none
            gpus = _GPUS.search(tres)
            ended = float(end) if end.isdigit() else None
            found.append(Usage(job, float(start), ended, int(gpus[1]) if gpus else None, joules))
    return found


def _joules(word: str) -> float | None:
    return float(word) if word.isdigit() and 0 < int(word) < _NO_ENERGY else None
