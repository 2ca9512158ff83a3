"""The embedded engine: GRPO in torch over transformers' Nemotron-H, on a CPU or one GPU, with NeMo RL's keys.

This module is what the launcher and the attempt import: no torch, no transformers, no wandb. The engine itself runs as
`python -m nano_exp.engines.embedded`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from nano_exp import files
from nano_exp.engines import Command, Context, Mistake, Refused
from nano_exp.engines.embedded import checkpoint, refusals, schedule
from nano_exp.engines.embedded.starting import fits as fits
from nano_exp.engines.embedded.starting import initial as initial
from nano_exp.engines.embedded.starting import readable as readable
from nano_exp.errors import UserError
from nano_exp.text import dd_hh_mm_ss

#: Requests that it makes itself, by the name of their part.
SPLITS = ("validation", "train")
SAVE_MARGIN_S = 60.0
"""Seconds kept free before the allocation's end, for imports, the warm start and a last save."""


def check(config: dict[str, Any]) -> None:
    """Refuse a config that this engine cannot run as it is written.

    Raises
    ------
    Refused: every key or value that is unknown, unsupported or impossible; an interpreter that is not there
    """
    mistakes = refusals.mistakes(config)
    site = config.get("site") or {}
    python = site.get("python")
    if python and not site.get("setup") and shutil.which(str(python)) is None:  # set-up lines may bring its mount
        mistakes.append(
            Mistake(
                {"site.python": python},
                "there is no such program on this host",
                "leave site.python out to run with the launcher's own interpreter, or name one that has torch",
            )
        )
    if mistakes:
        raise Refused(mistakes)


def overlay(config: dict[str, Any], ctx: Context) -> dict[str, object]:
    """checkpoint_must_save_by from the allocation's end; the config's own, where it has one, if that is sooner."""
    if ctx.deadline is None:
        return {}
    left = max(0.0, ctx.deadline - time.time())
    left = max(left - SAVE_MARGIN_S, left / 2)  # the half: in a short allocation the margin would leave nothing
    save_by = config["checkpointing"].get("checkpoint_must_save_by")
    if save_by is not None:
        left = min(left, schedule.seconds(save_by))
    return {"checkpointing.checkpoint_must_save_by": dd_hh_mm_ss(left)}


def command(config: dict[str, Any], ctx: Context) -> Command:
    """This package's own module, from the same code as the caller's, with site.python or the running interpreter."""
    words = ("--config", str(ctx.config_path), "--metrics", str(ctx.run_dir / "metrics.jsonl"))
    return _module(config, ctx.run_dir, "nano_exp.engines.embedded", *words)


def _module(config: dict[str, Any], cwd: Path, module: str, *words: str) -> Command:
    site = config.get("site") or {}
    source = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(part for part in (str(source), os.environ.get("PYTHONPATH", "")) if part)
    env = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str((config.get("engine") or {}).get("threads", 1)),
        **{name: str(value) for name, value in (site.get("env") or {}).items() if value is not None},
        "PYTHONPATH": path,
    }
    for name in [name for name, value in (site.get("env") or {}).items() if value is None]:
        env.pop(name, None)  # null takes a variable away, as for the engine nemo_rl
    return Command([str(site.get("python") or sys.executable), "-m", module, *words], env, cwd)


def export(config: dict[str, Any], checkpoint_path: Path, target: Path) -> Command:
    """Its own module (hugging_face.py), which also checks that transformers loads what it wrote."""
    words = ("export", "--checkpoint", str(checkpoint_path), "--out", str(target))
    return _module(config, target.parent, "nano_exp.engines.embedded.hugging_face", *words)


def evaluate(config: dict[str, Any], checkpoint_path: Path, data: str, target: Path) -> Command:
    """Its own module; `data` is validation, train, or a JSONL file."""
    if data and data not in SPLITS and not Path(data).is_file():
        raise UserError(
            f"--data {data}",
            f"it is none of {', '.join(SPLITS)}, and there is no such file of requests",
            "--data validation, or a JSONL file of requests (docs/after-training.md)",
        )
    words = ("eval", "--checkpoint", str(checkpoint_path), "--data", data or "validation", "--out", str(target))
    return _module(config, target.parent, "nano_exp.engines.embedded.hugging_face", *words)


def scores(config: dict[str, Any], target: Path, printed: Iterable[str]) -> dict[str, float]:
    """What the evaluation wrote."""
    return dict(files.read_json(target / "scores.json"))


def follow(config: dict[str, Any], ctx: Context, lines: Iterable[str | None]) -> Iterator[dict[str, Any]]:
    """Nothing: this engine writes metrics.jsonl itself."""
    yield from ()


def torn(config: dict[str, Any], ctx: Context) -> list[Path]:
    """None: the engine removes them itself when it starts."""
    return []


def trains(line: str) -> bool:
    """Never said: it makes nothing that runs share."""
    return False


def checkpoint_folder(config: dict[str, Any], ctx: Context) -> Path:
    """checkpointing.checkpoint_dir."""
    folder = Path(config["checkpointing"]["checkpoint_dir"])
    return folder if folder.is_absolute() else ctx.run_dir / folder


def phases(config: dict[str, Any], ctx: Context) -> None:
    """None: its set-up takes seconds."""


def last_step(config: dict[str, Any], ctx: Context) -> int:
    """The step of the newest checkpoint, or 0. A checkpoint being written (tmp_step_N) does not count."""
    return max(checkpoint.steps(checkpoint_folder(config, ctx)), default=0)


def end_of(
    config: dict[str, Any],
    exit_code: int,
    last_step: int,
    finished_steps: int = 0,
    printed: Iterable[str] = (),
    asked_to_stop: bool = False,
) -> Literal["done", "stopped", "failed"]:
    """Exit code 0 with all steps is done; with steps left it saved at its deadline or on a signal, and is stopped."""
    finished = max(last_step, finished_steps) if exit_code == 0 else last_step
    if finished >= int(config["grpo"]["max_num_steps"]):
        return "done"
    return "stopped" if exit_code == 0 or asked_to_stop else "failed"
