"""The exceptions in a log, with Ray's wrappers taken off."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nano_exp.triage.loglines import Line, Stream

HEADER = "Traceback (most recent call last):"
FRAME = re.compile(r'^\s*File "[^"]+", line \d+, in (.+)$')
_FRAME = re.compile(r'^\s*File "([^"]+)", line \d+, in (.+)$')
_RAISED = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?:\((\w+)\))?(?::\s(.*)|:)?$", re.ASCII)
CALL = re.compile(r"ray::([\w.\[\]=]+)")
REPR_RANK = re.compile(r"repr=\w*\[rank=(\d{1,9})\]")
CALL_AT = re.compile(r"\(pid=\d+, ip=([\w.:-]+)")
_CHAIN = ("The above exception was the direct cause", "During handling of the above exception")
#: What a message's further lines end at: another traceback, other programs' lines, what comes at exit.
_NOT_MORE = (HEADER, *_CHAIN, "▶", "  ✓", "Exception ignored", "wandb", "slurmstepd:", "srun:", "Exception in thread")
#: What Python prints above the traceback of a finalizer or of an atexit function.
_AT_EXIT = ("Exception ignored", "Error in atexit")
_SHUTDOWN = re.compile(r"(?:at|after) interpreter shutdown|Python is likely shutting down|Python finalization")
#: So many of a log's tracebacks are looked at, from its end.
MOST = 200
#: How far a traceback is followed, lines of all processes.
REACH = 1500


@dataclass(frozen=True)
class Raised:
    """One exception as a log shows it.

    Parameters
    ----------
    kind: its class without its modules, "OutOfMemoryError"
    message: its text; continuation lines follow after a newline
    functions: of its frames, outermost first
    files: of its frames, likewise
    call: "MegatronPolicyWorker.train" when it was raised in a Ray task
    uncaught: its first frame is a module's: nothing above could have caught it
    first, last: the header's and the message's line
    cause: what Python says it came from ("direct cause")
    """

    kind: str
    message: str
    functions: tuple[str, ...]
    files: tuple[str, ...]
    call: str
    uncaught: bool
    first: Line
    last: Line
    rank: int | None = None
    ip: str = ""
    cause: Raised | None = None

    @property
    def text(self) -> str:
        head = self.message.split("\n", 1)[0]
        return f"{self.kind}: {head}" if head else self.kind

    @property
    def file(self) -> str:
        """The file that raised it."""
        return self.files[-1] if self.files else ""

    @property
    def driver(self) -> bool:
        return not self.first.who

    @property
    def root(self) -> Raised:
        """Where the chain began."""
        return self.cause.root if self.cause else self

    def spans(self, line: Line) -> bool:
        """Whether a line is one of its traceback's."""
        return self.first.n < line.n <= self.last.n and line.source == self.first.source


def read(stream: Stream, start: int) -> Raised | None:
    """The exception whose header stands at line `start`; None when its end is not in the log."""
    header = stream.line(start)
    functions: list[str] = []
    files: list[str] = []
    call, rank, ip, strays = "", header.rank, header.ip, 0
    wrapper: tuple[str, str, Line] | None = None
    for n in range(start + 1, min(start + REACH, len(stream))):
        line = stream.line(n)
        if line.source != header.source or not line.text.strip():
            continue
        if match := _FRAME.match(line.text):
            files.append(match[1])
            functions.append(match[2])
            continue
        if line.indented:
            continue
        match = _RAISED.match(line.text)
        if match is None or line.text.startswith(HEADER):
            strays += 1
            if strays > 3 or line.text.startswith(HEADER):
                break
            continue
        kind, message = match[1].rpartition(".")[2], match[3] or ""
        if calls := CALL.search(message):
            call = calls[1]
            if at := CALL_AT.search(message):
                ip = at[1]
            if of := REPR_RANK.search(message):
                rank = int(of[1])
            wrapper = (match[2] or kind, message, line)
            continue
        message = "\n".join([message, *_more(stream, line)])
        return Raised(kind, message, tuple(functions), tuple(files), call, _uncaught(functions), header, line, rank, ip)
    if wrapper is not None:  # the log ends, or was cut, inside of the wrapped one
        kind, message, line = wrapper
        return Raised(kind, message, tuple(functions), tuple(files), call, _uncaught(functions), header, line, rank, ip)
    return None


def _uncaught(functions: list[str]) -> bool:
    return bool(functions) and functions[0] == "<module>"


def _more(stream: Stream, line: Line) -> list[str]:
    return [other.text for other in further(stream, line)]


def further(stream: Stream, line: Line, most: int = 12) -> list[Line]:
    """Further lines of a message, as pydantic's, Ray's and NCCL's have them: up to a blank line or another log line."""
    exceptions = []
    for other in stream.after(line, most, reach=60):
        if not other.text.strip() or other.level or other.text.startswith(_NOT_MORE):
            break
        exceptions.append(other)
    return exceptions


def at_exit(stream: Stream, headers: list[int]) -> list[Raised]:
    """The tracebacks of finalizers and atexit functions: what is left undone when the program has ended already.

    NeMo RL's Policy.__del__ ends Ray's workers, and says "preexec_fn not supported at interpreter shutdown" then.
    """
    exceptions = []
    for start in headers[-MOST:]:
        above = stream.before(stream.line(start), 1)
        raised = read(stream, start)
        if raised is not None and (
            (above and above[0].text.startswith(_AT_EXIT))
            or "__del__" in (name.rpartition(".")[2] for name in raised.functions[:1])
            or _SHUTDOWN.search(raised.message)
        ):
            exceptions.append(raised)
    return exceptions


def final(stream: Stream, headers: list[int]) -> Raised | None:
    """The exception that ended the driver, or else the last that any process printed.

    Parameters
    ----------
    headers: line numbers of tracebacks in this stream, ascending, without those of `at_exit`

    An uncaught exception comes before what the driver caught and printed.
    """
    last_driver: Raised | None = None
    last_any: Raised | None = None
    for start in reversed(headers[-MOST:]):
        raised = read(stream, start)
        if raised is None:
            continue
        last_any = last_any or raised
        if raised.driver:
            last_driver = last_driver or raised
            if raised.uncaught:
                return _with_cause(stream, headers, raised)
    last = last_driver or last_any
    return _with_cause(stream, headers, last) if last else None


def _with_cause(stream: Stream, headers: list[int], raised: Raised, depth: int = 0) -> Raised:
    """Add what Python printed before "the direct cause", which is where it began."""
    before = stream.before(raised.first, 4)
    if depth > 5 or not any(line.text.startswith(_CHAIN) for line in before):
        return raised
    earlier = [n for n in headers if n < raised.first.n and stream.line(n).source == raised.first.source]
    origin = read(stream, earlier[-1]) if earlier else None
    if origin is None or origin.last.n >= raised.first.n:
        return raised
    origin = _with_cause(stream, headers, origin, depth + 1)
    uncaught = raised.uncaught
    return Raised(
        raised.kind, raised.message, raised.functions, raised.files, raised.call, uncaught,
        raised.first, raised.last, raised.rank, raised.ip, origin,
    )  # fmt: skip
