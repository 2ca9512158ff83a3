"""The rows of metrics.jsonl as W&B gets them: one a step, and what of them may be sent yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nano_exp.store import metrics_file, runs

#: Of a row of metrics.jsonl; everything else in it is a metric.
_NOT_METRICS = ("step", "time", "nonfinite")


@dataclass(frozen=True)
class Row:
    """One step.

    Parameters
    ----------
    values: metric -> number; NaN where it was not finite
    time: unix seconds at which it was logged; 0 where the file does not say
    """

    step: int
    values: Mapping[str, Any]
    time: float

    @property
    def mark(self) -> str:
        """The same for equal values only."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:12]


def merged(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a step, steps ascending: a validation may stand on a line of its own."""
    by_step: dict[int, tuple[dict[str, Any], float]] = {}
    for row in rows:
        values, _ = by_step.get(row["step"], ({}, 0.0))
        values.update({key: value for key, value in row.items() if key not in _NOT_METRICS})
        values.update(dict.fromkeys(metrics_file.nonfinite_names(row), float("nan")))
        by_step[row["step"]] = (values, runs.number(row.get("time")) or 0.0)
    return [Row(step, values, time) for step, (values, time) in sorted(by_step.items())]


def first_difference(sent: Mapping[int, str], rows: Iterable[Row], last: int) -> int | None:
    """The first step up to `last` at which W&B has something else than the rows; None where it has the same.

    Parameters
    ----------
    sent: step -> the mark of what was sent of it
    last: the last step that W&B has
    """
    marks = {row.step: row.mark for row in rows}
    steps = (step for step in {*sent, *marks} if step <= last and sent.get(step) != marks.get(step))
    return min(steps, default=None)
