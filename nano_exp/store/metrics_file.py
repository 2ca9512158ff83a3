"""metrics.jsonl of a run: one row a step, appended by its attempts and cut where one goes on from a checkpoint."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from nano_exp import files
from nano_exp.store.runs import METRICS, number


def read(run_dir: Path, tail_bytes: int | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a last line that is still being written, and damaged lines, are left out.

    With `tail_bytes` only the rows in the file's last bytes are read: enough for the newest step, at any length.
    """
    return [row for row in map(row_of, _lines(run_dir, tail_bytes)) if row is not None]


def read_counting(run_dir: Path) -> tuple[list[dict[str, Any]], int]:
    """All rows, and how many lines are none; a last one that is still being written is not counted."""
    every = list(map(row_of, _lines(run_dir)))
    return [row for row in every if row is not None], sum(row is None for row in every[:-1])


def _lines(run_dir: Path, tail_bytes: int | None = None) -> list[bytes]:
    try:
        with (run_dir / METRICS).open("rb") as file:
            if tail_bytes is not None:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail_bytes))
            return file.read().split(b"\n")
    except OSError:
        return []


def cut(run_dir: Path, last_step: int) -> int:
    """Drop the rows after the checkpoint that a run resumes from: those steps run again and are logged again. Damaged
    lines go too. The file is written aside and renamed.

    An attempt does so before it starts any engine; the embedded one again, as it may find its newest checkpoint damaged
    and resume from an earlier one.

    Returns how many lines were dropped.
    """
    path = run_dir / METRICS
    rows = [row for row in read(run_dir) if row["step"] <= last_step] if last_step else []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    dropped = len(lines) - (not lines[-1]) - len(rows)
    if dropped or lines[-1]:  # or a last line without its end
        files.write_text(path, "".join(line(row) for row in rows))
    return dropped


def open_to_append(run_dir: Path) -> TextIO:
    """metrics.jsonl to append to, on a line of its own: a writer that was killed may have left half a line."""
    path = run_dir / METRICS
    half = files.tail(path, 1) not in ("", "\n")
    file = path.open("a")
    if half:
        file.write("\n")
    return file


def line(row: Mapping[str, Any]) -> str:
    """A row as its line of metrics.jsonl, with full precision."""
    return json.dumps(finite(row), allow_nan=False) + "\n"


def finite(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as JSON can have it: NaN and infinite values are None, and `nonfinite` lists their names."""
    names = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return {**row, **dict.fromkeys(names), "nonfinite": names} if names else row


def row_of(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None for one that is damaged or was not written to its end."""
    try:
        row = json.loads(line.decode())  # bytes it would take for UTF-16 where they look so
    except ValueError:
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return dict(finite(row)) if b"NaN" in line or b"Infinity" in line else row  # others' files, and older ones


def nonfinite_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics of a row that were NaN or infinite."""
    names = row.get("nonfinite")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def nonfinite(rows: Iterable[Mapping[str, Any]]) -> str:
    """`train/loss was not finite in 3 steps, first in step 12`; nothing where every number was finite."""
    steps: dict[str, list[int]] = {}
    for row in rows:
        for name in nonfinite_names(row):
            steps.setdefault(name, []).append(row["step"])
    if not steps:
        return ""
    names = sorted(steps, key=lambda name: (name != "train/loss", steps[name][0]))
    times, first = len(steps[names[0]]), steps[names[0]][0]
    where = f"in step {first}" if times == 1 else f"in {times} steps, first in step {first}"
    others = f" (and {len(names) - 1} other metrics)" if len(names) > 1 else ""
    return f"{names[0]} was not finite {where}{others}"


def first_and_last(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float] | None:
    """First and last value of a metric; None when it was never logged."""
    values = [value for r in rows if (value := number(r.get(key))) is not None]
    return (values[0], values[-1]) if values else None
