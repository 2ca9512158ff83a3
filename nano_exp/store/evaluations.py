"""What was measured of a run's checkpoints after training: <run>/eval/<data>-step_N.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.files import Damaged

FOLDER = "eval"


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The evaluations: data, step, time and metrics; files that are damaged are left out."""
    found = []
    for name in sorted(files.names(run_dir / FOLDER)):
        if not name.endswith(".json"):
            continue
        try:
            record = files.read_json(run_dir / FOLDER / name)
        except (Damaged, OSError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("metrics"), dict):
            found.append(record)
    return found


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """As rows of metrics: `step`, and `eval/<data>/<name>` -> value."""
    return [
        {"step": one["step"], **{f"eval/{one.get('data')}/{name}": value for name, value in one["metrics"].items()}}
        for one in read(run_dir)
    ]
