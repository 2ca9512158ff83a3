"""A run's output: what its engine printed, as it is or followed while it grows."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nano_exp import files, text
from nano_exp.errors import UserError, choice, nearest
from nano_exp.index import selection
from nano_exp.store import runs

STREAMS = {"out": "stdout.log", "err": "stderr.log", "attempt": "attempt.log"}
#: How many lines of stderr a failed attempt's log ends with.
LAST_LINES = 20


def attempt_of(run: runs.Run, number: int | None) -> runs.Attempt | None:
    """The newest attempt, or one by number. Raises UserError where that number is not there."""
    attempts = runs.attempts(run.dir)
    if number is None:
        return attempts[-1] if attempts else None
    attempt = next((a for a in attempts if a.number == number), None)
    if attempt is None:
        numbers = ", ".join(str(a.number) for a in attempts) or "none yet"
        raise UserError(
            f"{run.id} has no attempt {number}", f"its attempts: {numbers}", f"nano-exp logs {selection.word(run)}"
        )
    return attempt


def attempt_of_job(run: runs.Run, word: str) -> int | None:
    """The number of the run's newest attempt in this Slurm job; None where the word is none of its jobs."""
    return next((a.number for a in reversed(runs.attempts(run.dir)) if a.owner and a.owner.job == word), None)


def node_log(run: runs.Run, number: int | None, host: str) -> str:
    """The log of one node, relative to an attempt's folder. Raises UserError where there is none of that name."""
    attempt = attempt_of(run, number)
    have = _nodes(attempt.dir / "nodes") if attempt is not None else []
    if host in have:
        return f"nodes/{host}.log"
    if not have:
        raise UserError(
            f"--node {host}, and {run.id} has no logs of nodes",
            "only a run on several nodes has them, once they have started",
            f"nano-exp logs {selection.word(run)}, or nano-exp logs {selection.word(run)} --stream err",
        )
    near = nearest(host, have)
    raise UserError(f"--node {host}", f"the nodes of this attempt: {', '.join(have)}", choice("--node ", near, have))


def _nodes(folder: Path) -> list[str]:
    return [name.removesuffix(".log") for name in files.names(folder) if name.endswith(".log")]


def show_log(run: runs.Run, number: int | None, log: str, out: TextIO) -> int:
    """Print one attempt's output. Returns the exit code: 0, or 1 where there is nothing yet.

    Parameters
    ----------
    log: the file, relative to the attempt's folder
    """
    attempt = attempt_of(run, number)
    if attempt is None:
        print(nothing_yet(run), file=sys.stderr)
        return 1
    _copy(attempt.dir / log, out)
    _tell_end(attempt, log)
    return 0


def nothing_yet(run: runs.Run) -> str:
    """Where to look while no attempt has started."""
    sent = run.last("submit")
    if sent is None:
        return f"{run.id} was never submitted"
    folder = runs.launch_dir(run.results, str(sent.data.get("launch")))
    return f"{run.id} has not started yet; Slurm's own output will be in {text.relative(folder / 'slurm')}"


def _copy(path: Path, out: TextIO) -> None:
    try:
        with path.open(errors="replace") as file:
            for line in file:
                out.write(line)
    except FileNotFoundError:
        print(f"(no {path.name} yet)", file=sys.stderr)
    except OSError as error:
        print(f"({path.name} cannot be read: {error.strerror})", file=sys.stderr)


def _tell_end(attempt: runs.Attempt, log: str) -> None:
    end = attempt.end
    if end is None:
        return
    print(f"--- attempt {attempt.number}: {end.get('kind')} {end.get('why', '')}".rstrip(), file=sys.stderr)
    if end.get("kind") == "failed" and log == STREAMS["out"]:
        path = attempt.dir / STREAMS["err"]
        if files.tail(path, 1):
            print(f"--- last lines of {text.relative(path)}:", file=sys.stderr)
            print("\n".join(files.tail(path).splitlines()[-LAST_LINES:]), file=sys.stderr)


class Shown:
    """How much of a growing log has been printed."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in two parts

    def more(self, out: TextIO) -> bool:
        """Print what is new. Returns whether there was anything."""
        if self.path is None:
            return False
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:  # not there yet, or not readable (any more)
            return False
        self._offset += len(data)
        out.write(self._decoder.decode(data))
        out.flush()
        return bool(data)


def follow(run: runs.Run, log: str, out: TextIO, ended: Callable[[], bool], poll_s: float = 0.5) -> int:
    """Print the newest attempt's output as it grows, go on with the next attempt, end when the run ends.

    Parameters
    ----------
    log: the file, relative to an attempt's folder
    ended: whether the run is neither waiting nor running any more; asked for only when nothing new came for a while
    """
    shown = Shown()
    quiet_since = time.monotonic()
    if not runs.attempts(run.dir):
        print(nothing_yet(run) + " ...", file=sys.stderr)
    while True:
        attempt = attempt_of(run, None)
        if attempt is not None:
            path = attempt.dir / log
            if path != shown.path:
                if shown.path is not None:
                    shown.more(out)  # its last words, which came with the next attempt
                    print(f"--- attempt {attempt.number}", file=sys.stderr)
                shown = Shown(path)
            if shown.more(out):
                quiet_since = time.monotonic()
            elif attempt.end is not None and ended():
                _tell_end(attempt, log)
                return 0
        if time.monotonic() - quiet_since > 30:
            if ended():
                return 0 if attempt is not None else 1
            quiet_since = time.monotonic()
        time.sleep(poll_s)
