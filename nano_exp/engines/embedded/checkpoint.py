"""Checkpoints: checkpoint_dir/step_N, written aside as tmp_step_N, made durable, then renamed.

The layout, the names and the rules of what is kept are NeMo RL's (nemo_rl/utils/checkpoint.py, v0.7.0). Each holds
training_info.json, config.yaml, policy/*.pt, rng.pt and manifest.json with the size and SHA-256 of every other file, so
a damaged checkpoint is recognized before anything of it is used. This module imports no torch; callers hand in writers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError

MANIFEST, INFO = "manifest.json", "training_info.json"
_STEP = re.compile(r"step_(\d+)")
_LEFTOVER = re.compile(r"(tmp|old)_step_\d+")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    step: int
    path: Path
    info: dict[str, Any]


def steps(folder: Path) -> list[int]:
    """The N of every step_N in `folder` that has its information, ascending. Looks at no large file."""
    if not folder.is_dir():
        return []
    numbers = []
    for entry in folder.iterdir():
        match = _STEP.fullmatch(entry.name)
        if match and (entry / INFO).is_file() and (entry / MANIFEST).is_file():
            numbers.append(int(match[1]))
    return sorted(numbers)


def damage(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, or None when every file is what its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        json.loads((path / INFO).read_text())
        files: dict[str, dict[str, Any]] = manifest["files"]
        for name, facts in files.items():
            file = path / name
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {facts['bytes']}"
            if _digest(file) != facts["sha256"]:
                return f"{name} is not the file that was written (SHA-256 differs)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The whole checkpoint with the highest step, or None where there is none at all.

    A damaged one is named through `say` and renamed to damaged_step_N, and the next lower one is taken. Leftovers of a
    save or removal that was cut off are deleted.

    Raises
    ------
    UserError: there are checkpoints and all are damaged
    """
    if not folder.is_dir():
        return None
    for entry in folder.iterdir():
        if _LEFTOVER.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
    named = sorted(
        (int(match[1]), entry) for entry in folder.iterdir() if (match := _STEP.fullmatch(entry.name)) is not None
    )
    problems: list[tuple[Path, str]] = []
    for step, path in reversed(named):
        problem = damage(path)
        if problem is None:
            for broken, text in problems:
                aside = broken.with_name(f"damaged_{broken.name}")
                shutil.rmtree(aside, ignore_errors=True)
                broken.rename(aside)
                say(f"warning: checkpoint {broken.name} is damaged ({text}); it is now {aside.name}")
            return Checkpoint(step, path, json.loads((path / INFO).read_text()))
        problems.append((path, problem))
    if problems:
        raise UserError(
            f"every checkpoint in {folder} is damaged: " + "; ".join(f"{path.name}: {text}" for path, text in problems),
            "going on from one of them would give wrong weights, and starting over silently would lose the run's work",
            f"restore one from a copy, or move {folder} away to start again from step 0",
        )
    return None


class Store:
    """Saves checkpoints and removes those outside the best `keep_top_k`.

    Parameters
    ----------
    folder: checkpointing.checkpoint_dir
    keep_top_k: how many to keep; None keeps all. The newest is always kept, so there may be one more.
    metric_name: key of training_info.json to rank by; None ranks by step
    """

    def __init__(self, folder: Path, keep_top_k: int | None, metric_name: str | None, higher_is_better: bool) -> None:
        self._folder, self._keep = folder, keep_top_k
        self._metric, self._sign = metric_name, 1.0 if higher_is_better else -1.0

    def write(self, step: int, info: Mapping[str, Any], writers: Mapping[str, Callable[[Path], None]]) -> Path:
        """Write tmp_step_N completely and make it durable; `publish` makes it count.

        Parameters
        ----------
        writers: file name inside the checkpoint -> what writes it
        """
        path = self._folder / f"tmp_step_{step}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        facts = {}
        for name, write in writers.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file)
            facts[name] = {"bytes": file.stat().st_size, "sha256": _digest(file)}
            _sync(file)
        for name, content in ((INFO, dict(info)), (MANIFEST, {"files": facts})):
            (path / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            _sync(path / name)
        for folder in {path, *((path / name).parent for name in writers)}:
            _sync(folder)
        return path

    def publish(self, path: Path) -> Path:
        """Rename tmp_step_N to step_N; an older step_N is replaced. Then remove what is not worth keeping."""
        final = path.with_name(path.name.removeprefix("tmp_"))
        if final.exists():
            old = final.with_name(f"old_{final.name}")
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            path.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            path.rename(final)
        _sync(self._folder)
        self._prune()
        return final

    def _prune(self) -> None:
        if self._keep is None:
            return
        folders = [(step, self._folder / f"step_{step}") for step in steps(self._folder)]
        ranked = sorted(folders, key=lambda item: (self._score(item[1]), item[0]), reverse=True)
        newest_step = max((step for step, _ in folders), default=None)
        for step, path in ranked[self._keep :]:
            if step != newest_step:
                gone = path.with_name(f"old_{path.name}")
                path.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def _score(self, path: Path) -> float:
        if self._metric is None:
            return 0.0
        try:
            value = json.loads((path / INFO).read_text()).get(self._metric)
        except (OSError, ValueError):
            value = None
        return float("-inf") if value is None else self._sign * float(value)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
