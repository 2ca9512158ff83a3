"""Send planned runs to Slurm: record the intent, then one sbatch per shape.

The order is what makes a crash at any instant harmless: run folders, then the launch's folder (manifest, scripts,
code), then each run's intent, then sbatch with the launch's id in the job name, then the job's number. Whatever is
missing after a crash, the next launch finds out by the events and by the job's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nano_exp import environment, files, slurm
from nano_exp.errors import UserError
from nano_exp.launch import dependency
from nano_exp.launch.job_arrays import Array, Launch
from nano_exp.store import halt, runs


@contextmanager
def lock(results: Path) -> Iterator[None]:
    """One launcher at a time in a results folder. The kernel frees it when the launcher dies, however it dies."""
    files.make_dir(results / runs.LAUNCHES)
    path = results / runs.LAUNCHES / "lock"
    try:
        file = path.open("a+")
    except OSError as error:
        raise files.unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"waiting for another launch in {results} ({file.read().strip() or 'unknown'}) ...", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # A file system without locks: the attempts' claims still keep a run from executing twice.
            warning = f"warning: {results} has no file locks ({error.strerror}); do not launch twice at once"
            print(warning, file=sys.stderr)
        file.truncate(0)
        file.write(f"{slurm.this_user()}@{socket.gethostname()} pid {os.getpid()}")
        file.flush()
        yield


def send(launch: Launch) -> None:
    """One sbatch per array, the canary's first.

    Raises
    ------
    Refused: Slurm's words; the runs of that array and of those after it are not left behind as if submitted
    Unclear: the answer was lost; the intents stay, for the next launch to find out
    """
    for array in launch.sending_order:
        number = 0 if array is launch.canary else array.number
        if why := halt.reason(launch.dir):  # its first runs failed, or the canary, while the rest was being sent
            _take_back(launch, number, why)
            raise slurm.Refused(
                why, "the rest of the launch is not started", "fix that, then type the same command", code=3
            )
        try:
            path, waits_for = launch.dir / f"array-{array.word}.sbatch", _waits_for(launch, array)
            array.job = slurm.sbatch(path, *waits_for, carry=environment.carried(os.environ))
        except slurm.Unclear:
            _take_back(launch, number if array is launch.canary else number + 1)
            raise
        except KeyboardInterrupt:  # whether this one was taken is not known: the next launch asks for its name
            _never_sent(launch, number if array is launch.canary else number + 1)
            raise
        except UserError as error:
            _take_back(launch, number, error.found, None if array is launch.canary else array)
            raise
        runs.record_job(launch.results, launch.id, array.word, array.job)


def _never_sent(launch: Launch, first: int) -> None:
    """Say of the runs of the arrays from `first` on that Slurm was never asked for them."""
    for row in [row for array in launch.arrays[first:] for row in array.rows]:
        runs.record_event(row.dir, "refused", durable=False, launch=launch.id, why="Ctrl-C came first", asked=False)


def _waits_for(launch: Launch, array: Array) -> list[str]:
    """The option that replaces the script's own --dependency by one that has the jobs of this launch in it too."""
    terms = [] if launch.canary is None or array is launch.canary else [f"afterok:{launch.canary.job}"]
    if array.behind is not None:
        terms.append(f"afterany:{launch.arrays[array.behind].job}")
    if not terms:
        return []
    text = slurm.script_options((launch.dir / f"array-{array.word}.sbatch").read_text())
    static = [o.removeprefix("--dependency=") for o in text if o.startswith("--dependency=")]
    return dependency.option(*static, *terms)


def _take_back(
    launch: Launch, first: int, why: str = "an earlier array of the launch failed", refused: Array | None = None
) -> None:
    """New runs of the arrays from `first` on vanish; runs that were there before get their intent revoked.

    Parameters
    ----------
    refused: the array that Slurm was asked for; of the others it never was
    """
    others = why if refused is None else f"an earlier array of the launch was refused: {why}"
    for array in launch.arrays[first:]:
        reason: dict[str, Any] = {"why": why} if array is refused else {"why": others, "asked": False}
        for row in array.rows:
            runs.record_event(row.dir, "refused", durable=False, launch=launch.id, **reason)
            if row.is_new:
                runs.discard(row.dir)
    for array in launch.arrays[first:]:
        with contextlib.suppress(UserError, OSError):  # nothing is waited for any more: its share is free
            runs.record_job(launch.results, launch.id, array.word, "")
    if first == 0 and not halt.reason(launch.dir):  # else the canary has been executed, and its log says why it failed
        if launch.canary is not None and launch.canary.job:
            with contextlib.suppress(UserError):
                slurm.scancel([launch.canary.job])
        shutil.rmtree(launch.dir, ignore_errors=True)
