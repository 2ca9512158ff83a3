"""Answers of the last validation, as NeMo RL logs them: val_data_step<N>.jsonl in the run's logger folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nano_exp.credentials import redact
from nano_exp.results import Run

#: Letters of an answer that are shown; the file has the rest.
MOST = 4000


def samples(runs: Sequence[Run], log_dirs: Sequence[Path | None], each: int = 2) -> list[dict[str, Any]]:
    """A few answers of the newest validation of each run that logged any.

    Parameters
    ----------
    log_dirs: each run's logger folder; None where its config does not say
    """
    found = []
    for run, log_dir in zip(runs, log_dirs, strict=True):
        newest = max(_files(log_dir), key=_step, default=None) if log_dir else None
        if newest is not None:
            for answer, reward in islice(_answers(newest), each):
                found.append({"run": run.id, "step": _step(newest), "reward": reward, "text": answer})
    return found


def _files(log_dir: Path) -> Iterator[Path]:
    """NeMo RL counts its experiments in folders of their own (exp_001) below the logger's."""
    return (path for path in log_dir.glob("**/val_data_step*.jsonl") if _step(path) >= 0)


def _step(path: Path) -> int:
    match = re.fullmatch(r"val_data_step(\d+)\.jsonl", path.name)
    return int(match[1]) if match else -1


def _answers(path: Path) -> Iterator[tuple[str, float | None]]:
    """Text and reward of each sample; lines that cannot be read are left out."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    sample = json.loads(line)
                except ValueError:
                    continue
                if isinstance(sample, Mapping):
                    yield redact(_text(sample.get("content")))[:MOST], _number(sample.get("rewards"))
    except OSError:
        return


def _text(content: Any) -> str:
    """A message log as text: who said what. What is not of that form is shown as it is."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], list):
        content = content[0]
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "\n\n".join(f"{part.get('role', '?')}: {part.get('content', '')}" for part in content)
    return content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False)


def _number(value: Any) -> float | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None
