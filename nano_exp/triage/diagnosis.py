"""The entry: from evidence to a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nano_exp.credentials import redact
from nano_exp.store.phase import LABELS
from nano_exp.triage import first_sign, phases, remedies, remedies_memory, remedies_places
from nano_exp.triage.evidence import Evidence
from nano_exp.triage.first_sign import Hit, Log
from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.signs import Case, Reading
from nano_exp.triage.tracebacks import Raised, further
from nano_exp.triage.vocabulary import PHASES, Fault, causes

__all__ = ["Diagnosis", "diagnose", "remedies_memory", "remedies_places"]  # the last two register their remedies

#: Most lines that a diagnosis shows, and how long each may be.
MAX_LINES = 8
MAX_SHOWN = 300
#: Causes whose title says all there is to say of the phase.
WITHOUT_PHASE = ("cancelled", "preempted", "requeued", "stopped", "no_steps", "stalled", "data_used_up")
#: Slurm's state -> the cause that Slurm alone knows.
OUTSIDE = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "PREEMPTED": "preempted",
    "REQUEUED": "requeued",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "CANCELLED": "cancelled",
    "OUT_OF_MEMORY": "host_oom",
}
#: What Ray raises where something did not come in time: a warning before it may say why.
WAITED = ("GetTimeoutError", "TimeoutError", "RayActorError", "ActorDiedError", "ActorUnavailableError",
          "WorkerCrashedError", "RaySystemError", "RayTimeoutError")  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """Why an attempt ended as it did.

    Parameters
    ----------
    cause: a key of vocabulary.causes()
    title: one line for people
    phase: a key of vocabulary.PHASES
    node: where it happened, a name or an address; "" when nothing says
    rank: of the process, or None
    lines: the first lines that show it, at most 8, without secrets
    remedy: what to type
    fault: whose it is; only "infrastructure" may be retried without being asked
    bad_node: the node name that the next attempt should avoid, or ""
    """

    cause: str
    title: str
    phase: str
    node: str
    rank: int | None
    lines: tuple[str, ...]
    remedy: str
    fault: Fault
    bad_node: str

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "lines": list(self.lines)}


def diagnose(evidence: Evidence) -> Diagnosis:
    """Name the cause. Pure; never raises on any text; one pass over the logs.

    The first fault of its own wins over its echoes. Slurm's record, or its step daemon's words, win over both where
    they alone know (time limit, preemption, node failure, cancelled), unless a log shows a fault that came before.
    """
    config = evidence.config if isinstance(evidence.config, Mapping) else {}
    streams = [Stream("stderr", evidence.stderr), Stream("stdout", evidence.stdout)]
    streams += [Stream(f"node {name}", text, name) for name, text in evidence.node_logs.items()]
    logs = [first_sign.read(stream, config) for stream in streams]
    out = logs[1]
    case = Case(config, any(log.setup_done for log in logs))
    hits = [hit for log in logs for hit in log.hits]
    hits += [hit for log in logs if (hit := first_sign.final_hit(log, case))]

    outside = _outside(evidence, logs)
    if evidence.exit_code == 0 and not outside and not out.async_error:
        if out.steps or not out.setup_done:
            return _plain("none", evidence)
        return _plain("no_steps", evidence)
    if outside and outside[0] == "stopped" and not evidence.stopped_by and hits:
        outside = None  # a step is also ended because one of its tasks failed
    if outside:
        hits = [hit for hit in hits if _before(hit, outside[0])]
    if evidence.stalled and not outside:  # it was ended for that: what vanished then is no reason, what came before is
        hits = [hit for hit in hits if _before(hit, "stopped")]
        if not hits:
            reading = Reading(evidence.stalled.removeprefix("stalled: "), subject=_patience(evidence.stalled))
            return _make("stalled", reading, _driver_phase(logs), "", None, _tail(out.stream, 3), evidence)
    if evidence.full_disk and not outside and not any(_before(hit, "cancelled") for hit in hits):
        reading = Reading(evidence.full_disk, subject=evidence.full_disk)
        raised = next((log.raised for log in logs if log.raised), None)  # the disk cut its traceback, its name is there
        lines = [raised.root.last.shown] if raised else _tail(out.stream, 3)
        return _make("disk_full", reading, _driver_phase(logs), "", None, lines, evidence)
    hit = first_sign.choose(logs, _without_weak(hits, logs, case))
    if outside and (hit is None or hit.cause == outside[0]):
        return _from_slurm(outside, hit, evidence, logs, hits)
    if hit is not None:
        return _from_hit(hit, hits, evidence, logs)
    return _without_sign(evidence, logs)


def _patience(stalled: str) -> str:
    """The setting for a longer patience, from the watchdog's words."""
    phase = next((phase for phase, label in LABELS.items() if f"stalled: {label}" in stalled), "")
    return f"engine.patience_min.{phase}=MINUTES" if phase else ""


def _without_weak(hits: list[Hit], logs: list[Log], case: Case) -> list[Hit]:
    """Without warnings that the run survived, or that are not what ended it."""
    raised = next((log.raised for log in logs if log.raised and log.raised.driver), None)
    if not case.setup_done and (raised is None or raised.root.kind in WAITED):
        return hits
    return [hit for hit in hits if not causes()[hit.cause].weak]


# --- Slurm's word ---------------------------------------------------------------------------------------------------


def _outside(evidence: Evidence, logs: list[Log]) -> tuple[str, str, Line | None] | None:
    """(cause, node, line) when Slurm or a signal ended the attempt."""
    from_slurm = [log for log in logs if log.slurm]
    word = next(
        (log for log in from_slurm if log.slurm and log.slurm[0] != "stopped"), from_slurm[0] if from_slurm else None
    )
    cause, node, line = "", "", None
    if word is not None and word.slurm is not None:
        (cause, node), line = word.slurm, word.slurm_line
    state = evidence.slurm.state.split()[0].rstrip("+") if evidence.slurm and evidence.slurm.state.strip() else ""
    if state in OUTSIDE:
        # The step daemon says "cancelled" of every end, with its reason where it has one.
        if OUTSIDE[state] != cause:
            node = ""
        cause = OUTSIDE[state]
        # sacct calls a job CANCELLED that was preempted by cancelling; without it, REQUEUED is all that is known.
        if cause in ("cancelled", "requeued") and word is not None and word.slurm and word.slurm[0] == "preempted":
            cause = "preempted"
    elif state in ("FAILED", "COMPLETED") and cause in ("cancelled", "stopped"):
        return None  # a step was ended because another task of it failed
    if cause == "stopped" and evidence.stopped_by in ("SIGINT", "SIGHUP"):
        cause = "cancelled"
    if cause:
        return cause, node, line
    if evidence.stopped_by in ("SIGINT", "SIGHUP"):
        return "cancelled", "", None
    if evidence.stopped_by:
        return "stopped", "", None
    return None


def _before(hit: Hit, outside: str) -> bool:
    """Whether a sign counts although the attempt was ended from outside."""
    cause = causes()[hit.cause]
    fault = hit.reading.fault or cause.fault
    if hit.cause == outside:
        return True
    if cause.echo or cause.outside:
        return False
    if fault == "infrastructure":  # a hang after it, and then the time limit; who cancels or preempts needs no reason
        return outside in ("time_limit", "node_fail", "stopped")
    return True


def _from_slurm(
    outside: tuple[str, str, Line | None], hit: Hit | None, evidence: Evidence, logs: list[Log], hits: list[Hit]
) -> Diagnosis:
    name, node, line = outside
    if hit is not None:
        return _from_hit(hit, hits, evidence, logs)
    record, detail = evidence.slurm, ""
    if name == "cancelled":
        detail = f"by {record.by}" if record and record.by else (evidence.stopped_by and f"by {evidence.stopped_by}")
    elif name == "stopped":
        detail = evidence.stopped_by
    elif record and record.reason:
        detail = record.reason
    lines = [line.shown] if line else []
    return _make(name, Reading(detail, node=node), _driver_phase(logs), node, None, lines, evidence)


# --- a sign ---------------------------------------------------------------------------------------------------------


def _from_hit(hit: Hit, hits: list[Hit], evidence: Evidence, logs: list[Log]) -> Diagnosis:
    """What the chosen sign does not say, other signs of the same cause may."""
    same = [hit, *(other for other in hits if other.cause == hit.cause and other is not hit)]
    phase = next((h.reading.phase for h in same if h.reading.phase), "") or _driver_phase(logs, hit)
    rank = next((r for h in same if (r := _rank(h)) is not None), None)
    node = next((h.node for h in same if h.node), "")
    detail = next((h.reading.detail for h in same if h.reading.detail), "")
    subject = next((h.reading.subject for h in same if h.reading.subject), "")
    fault = next((h.reading.fault for h in same if h.reading.fault), None)
    reading = replace(hit.reading, detail=detail, subject=subject, fault=fault)
    lines = _lines(hit, same, logs)
    return _make(hit.cause, reading, phase, node, rank, lines, evidence)


def _rank(hit: Hit) -> int | None:
    return hit.reading.rank if hit.reading.rank is not None else hit.line.rank


def _lines(hit: Hit, same: Iterable[Hit], logs: list[Log]) -> list[str]:
    """Where its chain began, the line itself, what follows it, and the next processes that say the same."""
    stream = next(log.stream for log in logs if log.stream.name == hit.stream)
    raised = next((log.raised for log in logs if log.stream is stream), None)
    root = raised.root.last if raised and raised.last is hit.line else hit.line
    lines = list(dict.fromkeys([root.shown, hit.line.shown]))
    if not hit.line.level:
        more = (other for other in further(stream, hit.line, 5) if not other.text.lstrip().startswith("File "))
        lines += [other.shown for other in more if not other.noise]
    lines += [other.line.shown for other in same if other is not hit]
    return lines


def _driver_phase(logs: list[Log], hit: Hit | None = None) -> str:
    """What the driver was at: its last word in stdout, before the sign if that is in stdout too."""
    for log in logs:
        marks = [phase for n, phase in log.markers if hit is None or hit.stream != log.stream.name or n <= hit.line.n]
        if marks:
            return marks[-1]
    return "unknown"


# --- no sign --------------------------------------------------------------------------------------------------------


def _without_sign(evidence: Evidence, logs: list[Log]) -> Diagnosis:
    """An exception that no sign knows, or an exit code."""
    code = evidence.exit_code
    signal = code - 128 if code is not None and 128 < code < 192 else (evidence.slurm.signal if evidence.slurm else 0)
    raised = [log.raised for log in logs if log.raised]
    error = next((e for e in raised if e.uncaught and e.driver), raised[0] if raised else None)
    if error is not None and evidence.logs_alone and not error.driver:
        error = None  # other processes raise what is caught
    if error is not None and signal not in (9, 11, 7):
        return _from_exception(error, evidence, logs)
    if signal == 9:
        return _make("killed", Reading("SIGKILL"), _driver_phase(logs), "", None, [], evidence)
    if signal in (11, 7):
        return _make(
            "segfault", Reading("SIGSEGV" if signal == 11 else "Bus error"), _driver_phase(logs), "", None, [], evidence
        )
    if signal in (2, 15):
        return _make("stopped", Reading("SIGINT" if signal == 2 else "SIGTERM"), "unknown", "", None, [], evidence)
    if mistake := _own_words(logs[0].stream):
        what, why, fix = mistake
        three_parts = [f"error: {what}", f"why: {why}", f"fix: {fix}"]
        refused = _make("config_refused", Reading(f"{what}: {why}"), "setup", "", None, three_parts, evidence)
        return replace(refused, remedy=_line(fix))
    if code in (126, 127):
        lines = _tail(logs[0].stream, 3)
        return _make("no_program", Reading(f"exit code {code}"), "setup", "", None, lines, evidence)
    if evidence.logs_alone:
        return _plain("none", evidence)
    if code is None:
        detail = "nobody saw its end: killed, or its node died"
        return _make("killed", Reading(detail), _driver_phase(logs), "", None, _tail(logs[0].stream, 3), evidence)
    lines = _tail(logs[0].stream, MAX_LINES) or _tail(logs[1].stream, MAX_LINES)
    return _make("unknown", Reading(f"exit code {code}"), _driver_phase(logs), "", None, lines, evidence)


def _own_words(stream: Stream) -> tuple[str, str, str] | None:
    """The last error in our own three parts (errors.UserError), as the embedded engine ends with."""
    lines = [stream.line(n).text.strip() for n in range(max(len(stream) - 50, 0), len(stream))]
    for n in range(len(lines) - 3, -1, -1):
        parts = [lines[n + i].partition(f"{word}: ") for i, word in enumerate(("error", "why", "fix"))]
        if all(mark and not before for before, mark, _ in parts):
            return parts[0][2], parts[1][2], parts[2][2]
    return None


def _from_exception(error: Raised, evidence: Evidence, logs: list[Log]) -> Diagnosis:
    """The exception that its chain began with, where that was raised, and what it became."""
    root = error.root
    phase = phases.of((*root.functions, *error.functions), error.call, error.first.who) or _driver_phase(logs)
    where = [f"{file}: {name}" for file, name in zip(root.files[-3:], root.functions[-3:], strict=True)]
    became = [f"then {error.text}"] if root is not error else []
    lines = [root.last.shown, *root.message.split("\n")[1:], *became, *reversed(where)]
    chain = " ".join([root.text, *(f"({words})" for words in became)])
    rank = root.rank if root.rank is not None else error.rank
    return _make("unknown", Reading(chain), phase, root.ip or error.ip, rank, lines, evidence)


def _plain(cause: str, evidence: Evidence) -> Diagnosis:
    return _make(cause, Reading(), "data" if cause == "no_steps" else "unknown", "", None, [], evidence)


def _tail(stream: Stream, most: int) -> list[str]:
    """The last lines that say anything."""
    last_lines: list[str] = []
    for n in range(len(stream) - 1, max(len(stream) - 200, -1), -1):
        line = stream.line(n)
        if line.shown.strip() and not line.noise:
            last_lines.append(line.shown)
            if len(last_lines) == most:
                break
    return last_lines[::-1]


# --- the diagnosis --------------------------------------------------------------------------------------------------


def _make(
    name: str, reading: Reading, phase: str, node: str, rank: int | None, lines: Iterable[str], evidence: Evidence
) -> Diagnosis:
    cause = causes()[name]
    fault = reading.fault or cause.fault
    phase = phase if phase in PHASES else "unknown"
    known, bad = _node(node, evidence)
    bad = bad if fault == "infrastructure" and (cause.blames_node or reading.fault) else ""
    detail = " ".join(reading.detail.split())[:200] if reading.detail not in (node, known) else ""
    where = ", ".join(w for w in (f"rank {rank}" if rank is not None else "", known and f"node {known}") if w)
    title = cause.title
    if PHASES[phase] and name not in WITHOUT_PHASE:
        title += f" {PHASES[phase]}"
    title += f" ({where})" if where else ""
    title += f": {detail}" if detail else ""
    distinct_lines = dict.fromkeys(line for text in lines if (line := _show(text)))
    remedy = remedies.of(name, evidence.config if isinstance(evidence.config, Mapping) else {}, reading, phase, bad)
    return Diagnosis(
        name, _line(title), phase, known, rank, tuple(distinct_lines)[:MAX_LINES], _line(remedy), fault, bad
    )  # fmt: skip


def _line(text: str) -> str:
    """On one line, without secrets."""
    return redact(" ".join(text.split()))


def _show(text: str) -> str:
    text = redact("".join(c if c.isprintable() or c == "\t" else " " for c in text)).strip()
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 4] + " ..."


def _node(node: str, evidence: Evidence) -> tuple[str, str]:
    """(what to show, the node's Slurm name or ""). Ray knows addresses only."""
    nodes = evidence.slurm.nodes if evidence.slurm else ()
    name = evidence.addresses.get(node, node)
    short = name.partition(".")[0] if not name.replace(".", "").isdecimal() else name
    for candidate in (name, short):
        if candidate and (candidate in nodes or candidate in evidence.node_logs):
            return candidate, candidate
    if len(nodes) == 1:  # everything ran there
        return nodes[0], nodes[0]
    return name, ("" if nodes or not name or name.replace(".", "").isdecimal() else short)
