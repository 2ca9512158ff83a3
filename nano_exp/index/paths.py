"""Where everything of one run lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.files import Damaged
from nano_exp.store import runs, state

#: Folders that the run's config names.
CONFIGURED = {"checkpoints": ("checkpointing", "checkpoint_dir"), "engine's logs": ("logger", "log_dir")}


def paths(run: runs.Run) -> dict[str, Path]:
    """What it is -> its path, whether it is there (yet) or not; of attempts and launches those that there are."""
    by_label: dict[str, Path] = {
        "folder": run.dir,
        "config": run.dir / "config.yaml",
        "record": run.dir / "run.json",
        "events": run.dir / "events",
        "metrics": run.dir / runs.METRICS,
    }
    config = _config(run)
    for what, (section, key) in CONFIGURED.items():
        values = config.get(section)
        configured = values.get(key) if isinstance(values, dict) else None
        if isinstance(configured, str):
            by_label[what] = Path(configured)
    for attempt in runs.attempts(run.dir):
        for path in (attempt.dir / name for name in [*files.names(attempt.dir), *_logs(attempt.dir / "nodes")]):
            if os.path.isfile(path) and not path.name.startswith("."):  # noqa: PTH113 (never raises)
                by_label[f"attempt {attempt.number} {path.relative_to(attempt.dir)}"] = path
    return {**by_label, **_launches(run)}


def _logs(nodes: Path) -> list[str]:
    return [f"{nodes.name}/{name}" for name in files.names(nodes) if name.endswith(".log")]


def _config(run: runs.Run) -> dict[str, Any]:
    try:
        return run.config()
    except (Damaged, OSError):
        return {}


def _launches(run: runs.Run) -> dict[str, Path]:
    """Of each launch that sent the run: its folder, batch script, Slurm's own output, and the code that runs."""
    by_label: dict[str, Path] = {}
    for event in run.events:
        sent = state.as_submission(event) if event.kind == "submit" else None
        folder = runs.launch_dir(run.results, sent.launch) if sent is not None else None
        if sent is None or folder is None or not os.path.isdir(folder):  # noqa: PTH112 (never raises)
            continue
        label = f"launch {sent.launch}"
        by_label[label] = folder
        by_label[f"{label} code"] = folder / "code"
        if sent.local is None:
            by_label[f"{label} script"] = folder / f"array-{sent.array}.sbatch"
            job = runs.jobs_of(run.results, sent.launch).get(sent.array)
            for name in files.names(folder / "slurm") if job else ():
                if name.startswith(f"{sent.job(str(job))}_0_log."):
                    by_label[f"{label} {name}"] = folder / "slurm" / name
    return by_label
