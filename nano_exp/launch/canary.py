"""`canary=true`: two steps of one run of a launch, in a folder of their own, before any of its arrays may start.

It is a run like another, below the launch's folder (`.launches/<id>/canary/<name>/<run id>-canary`), where neither
status nor a later launch looks. Nothing of the run itself is touched: not its folder, its checkpoints or its W&B run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nano_exp.compose.freeze import place
from nano_exp.dotted import Keys, with_values
from nano_exp.launch.convergence import Row, configs_of
from nano_exp.preflight import shared_caches
from nano_exp.store import runs, state
from nano_exp.store.state import State

STEPS = 2


def of(row: Row, launch_dir: Path) -> Row:
    """The canary of a run: the same config with two steps, its own folders and no W&B."""
    frozen = row.frozen
    config = row.config
    changes: dict[Keys, Any] = {
        ("grpo", "max_num_steps"): min(STEPS, int(config["grpo"]["max_num_steps"])),
        ("run", "results"): str(launch_dir / runs.CANARY),
        ("checkpointing", "checkpoint_dir"): None,  # below the run's folder, wherever the run's own are
        ("logger", "log_dir"): None,
        ("logger", "wandb_enabled"): False,
    }
    there = {path: value for path, value in changes.items() if isinstance(config.get(path[0]), dict)}
    canary_frozen = replace(frozen, config=with_values(config, there))
    run_id = f"{row.id}-{runs.CANARY}"
    return Row(
        canary_frozen,
        run_id,
        launch_dir / runs.CANARY / frozen.name / run_id,
        place(canary_frozen, run_id),
        State("new"),
        True,
        True,
    )


def choose(rows: Sequence[Row]) -> Row:
    """The run that the canary tries: the first that has something to make for all of them, or the first."""
    missing = shared_caches.cold(configs_of(rows), os.environ)
    return next((row for row, words in zip(rows, missing, strict=True) if words), rows[0])


def succeeded(manifest: Mapping[str, Any]) -> bool:
    """Whether a launch had a canary, and it came through."""
    try:
        folder = Path(manifest[runs.CANARY]["runs"][0])
    except (KeyError, IndexError, TypeError):
        return False
    return state.is_done(runs.attempts(folder))
