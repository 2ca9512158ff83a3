"""An attempt tells the receivers of site.notify what became of its launch. Nothing that goes wrong here ends a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.notify import notices
from nano_exp.notify.message import Message
from nano_exp.notify.receivers import receivers
from nano_exp.store import runs
from nano_exp.text import Say


def end(launch_dir: Path, manifest: Mapping[str, Any], site: Mapping[str, Any], run_dir: Path, say: Say) -> None:
    """A run has ended: tell of its launch's end, or of the first failure of this cause."""

    def look() -> Message | None:
        this = notices.ended(run_dir, launch_dir.name)
        if not this.kind:
            return None
        whole = notices.finish(launch_dir, manifest)
        if whole is not None:
            return whole if notices.first(launch_dir, "end") else None
        if this.kind == "failed" and notices.first(launch_dir, f"failed {this.cause}"):
            return notices.failure(launch_dir, manifest, this)
        return None

    _tell(site, look, say)


def budget(launch_dir: Path, site: Mapping[str, Any], name: str, why: str, say: Say) -> None:
    """The budget of a name is spent."""
    _tell(site, lambda: notices.budget(launch_dir, name, why) if notices.first(launch_dir, "budget") else None, say)


def stall(run_dir: Path, site: Mapping[str, Any], why: str, say: Say) -> None:
    """A run stalls; of one launch the first report is told."""

    def look() -> Message | None:
        run = runs.load(run_dir)
        start = run.last("start")
        launch_dir = runs.launch_dir(run.results, str(start.data.get("launch") if start else ""))
        return notices.stalled(launch_dir, run, why) if notices.first(launch_dir, "stalled") else None

    _tell(site, look, say)


def _tell(site: Mapping[str, Any], look: Callable[[], Message | None], say: Say) -> None:
    try:
        every = receivers(site.get("notify"))
        message = look() if every else None
        if message is None:
            return
        from nano_exp.notify.send import send  # HTTP and mail, which an attempt's start does not wait for

        chosen = [receiver for receiver in every if message.about in receiver.about]
        for problem in send(message, chosen):
            say(f"not told: {problem}")
    except (UserError, Damaged, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        say(f"nobody was told: {type(error).__name__}: {error}")
