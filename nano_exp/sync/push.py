"""One run to W&B's server: with wandb's own client, under the run's id, only what it does not have."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp.credentials import redact
from nano_exp.sync.offline import Extra
from nano_exp.sync.rows import Row


class Failed(Exception):
    """W&B refused, or could not be reached; in its words."""


class NoRewind(Failed):
    """The server cannot take rows back."""


@dataclass(frozen=True)
class Identity:
    """What wandb.init gets of a run.

    Parameters
    ----------
    options: entity, project, group, name, tags, notes, job_type
    host: where the run executed
    """

    options: Mapping[str, Any]
    config: Mapping[str, Any]
    host: str


@dataclass
class Parcel:
    """What is to be sent.

    Parameters
    ----------
    rows: steps ascending
    extras: step -> what goes with the row
    files: (folder, file) of other files
    summary: for the run's summary
    exit_code: 0: W&B shows the run as finished; else as failed
    """

    rows: Sequence[Row]
    extras: Mapping[int, Extra] = field(default_factory=dict)
    files: Sequence[tuple[Path, Path]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0


def installed() -> bool:
    """Whether wandb can be imported; it is not, since that takes a second."""
    return importlib.util.find_spec("wandb") is not None


@contextmanager
def opened(identity: Identity, run_id: str, keep: int | None = None) -> Iterator[Any]:
    """The W&B run of this id, made where it is not there. Its caller closes it with `finish`.

    Parameters
    ----------
    keep: rewind to this step: rows after it are taken back

    Raises
    ------
    Failed: the server is not reached or refuses
    NoRewind: with `keep`, on a server that has no rewind
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # before the import, or it tells how it logged in
    import wandb

    how = {"resume": "allow"} if keep is None else {"resume_from": f"{run_id}?_step={keep}"}
    with tempfile.TemporaryDirectory(prefix="nx-sync-") as folder:
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            x_disable_stats=True,
            x_disable_meta=True,  # it would tell of this host
            x_save_requirements=False,
            host=identity.host,
            program="launch.py",
        )
        chosen = {**identity.options, "id": run_id, **how, "mode": "online", "dir": folder, "settings": settings}
        try:
            run = wandb.init(**chosen)
        except Exception as error:  # wandb raises many types
            wandb.teardown()  # what began to start still holds the id
            raise (NoRewind if "rewind" in str(error) else Failed)(_short(error)) from error
        try:
            run.config.update(dict(identity.config), allow_val_change=True)
            yield run
        except BaseException:
            run.finish(exit_code=1)
            raise


def last_step(run: Any) -> int:
    """The last step that the server has; -1 before the first."""
    return int(run.starting_step) - 1


def send(run: Any, parcel: Parcel) -> str:
    """Send it, wait until it has arrived, and close the run. Returns the address of its page.

    Raises
    ------
    Failed: it did not arrive
    """
    try:
        for row in parcel.rows:
            extra = parcel.extras.get(row.step)
            beside = {k: v for k, v in extra.values.items() if k not in row.values} if extra else {}
            stamp = {"_timestamp": row.time} if row.time else {}
            run.log({**beside, **row.values, **stamp}, step=row.step, commit=True)
            for path in extra.media() if extra else ():
                assert extra is not None and extra.folder is not None
                run.save(path, base_path=extra.folder, policy="now")
        for folder, path in parcel.files:
            run.save(path, base_path=folder, policy="now")
        run.summary.update(dict(parcel.summary))
        url = str(run.url or "")
        run.finish(exit_code=parcel.exit_code)
    except Exception as error:
        raise Failed(_short(error)) from error
    return url


def _short(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return redact(text)[:300]
