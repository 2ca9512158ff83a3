"""Signs of the host, of Ray 2.x, of vLLM's processes and of Slurm's step daemon."""

from __future__ import annotations

import re

from nano_exp.triage import phases
from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.signs import Case, Reading, at, exception, final_sign, line_sign, survived
from nano_exp.triage.tracebacks import Raised

# --- host memory ----------------------------------------------------------------------------------------------------


@line_sign("host_oom", "CPUAllocator", "alloc_cpu")
def cpu_allocator(line: Line, stream: Stream) -> Reading | None:
    """PyTorch cannot allocate host memory."""
    error = exception(line, stream)
    size = re.search(r"you tried to allocate (\d{1,18}) bytes", line.text)
    if error is None or size is None:
        return None
    return Reading(f"PyTorch asked for {int(size[1]) / 2**30:.1f} GiB")


_NO_THREAD = re.compile(
    r"can't start new thread|pthread_create failed|"
    r"\b(?:fork|clone|thread): (?:retry: )?Resource temporarily unavailable"
)


@line_sign("node_limits", "Too many open files", "start new thread", "pthread_create failed", "temporarily unavailable")
def node_limits(line: Line, stream: Stream) -> Reading | None:
    """EMFILE and ENFILE, as Python and Ray's C++ say them; no further thread or process."""
    if _NO_THREAD.search(line.text):
        return at(line, stream, "no further process", subject="nproc")
    is_error = exception(line, stream) is not None or line.level in ("ERROR", "CRITICAL")
    if "Too many open files" not in line.text or survived(line) or not is_error:
        return None
    return at(line, stream, "too many open files", subject="nofile")


# --- Ray ------------------------------------------------------------------------------------------------------------


@line_sign("ray_worker_lost", "died unexpectedly before finishing", "worker died or was killed while executing")
def worker_vanished(line: Line, stream: Stream) -> Reading | None:
    """An actor's process ended. Ray lists what it might have been (OOM killer, SIGSEGV): that list is no evidence."""
    if not re.search(
        r"(?:Actor\w*Error|WorkerCrashedError): |^A worker died or was killed|^Error during policy \w+: The actor died",
        line.text,
    ):
        return None
    name = ip = ""
    rank = None
    for other in stream.after(line, 10, reach=60):
        key, _, value = other.text.strip().partition(": ")
        if key == "class_name":
            name = value
        elif key == "name" and (match := re.search(r"-(\d{1,9})-(\d{1,9})$", value)):
            rank = None if match[1] != "0" else int(match[2])
        elif key == "ip":
            ip = value.strip()
    return Reading(name, node=ip, rank=rank, phase=phases.of((), "", name))


@final_sign("ray_resources", "ResourceInsufficientError", "TimeoutError")
def resources(error: Raised, case: Case) -> Reading | None:
    if error.kind == "TimeoutError" and "placement groups" not in error.message:
        return None
    head = error.message.split("\n", 1)[0]
    return Reading("" if head.startswith("Maximum number of retries") else head, phase="setup")


@line_sign("ray_resources", "Not enough")
def not_enough(line: Line, _stream: Stream) -> Reading | None:
    """NeMo RL prints it at each of its tries: virtual_cluster.py; the last one says only that it gave up."""
    match = re.match(
        r"^(?:\S*ResourceInsufficientError: )?Not enough (GPUs|CPUs) available\. "
        r"Requested (\d+) \w+, but only (\d+) are",
        line.text,
    )
    if match is None:
        alive = re.match(r"^(?:AssertionError: )?(Not enough alive Ray nodes[^:]*)", line.text)
        return Reading(alive[1], phase="setup") if alive else None
    return Reading(
        f"{match[2]} {match[1]} asked for, {match[3]} there",
        phase="setup",
        subject=match[1],
        fault="config" if match[1] == "CPUs" else None,
    )


# --- ports ----------------------------------------------------------------------------------------------------------

_PORT = re.compile(r"(?:port(?: number| is)?[: ]+|:)(\d{2,5})\b")
_OURS = re.compile(r"Ray is trying|^nano-exp: port ")


@line_sign(
    "port_in_use",
    "ddress already in use",
    "EADDRINUSE",
    "is already in use",
    "is already running",
    "start the grpc server",
    "No available ports",
    "used by other components",
)
def port(line: Line, stream: Stream) -> Reading | None:
    ours = re.search(
        r"Errno 98\]|ZMQError: Address already in use|code: -98, name: EADDRINUSE|[Pp]ort \d+ is already in use|"
        r"Ray is trying to start at \S+, but is already running|^nano-exp: port \d+ of |"
        r"Failed to start the grpc server\. The specified port is|No available ports|"
        r"is trying to use a port number \d+ that is used by other components",
        line.text,
    )
    if ours is None or (line.level == "" and exception(line, stream) is None and not _OURS.search(line.text)):
        return None
    match = _PORT.search(line.text)
    return at(line, stream, f"port {match[1]}" if match else "", subject=match[1] if match else "")


# --- NeMo Gym -------------------------------------------------------------------------------------------------------


@line_sign("gym_server", "Cannot connect to host")
def gym_server_gone(line: Line, stream: Stream) -> Reading | None:
    """Gym's servers and its client talk over HTTP between the run's own nodes."""
    error = exception(line, stream)
    match = re.match(r"Cannot connect to host ([\w.-]+:\d+) ", error[1]) if error else None
    if match is None or "Gym" not in line.who:
        return None
    return at(line, stream, f"no answer at {match[1]}", phase="generation")


# --- Slurm's words --------------------------------------------------------------------------------------------------

_SLURM = re.compile(
    r"slurmstepd: error: \*\*\* (JOB|STEP) \S+ ON (\S+) CANCELLED AT \S+(?: DUE TO ([A-Z ]+?))?(?:,.*)? \*\*\*"
)


def slurm_said(text: str) -> tuple[str, str] | None:
    """(cause, node) of the step daemon's last words in a line, or None.

    A step that ends without a reason was ended by its job's script, or because another task of it failed.
    """
    if match := _SLURM.search(text):
        why = (match[3] or "").strip()
        known = {"TIME LIMIT": "time_limit", "PREEMPTION": "preempted", "NODE FAILURE": "node_fail"}
        if not why:
            return ("cancelled" if match[1] == "JOB" else "stopped"), ""
        return (known[why], match[2] if why == "NODE FAILURE" else "") if why in known else None
    if match := re.search(r"srun: error: Node failure on (\S+)", text):
        return "node_fail", match[1]
    return None
