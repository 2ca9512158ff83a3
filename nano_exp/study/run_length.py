"""At which step a run ends: at its last one, or where its epochs over the data do."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp.dotted import Config
from nano_exp.study import pausing

ASYNC, PROMPTS = "grpo.async_grpo.enabled", "grpo.num_prompts_per_step"
#: Examples of the workplace assistant's training data (NeMo Gym), 17 steps of 64 an epoch.
WORKPLACE_ROWS = 1129


def last_step(config: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """Where a run ends, and the keys that say so: its steps, or its epochs over the data that could be counted.

    None where nothing ends it, or the key holds no number.
    """
    read = Config(config)
    steps, epochs, prompts = map(read.whole, (pausing.MAX_STEPS, pausing.MAX_EPOCHS, PROMPTS))
    if epochs and prompts and prompts > 0 and not read.on(ASYNC) and (rows := _rows(read)):
        batches = epochs * (rows // prompts)
        if steps is None or batches < steps:
            return batches, (pausing.MAX_EPOCHS, PROMPTS)
    return steps, (pausing.MAX_STEPS,)


def of(config: Mapping[str, Any]) -> int:
    """The same of a frozen config, whose max_num_steps is a number."""
    most, _ = last_step(config)
    return int(config["grpo"]["max_num_steps"]) if most is None else most


def _rows(read: Config) -> int | None:
    """Examples of the training data: a file's lines where it is here, else what is published of a data set."""
    path = read.text("data.train.data_path") or read.text("data.train_jsonl_fpath")
    if not path:
        return None
    with contextlib.suppress(OSError):
        return _lines(Path(read.text("site.checkout", ".")) / path)
    return WORKPLACE_ROWS if "workplace_assistant" in path else None


@cache
def _lines(file: Path) -> int:
    """Of a file that all points of a sweep have in common, read once."""
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
