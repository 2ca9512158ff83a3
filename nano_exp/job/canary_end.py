"""What the end of a canary means for its launch."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from typing import Any


def failed(end: Mapping[str, Any]) -> str:
    """Why the arrays must not start, from how the canary's attempt ended; nothing where it is done."""
    if end.get("kind") == "done":
        return ""
    why = str(end.get("why") or "")
    return f"the canary {'failed' if end.get('kind') == 'failed' else 'was ' + str(end.get('kind'))}: {why}".rstrip(
        ": "
    )


def clear(config: Mapping[str, Any]) -> None:
    """Take away the checkpoints of a canary that is done: they are as large as a run's, and nobody resumes them."""
    with contextlib.suppress(KeyError, TypeError):
        shutil.rmtree(config["checkpointing"]["checkpoint_dir"], ignore_errors=True)
