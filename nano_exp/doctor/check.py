"""What a check is, and running all of them side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from nano_exp.errors import UserError

#: A check's function: it gets a `doctor.place.Place`.
Look: TypeAlias = Callable[[Any], Iterable["Said"]]
Level = Literal["ok", "skipped", "warning", "error"]
#: What the process ends with where the worst that was said is of that level.
EXIT_CODES: dict[Level, int] = {"ok": 0, "skipped": 0, "warning": 1, "error": 2}


@dataclass(frozen=True)
class Said:
    """One thing that a check says.

    Parameters
    ----------
    found: what was found, with its value
    why: what will not work; of warnings and errors
    fix: what to type
    """

    level: Level
    found: str
    why: str = ""
    fix: str = ""


def fine(found: str) -> Said:
    return Said("ok", found)


def skipped(found: str) -> Said:
    return Said("skipped", found)


def warning(found: str, why: str, fix: str) -> Said:
    return Said("warning", found, why, fix)


def error(found: str, why: str, fix: str) -> Said:
    return Said("error", found, why, fix)


def refusal(of: UserError, level: Level = "error") -> Said:
    """A mistake that another part of the project put into words."""
    return Said(level, of.found, of.why, of.fix)


@dataclass(frozen=True)
class Check:
    """One check.

    Parameters
    ----------
    summary: what is looked at, in a line
    limit_s: how long it may take; a file system that hangs must not keep the others from being shown
    """

    name: str
    summary: str
    limit_s: float
    look: Look


@dataclass(frozen=True)
class Checked:
    """What a check said, and the seconds that it took."""

    name: str
    said: tuple[Said, ...]
    seconds: float

    @property
    def level(self) -> Level:
        return max((one.level for one in self.said), key=list(EXIT_CODES).index)


CHECKS: dict[str, Check] = {}
#: A check of files; one that asks Slurm waits for its answers.
FILES_S, SLURM_S = 2.0, 4.5


def check(limit_s: float = FILES_S) -> Callable[[Look], Look]:
    """Register a check under its function's name."""

    def register(look: Look) -> Look:
        name = look.__name__.replace("_", "-")
        CHECKS[name] = Check(name, (look.__doc__ or "").strip().splitlines()[0], limit_s, look)
        return look

    return register


def run(place: Any, names: Sequence[str] = ()) -> list[Checked]:
    """Every check (or those named), side by side, in the order in which they are registered."""
    started = time.monotonic()
    running = [_Running(one, place) for one in CHECKS.values() if not names or one.name in names]
    return [one.result(started) for one in running]


class _Running:
    """A check in a thread of its own; one that hangs in the kernel does not keep the process from ending."""

    def __init__(self, one: Check, place: Any) -> None:
        self._check, self._place = one, place
        self._said: tuple[Said, ...] | None = None
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        started = time.monotonic()
        said = tuple(self._guarded())
        self._seconds = time.monotonic() - started
        self._said = said or (fine("nothing to say"),)

    def _guarded(self) -> Iterator[Said]:
        try:
            yield from self._check.look(self._place)
        except UserError as mistake:
            yield refusal(mistake)
        except Exception as fault:
            yield error(
                f"the check itself failed: {type(fault).__name__}: {fault}",
                "this is a fault of nano-exp, or an answer of a kind that it does not know",
                "report it; the other checks do not depend on it",
            )

    def result(self, started: float) -> Checked:
        left = started + self._check.limit_s - time.monotonic()
        self._thread.join(max(0.0, left))
        if self._said is None:
            return Checked(self._check.name, (self._late(),), self._check.limit_s)
        return Checked(self._check.name, self._said, self._seconds)

    def _late(self) -> Said:
        return warning(
            f"no answer within {self._check.limit_s:g} s",
            f"{self._check.summary.rstrip('.')}: a file system or a command hangs",
            "the same again in a minute; if it stays, look with `df` and `ls` which mount hangs",
        )
