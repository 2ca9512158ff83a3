"""Curves made by hand, for what decides over runs."""

from __future__ import annotations

from typing import Any

from nano_exp.study.stop_rules import Curve


def curve(gpus: int = 1, **series: list[float | None]) -> Curve:
    """Rows of steps 1, 2, ...; `__` stands for the slash of a metric's name, None for a step without it."""
    count = max(map(len, series.values()))
    rows: list[dict[str, Any]] = [{"step": step} for step in range(1, count + 1)]
    for name, values in series.items():
        for row, value in zip(rows, values, strict=False):
            if value is not None:
                row[name.replace("__", "/")] = value
    return Curve(rows, gpus)
