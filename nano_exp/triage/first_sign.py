"""Read the logs once, and choose among the signs the one that came first."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nano_exp.triage import phases, signs_cluster, signs_gpu, signs_setup  # the modules register their signs
from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.signs import FINAL_SIGNS, Case, Reading, line_signs
from nano_exp.triage.tracebacks import Raised, at_exit, final
from nano_exp.triage.vocabulary import causes, order

__all__ = ["Hit", "Log", "choose", "read", "signs_cluster", "signs_gpu", "signs_setup"]

#: A cause is looked for until it was found this often in a log.
MAX_HITS = 12
#: Words of the driver's lines that say where it is, of tracebacks and of Slurm's step daemon.
MARKS = (
    "Traceback", "▶", "• Loss:", "Training Results", "===== Step", "SETUP COMPLETE", "checkpoint for step", "❌",
    "efitting policy generation", "generation refit", "initial validation", "CANCELLED AT", "Node failure on",
)  # fmt: skip
_LOSS_NAN = re.compile(r"• Loss: ([-+]?nan)\b", re.IGNORECASE)
_ASYNC_ERROR = re.compile(r"^❌ (?:Error in async loop|Policy generation \w+ failed|Initial validation failed)")


@dataclass(frozen=True)
class Hit:
    """A cause that a log shows."""

    cause: str
    reading: Reading
    stream: str
    line: Line
    last: Line
    node: str = ""
    time: float | None = None

    @property
    def echo(self) -> bool:
        return causes()[self.cause].echo


@dataclass
class Log:
    """What one pass over a stream found."""

    stream: Stream
    hits: list[Hit] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    markers: list[tuple[int, str]] = field(default_factory=list)
    results: list[int] = field(default_factory=list)  # lines of finished steps
    slurm: tuple[str, str] | None = None
    slurm_line: Line | None = None
    setup_done: bool = False
    steps: int = 0
    async_error: bool = False
    raised: Raised | None = None


def read(stream: Stream, config: Mapping[str, object]) -> Log:
    """One pass over the lines."""
    log = Log(stream)
    counts: dict[str, int] = {}
    needles = [(needle, sign) for sign in line_signs() for needle in sign.needles]
    nan_since: Line | None = None
    for n, raw in enumerate(stream.raw):
        signs = [sign for needle, sign in needles if needle in raw]
        if not signs and not any([mark in raw for mark in MARKS]):  # noqa: C419 (a list is faster here)
            continue
        line = stream.line(n)
        text = line.text
        if text.startswith(("│", "|", "{", '"')):  # a panel with a sample in it, a table, JSON
            continue
        if text.startswith("Traceback (most recent call last):"):
            log.headers.append(n)
            continue
        if not line.who:
            if "• Loss:" in text:
                nan_since = (nan_since or line) if _LOSS_NAN.search(text) else None
            _driver_line(log, n, text)
        if log.slurm in (None, ("stopped", "")) and ("CANCELLED AT" in raw or "Node failure on" in raw):
            slurm_reason = signs_cluster.slurm_said(line.shown)  # the first that gives a reason
            log.slurm, log.slurm_line = (slurm_reason, line) if slurm_reason else (log.slurm, log.slurm_line)
        for sign in dict.fromkeys(signs):
            if counts.get(sign.cause, 0) >= MAX_HITS:
                continue
            if line.level in ("DEBUG", "INFO", "WARNING") and not sign.any_level:
                continue
            reading = sign.check(line, stream)
            if reading is not None:
                counts[sign.cause] = counts.get(sign.cause, 0) + 1
                log.hits.append(_hit(reading.cause or sign.cause, reading, stream, line, line))
    # Sync training stops at a fault: results that came after it show that it was survived.
    if log.results and not _async(config):
        log.hits = [hit for hit in log.hits if hit.line.n > log.results[-1]]
    if nan_since is not None:
        log.hits.append(_hit("nan", Reading("the loss of a step", phase="train"), stream, nan_since, nan_since))
    ignored = at_exit(stream, log.headers)
    if ignored:
        log.headers = [n for n in log.headers if n not in {raised.first.n for raised in ignored}]
        log.hits = [hit for hit in log.hits if not any(raised.spans(hit.line) for raised in ignored)]
    log.raised = final(stream, log.headers)
    return log


def _driver_line(log: Log, n: int, text: str) -> None:
    if phase := phases.marker(text):
        log.markers.append((n, phase))
    if "Training Results:" in text:
        log.results.append(n)
    elif "SETUP COMPLETE" in text:
        log.setup_done = True
    elif "===== Step" in text:
        log.steps += 1
    elif _ASYNC_ERROR.match(text):
        log.async_error = True


def _async(config: Mapping[str, object]) -> bool:
    grpo = config.get("grpo")
    section = grpo.get("async_grpo") if isinstance(grpo, Mapping) else None
    return bool(section.get("enabled")) if isinstance(section, Mapping) else False


def _hit(cause: str, reading: Reading, stream: Stream, line: Line, last: Line) -> Hit:
    node = reading.node or line.ip or stream.node
    return Hit(cause, reading, stream.name, line, last, node, stream.time_near(line.n))


def final_hit(log: Log, case: Case) -> Hit | None:
    """The cause that the driver's last exception shows by its kind. Other processes raise and catch what they like."""
    error = log.raised if log.raised and log.raised.driver else None
    while error is not None:
        for sign in FINAL_SIGNS:
            if error.kind in sign.kinds and (reading := sign.check(error, case)):
                rank = reading.rank if reading.rank is not None else error.rank
                reading = replace(reading, rank=rank, node=reading.node or error.ip)
                return _hit(reading.cause or sign.cause, reading, log.stream, error.last, error.last)
        error = error.cause
    return None


def choose(logs: list[Log], hits: list[Hit]) -> Hit | None:
    """The first fault of its own; where there is none, the echo that says most.

    Lines of one log are in the order of time. Two logs are compared by the clock where both have one near the lines,
    and else by the vocabulary's order.
    """
    faults = [hit for hit in hits if not hit.echo]
    if not faults:
        return min(hits, key=lambda hit: (order()[hit.cause], hit.line.n), default=None)
    leaders = [
        min(mine, key=lambda hit: hit.line.n)
        for log in logs
        if (mine := [h for h in faults if h.stream == log.stream.name])
    ]
    if all(hit.time is not None for hit in leaders):
        return min(leaders, key=lambda hit: (hit.time if hit.time is not None else math.inf, order()[hit.cause]))
    return min(leaders, key=lambda hit: order()[hit.cause])
