"""What export and evaluation have in common: the checkpoint that is meant, the engine's command, one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import engines, files
from nano_exp.credentials import redact
from nano_exp.engines import Command, Context, checkpoints
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.store import runs
from nano_exp.text import Say


@dataclass(frozen=True)
class Chosen:
    """A checkpoint of a run.

    Parameters
    ----------
    config: the run's frozen config
    path: its step_N
    """

    run: runs.Run
    config: dict[str, Any]
    step: int
    path: Path

    @property
    def engine(self) -> engines.Engine:
        return engines.get(str(self.config["engine"]["name"]))


def choose(run: runs.Run, word: str, typed: str = "--step ") -> Chosen:
    """The checkpoint of a step, `best` or `last`; of nothing, the best where one has a value, else the last.

    Parameters
    ----------
    typed: what stands before the word where it is typed

    Raises
    ------
    UserError: there is no such checkpoint
    """
    try:
        config = run.config()
    except (Damaged, OSError) as error:
        raise UserError(f"{run.dir}: {error}", "its config says how its checkpoints are read", "another run") from error
    engine = engines.get(str(config["engine"]["name"]))
    folder = engine.checkpoint_folder(config, Context(run.dir, run.dir, 0, run.dir / "config.yaml"))
    checkpointing = config.get("checkpointing") or {}
    word = word or (checkpoints.BEST if checkpoints.ranked(folder, checkpointing) else checkpoints.LAST)
    step = checkpoints.choose(folder, word, checkpointing, typed)
    return Chosen(run, config, step, folder / f"step_{step}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One at a time makes what lies in a folder: who comes later waits, and finds it made."""
    files.make_dir(folder)
    with (folder / ".lock").open("a") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: the renaming at the end still decides
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A name beside `target`, which becomes it at the end, and is removed where that does not come."""
    path = target.with_name(f".making-{target.name}-{os.getpid()}")
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
        shutil.rmtree(target, ignore_errors=True)  # half of one, of a file system without locks
        path.rename(target)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def execute(command: Command, log: Path, say: Say) -> list[str]:
    """Run an engine's command to its end; what it printed, its errors too. Raises UserError where it fails."""
    files.make_dir(log.parent)
    say(redact(shlex.join(command.argv)))
    lines: list[str] = []
    try:
        with log.open("w") as file:
            process = subprocess.Popen(
                command.argv,
                env=command.env,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            assert process.stdout is not None
            with process:
                try:
                    for line in process.stdout:
                        file.write(redact(line))
                        lines.append(line.rstrip())
                except BaseException:  # Ctrl-C too: what was started does not outlive this
                    process.terminate()
                    raise
    except OSError as error:
        raise UserError(f"{command.argv[0]}: {error.strerror}", "it does this step", "a place that has it") from error
    finally:
        for folder in command.scratch:
            shutil.rmtree(folder, ignore_errors=True)
    if process.returncode:
        said = " | ".join(redact(line.strip()) for line in lines if line.strip())[-400:]
        raise UserError(
            f"{Path(command.argv[0]).name} ended with {process.returncode}: {said or 'it printed nothing'}",
            f"all that it said is in {log}",
            "mend that, then the same command again",
            code=1,
        )
    return lines
