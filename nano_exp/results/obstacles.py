"""Why runs do not go on by themselves, and what to type: those of one cause together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nano_exp.results.model import Run
from nano_exp.store.state import ENDED_WELL

#: How many runs are named for one obstacle.
MOST_NAMED = 4


@dataclass(frozen=True)
class Obstacle:
    """Why runs do not go on, and what to type; RUN in `next` stands for each of them."""

    state: str
    why: str
    next: str
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        ids = [run.id for run in self.runs]
        named = ", ".join(ids[:MOST_NAMED]) + (f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else "")
        said = f"{len(ids)} {self.state}" + (f", {self.why}" if self.why else "") + f": {named}"
        return said + (f"; {self.next.replace('RUN', ' '.join(ids))}" if self.next else "")

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {"state": self.state, "why": self.why, "next": self.next, "runs": [run.id for run in self.runs]}


def obstacles(runs: Iterable[Run]) -> tuple[Obstacle, ...]:
    """The runs that do not go on by themselves, the most first."""
    grouped: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        line = run.line
        if run.state in ENDED_WELL or (run.state == "running" and line.stalled_s is None):
            continue
        what = line.next.replace(run.id, "RUN")
        grouped.setdefault((run.state, line.why or "; ".join(line.damaged), what), []).append(run)
    found = [Obstacle(*key, tuple(same)) for key, same in grouped.items()]
    return tuple(sorted(found, key=lambda one: -len(one.runs)))
