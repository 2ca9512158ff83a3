"""sync.json in a run's folder: what was sent of it to W&B.

It is written before rows are sent, with all that may arrive, and again when they have. So after a kill in between, the
marks tell what the server's rows are, and the server tells how many it has.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nano_exp import files
from nano_exp.files import Damaged

FILE = "sync.json"
LOCK = ".sync.lock"


@dataclass
class Ledger:
    """What was sent.

    Parameters
    ----------
    id: the W&B run; empty before the first time
    url: its page
    marks: step -> rows.Row.mark of what was sent, or was about to be
    sent: the last step that is known to have arrived; None: nothing is known
    closed: whether W&B was told how the run ended, and how: the state then
    time: unix seconds of the newest writing
    """

    id: str = ""
    url: str = ""
    marks: dict[int, str] = field(default_factory=dict)
    sent: int | None = None
    closed: str = ""
    time: float = 0.0


def read(run_dir: Path) -> Ledger:
    """An empty one where there is none, or where it is damaged: then W&B is asked, and everything compared anew."""
    try:
        data = files.read_json(run_dir / FILE)
        marks = {int(step): str(mark) for step, mark in data["marks"].items()}
        sent = data["sent"]
        return Ledger(
            str(data["id"]),
            str(data["url"]),
            marks,
            int(sent) if sent is not None else None,
            str(data["closed"]),
            float(data["time"]),
        )
    except (Damaged, OSError, KeyError, TypeError, ValueError, AttributeError):
        return Ledger()


def write(run_dir: Path, ledger: Ledger) -> None:
    """Aside and renamed, and on the disk before this returns."""
    files.write_json(run_dir / FILE, vars(ledger), durable=True)


@contextmanager
def lock(run_dir: Path) -> Iterator[bool]:
    """Whether this process alone sends the run. The kernel frees it when the process dies."""
    with (run_dir / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            yield True
            return
        yield True
