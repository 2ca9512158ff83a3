"""What shows a cause: a pattern in causes.yaml, or a small function here, registered by a decorator.

Adding one touches one file and its test. There are two kinds of functions. A `line_sign` looks at single lines while
the log is read; its needles are plain words, one of which a line must contain. A `final_sign` looks at the exception
that ended the driver, because its kind (a missing file, a failed assertion, a missing module) also occurs, harmlessly,
in rollouts, tools and samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from nano_exp.triage import phases
from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.tracebacks import CALL, CALL_AT, FRAME, HEADER, REPR_RANK, Raised
from nano_exp.triage.vocabulary import Fault, Pattern, causes


@dataclass(frozen=True)
class Reading:
    """What a sign read in the log.

    Parameters
    ----------
    detail: for the title, one line
    node, rank, phase, fault: where this log says it; "" or None leaves it to others
    subject: what the remedy is about: a path, a port, a number
    cause: another cause than the sign's own
    """

    detail: str = ""
    node: str = ""
    rank: int | None = None
    phase: str = ""
    fault: Fault | None = None
    subject: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Case:
    """What a final sign may look at beside the exception."""

    config: Mapping[str, Any] = field(default_factory=dict)
    setup_done: bool = False


LineCheck = Callable[[Line, Stream], Reading | None]
FinalCheck = Callable[[Raised, Case], Reading | None]


@dataclass(frozen=True)
class LineSign:
    """`any_level`: also where the line itself says INFO or WARNING."""

    cause: str
    needles: tuple[str, ...]
    check: LineCheck
    any_level: bool = False


@dataclass(frozen=True)
class FinalSign:
    cause: str
    kinds: tuple[str, ...]
    check: FinalCheck


LINE_SIGNS: list[LineSign] = []
FINAL_SIGNS: list[FinalSign] = []


def line_sign(cause: str, *needles: str, any_level: bool = False) -> Callable[[LineCheck], LineCheck]:
    """Register a function that reads a cause from a line which contains one of `needles`."""

    def register(check: LineCheck) -> LineCheck:
        LINE_SIGNS.append(LineSign(cause, needles, check, any_level))
        return check

    return register


def final_sign(cause: str, *kinds: str) -> Callable[[FinalCheck], FinalCheck]:
    """Register a function that reads a cause from the exception that ended the driver, of one of `kinds`."""

    def register(check: FinalCheck) -> FinalCheck:
        FINAL_SIGNS.append(FinalSign(cause, kinds, check))
        return check

    return register


def at(line: Line, stream: Stream, detail: str = "", **more: Any) -> Reading:
    """A finding with the phase, rank and address of the traceback that ends in this line, if one does."""
    functions: list[str] = []
    call, rank, ip, words = "", line.rank, "", 0
    for other in stream.before(line, 250, reach=1500):
        text = other.text
        if match := FRAME.match(text):
            functions.append(match[1])
        elif match := CALL.search(text):
            call = call or match[1]
            if rank is None and (of := REPR_RANK.search(text)):
                rank = int(of[1])
            if where := CALL_AT.search(text):
                ip = ip or where[1]
            if text.startswith("ray."):  # the caller's frames, above, are the driver's
                break
        elif text.startswith(HEADER):
            break
        elif text.strip() and not other.indented:
            words += 1  # a message of several lines stands below the frames, what is above them is another's
            if words > 3 or functions:
                break
    return Reading(detail, **{"phase": phases.of(functions, call, line.who), "rank": rank, "node": ip, **more})


@cache
def line_signs() -> Sequence[LineSign]:
    """All signs that look at lines: the patterns of causes.yaml, then the functions of signs_*.py."""
    rows = [(cause.name, row) for cause in causes().values() for row in cause.signs]
    return (*(LineSign(name, (row.needle,), _by_pattern(row), row.any_level) for name, row in rows), *LINE_SIGNS)


def _by_pattern(row: Pattern) -> LineCheck:
    compiled = re.compile(row.pattern)

    def check(line: Line, stream: Stream) -> Reading | None:
        match = compiled.search(line.text)
        if match is None:
            return None
        names = {key: value for key, value in match.groupdict().items() if value}
        detail = row.detail.format(*("" if g is None else g for g in match.groups()), **names) if row.detail else ""
        more: dict[str, Any] = {key: names[key] for key in ("node", "subject") if key in names}
        if "rank" in names:
            more["rank"] = int(names["rank"][:9])
        return at(line, stream, detail, **more)

    return check


_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*([A-Z]\w*)(?:\(\w+\))?: (.*)", re.ASCII)
#: Words of a message about something that the program survived.
_SURVIVED = re.compile(
    r"\b(?:retry(?:ing)?|retried|fall(?:ing)? back|skipp(?:ed|ing)|recovered|ignor(?:ed|ing)|attempt \d+ ?/ ?\d+)\b",
    re.IGNORECASE,
)


def exception(line: Line, stream: Stream) -> tuple[str, str] | None:
    """(class, message) when the line is the last one of a traceback, not a quotation of one.

    It must begin with the class, after Ray's and vLLM's prefixes, and follow a frame of the same process; a repeated
    line, or the first lines of a log that was cut, cannot show their frames.
    """
    match = _EXCEPTION.match(line.text)
    if match is None:
        return None
    if line.repeated or line.n < 3 or line.level in ("ERROR", "CRITICAL"):
        return match[1], match[2]
    for other in stream.before(line, 2, reach=120):
        if other.indented or other.text.startswith(HEADER) or "ray::" in other.text:
            return match[1], match[2]
    return None


def survived(line: Line) -> bool:
    """Whether the line itself says that the program went on."""
    return _SURVIVED.search(line.text) is not None
