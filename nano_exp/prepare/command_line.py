"""Running somebody else's command: its lines on the screen as they come and in a log, and its end in words."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.prepare.step import locks
from nano_exp.terminal.progress_line import Live
from nano_exp.text import Say, duration, plain

#: So many of the last lines go into an error.
LAST_LINES = 3


def run(argv: Sequence[str], say: Say, folder: Path, settings: Mapping[str, str], by_hand: str) -> str:
    """Everything that a command printed.

    Parameters
    ----------
    folder: where it is started; its log lies below it
    settings: variables that it gets besides this process's; VIRTUAL_ENV is nano-exp's own, of which uv would warn
    by_hand: the command as one types it, for the error

    Raises
    ------
    UserError: it cannot be started, or ends with another code than 0
    """
    log = locks(folder) / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(argv[0]).name}-{os.getpid()}.log"
    files.make_dir(log.parent)
    say(f"{shlex.join(argv)}  (log: {log})")
    began, live, lines = time.monotonic(), Live(sys.stderr), []
    try:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | dict(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise UserError(
            f"{argv[0]} cannot be started: {error.strerror}", "it does this step", f"by hand: {by_hand}", 1
        ) from error
    assert process.stdout is not None
    with process, log.open("w", encoding="utf-8") as file:
        try:
            for raw in process.stdout:
                file.write(raw)
                if line := plain(raw).strip():
                    lines.append(line)
                    live.show(f"  {duration(time.monotonic() - began)}  {line}")
        except BaseException:  # Ctrl-C reaches it too: it is the terminal's
            process.terminate()
            raise
        finally:
            live.clear()
    if process.returncode:
        raise UserError(
            f"{shlex.join(argv)} ended with {process.returncode}: {' | '.join(lines[-LAST_LINES:]) or 'no word'}",
            f"all that it said is in {log}",
            f"what it says there, then the same command again; by hand: {by_hand}",
            1,
        )
    return "\n".join(lines)
