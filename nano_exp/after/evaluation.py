"""Evaluations of a run's checkpoints: <run>/eval/<data>-step_N.json, with what the engine wrote beside it."""

from __future__ import annotations

import re
import time
from pathlib import Path

from nano_exp import files
from nano_exp.after import making
from nano_exp.after.making import Chosen
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.store import evaluations
from nano_exp.text import Say


def name_of(data: str) -> str:
    """A set's name in file names and metrics; of a file its stem. What is empty is the engine's own held-out data."""
    return re.sub(r"[^\w.-]+", "_", Path(data).stem if "/" in data or data.endswith(".jsonl") else data) or "validation"


def file_of(chosen: Chosen, data: str) -> Path:
    return chosen.run.dir / evaluations.FOLDER / f"{name_of(data)}-{chosen.path.name}.json"


def evaluate(chosen: Chosen, data: str, say: Say) -> Path:
    """Evaluate, where that was not done yet. Returns the file of results. Raises UserError."""
    target = file_of(chosen, data)
    details = target.with_suffix("")
    with making.alone(target.parent):
        if target.is_file():
            say(f"{target} is there already")
            return target
        with making.aside(details) as path:
            command = chosen.engine.evaluate(chosen.config, chosen.path, data, path)
            lines = making.execute(command, target.parent / f"{details.name}.log", say)
            try:
                scores = chosen.engine.scores(chosen.config, path, lines)
            except (OSError, Damaged, ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"no score: {error}", "the evaluation ended well all the same", f"its log: {details}.log", 1
                ) from error
            path.mkdir(exist_ok=True)
        samples = scores.pop("samples", None)
        record = {
            "data": name_of(data),
            "step": chosen.step,
            "samples": samples,
            "time": time.time(),
            "metrics": scores,
        }
        files.write_json(target, record, durable=True)
    say(f"{name_of(data)} at step {chosen.step}: " + ", ".join(f"{key} {value:.4g}" for key, value in scores.items()))
    return target
