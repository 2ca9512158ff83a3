"""Signs of the host, of Ray 2.x, of vLLM's processes and of Slurm's step daemon."""

from __future__ import annotations

import re

from nano_exp.triage import phases
from nano_exp.triage.loglines import Line, Stream
from nano_exp.triage.signs import Case, Found, at, exception, final_sign, line_sign, pattern_sign, survived
from nano_exp.triage.tracebacks import Raised

# --- host memory ----------------------------------------------------------------------------------------------------

pattern_sign(
    "host_oom",
    "Killed process",
    r"(?:Out of memory|oom-kill|Memory cgroup out of memory): Killed process \d+ \(([^)]{1,40})\)",
    "the kernel killed {0}",
    any_level=True,
)
pattern_sign(
    "host_oom",
    "oom",
    r"slurmstepd: error: .*Detected [1-9]\d* oom[-_]kill event",
    "the job's memory limit",
    any_level=True,
)
pattern_sign("host_oom", "Out Of Memory", r"srun: error: (?P<node>[\w.-]+): task \d+: Out Of Memory", "Slurm's limit")
pattern_sign(
    "host_oom",
    "killed due to memory pressure",
    r"\b([1-9]\d*) Workers? \(tasks / actors\) killed due to memory pressure \(OOM\).*IP: (?P<node>[\w.:]+)\)",
    "Ray's memory monitor killed {0} of its workers",
    any_level=True,
)
pattern_sign(
    "host_oom",
    "running low on memory",
    r"(?:^|Worker exit detail: |OutOfMemoryError: )Task was killed due to the node running low on memory",
    "Ray's memory monitor",
)
pattern_sign(
    "host_oom",
    "Cannot allocate memory",
    r"^(?:OSError|RuntimeError|BlockingIOError|MemoryError)?:? ?\[Errno 12\] (Cannot allocate memory)",
    "{0}",
)


@line_sign("host_oom", "CPUAllocator", "alloc_cpu")
def cpu_allocator(line: Line, stream: Stream) -> Found | None:
    """PyTorch cannot allocate host memory."""
    found = exception(line, stream)
    size = re.search(r"you tried to allocate (\d{1,18}) bytes", line.text)
    if found is None or size is None:
        return None
    return Found(f"PyTorch asked for {int(size[1]) / 2**30:.1f} GiB")


_NO_THREAD = re.compile(
    r"can't start new thread|pthread_create failed|"
    r"\b(?:fork|clone|thread): (?:retry: )?Resource temporarily unavailable"
)


@line_sign("node_limits", "Too many open files", "start new thread", "pthread_create failed", "temporarily unavailable")
def node_limits(line: Line, stream: Stream) -> Found | None:
    """EMFILE and ENFILE, as Python and Ray's C++ say them; no further thread or process."""
    if _NO_THREAD.search(line.text):
        return at(line, stream, "no further process", subject="nproc")
    said = exception(line, stream) is not None or line.level in ("ERROR", "CRITICAL")
    if "Too many open files" not in line.text or survived(line) or not said:
        return None
    return at(line, stream, "too many open files", subject="nofile")


# --- Ray ------------------------------------------------------------------------------------------------------------

_ADDRESS = r"(?P<node>\d{1,3}(?:\.\d{1,3}){3})"
pattern_sign(
    "ray_node_lost",
    "has been marked dead",
    rf"The node with node id: \w+ and address: {_ADDRESS} .*has been marked dead",
    "{node}",
    any_level=True,
)
pattern_sign(
    "ray_node_lost", "dead or unavailable", rf"the node it was running on is dead.*Node IP: {_ADDRESS}", "{node}"
)
pattern_sign("ray_node_lost", "its node has died", r"The actor died because its node has died", "")
pattern_sign(
    "ray_node_lost",
    "Raylet is terminated",
    r"[Rr]aylet is terminated\. Termination is unexpected",
    "its raylet ended",
    any_level=True,
)
pattern_sign(
    "ray_head_lost",
    "Failed to connect to GCS within",
    r"Failed to connect to GCS within (\d+) seconds",
    "no answer for {0} s",
    any_level=True,
)
pattern_sign(
    "ray_head_lost", "Unable to connect to GCS", r"Unable to connect to GCS at (\S+?)\. ", "{0}", any_level=True
)
pattern_sign(
    "ray_mismatch", "Version mismatch", r"Version mismatch: The cluster was started with", "versions of Ray or Python"
)

pattern_sign(
    "ray_start", "not registered within", r"workers? .*not registered within the timeout", "a worker did not register"
)
pattern_sign("ray_start", "register worker", r"(?:Failed|Unable) to register worker\b", "a worker did not register")
pattern_sign("ray_start", "timed out during startup", r"^(?:\w*Error: )?The current node timed out during startup", "")


@line_sign("ray_worker_lost", "died unexpectedly before finishing", "worker died or was killed while executing")
def worker_vanished(line: Line, stream: Stream) -> Found | None:
    """An actor's process ended. Ray lists what it might have been (OOM killer, SIGSEGV): that list is no evidence."""
    if not re.search(r"(?:Actor\w*Error|WorkerCrashedError): |^A worker died or was killed", line.text):
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
    return Found(name, node=ip, rank=rank, phase=phases.of((), "", name))


@final_sign("ray_resources", "ResourceInsufficientError", "TimeoutError")
def resources(error: Raised, case: Case) -> Found | None:
    if error.kind == "TimeoutError" and "placement groups" not in error.message:
        return None
    head = error.message.split("\n", 1)[0]
    return Found("" if head.startswith("Maximum number of retries") else head, phase="setup")


@line_sign("ray_resources", "Not enough")
def not_enough(line: Line, _stream: Stream) -> Found | None:
    """NeMo RL prints it at each of its tries: virtual_cluster.py; the last one says only that it gave up."""
    match = re.match(
        r"^(?:\S*ResourceInsufficientError: )?Not enough (GPUs|CPUs) available\. "
        r"Requested (\d+) \w+, but only (\d+) are",
        line.text,
    )
    if match is None:
        alive = re.match(r"^(?:AssertionError: )?(Not enough alive Ray nodes[^:]*)", line.text)
        return Found(alive[1], phase="setup") if alive else None
    return Found(
        f"{match[2]} {match[1]} asked for, {match[3]} there",
        phase="setup",
        subject=match[1],
        fault="config" if match[1] == "CPUs" else None,
    )


pattern_sign(
    "ray_resources",
    "waiting for all workers to connect",
    r"Timed out waiting for all workers to connect \((\S+) ",
    "{0} GPUs joined",
)

# What the attempt's own bring-up says on stderr (engines/templates); the first line is the reason.
pattern_sign(
    "ray_node_lost",
    "did not join Ray",
    r"^nano-exp: (?P<node>[\w.-]+)(?:, [\w., -]+)? did not join Ray",
    "did not join",
)
pattern_sign("ray_node_lost", "nano-exp: Ray on", r"^nano-exp: Ray on (?P<node>[\w.-]+) ended \((.*)\)", "{1}")
pattern_sign(
    "ray_head_lost", "nano-exp: Ray's head", r"^nano-exp: Ray's head on (?P<node>[\w.-]+) ended \((.*)\)", "{1}"
)
pattern_sign("ray_resources", "nano-exp: Ray has", r"^nano-exp: Ray has (.* GPUs, .* CPUs) after", "{0}")
pattern_sign(
    "node_setup", "node_setup failed", r"^nano-exp: (?P<subject>site\.node_setup) failed on (?P<node>[\w.-]+)", ""
)
pattern_sign(
    "node_setup", "site.setup failed", r"^nano-exp: (?P<subject>site\.setup) failed on (?P<node>[\w.-]+): (.*)", "{2}"
)
pattern_sign(
    "killed", "the driver on", r"^nano-exp: the driver on (?P<node>[\w.-]+) was killed by signal (\d+)", "signal {1}"
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
def port(line: Line, stream: Stream) -> Found | None:
    ours = re.search(
        r"Errno 98\]|ZMQError: Address already in use|code: -98, name: EADDRINUSE|[Pp]ort \d+ is already in use|"
        r"Ray is trying to start at \S+, but is already running|^nano-exp: port \d+ of |"
        r"Failed to start the grpc server\. The specified port is|No available ports|"
        r"is trying to use a port number \d+ that is used by other components",
        line.text,
    )
    if ours is None or (line.level == "" and exception(line, stream) is None and not _OURS.search(line.text)):
        return None
    found = _PORT.search(line.text)
    return at(line, stream, f"port {found[1]}" if found else "", subject=found[1] if found else "")


# --- waiting for others ---------------------------------------------------------------------------------------------

pattern_sign(
    "peer_timeout",
    "Timed out waiting",
    r"gloo/.*Timed out waiting (\d+?)(?:000)?ms for \w+ operation to complete",
    "nothing came for {0} s",
)
pattern_sign("peer_timeout", "pair closure", r"gloo/.*Application timeout caused pair closure", "")
pattern_sign(
    "peer_timeout",
    "wait timeout after",
    r"^(?:[\w.]+Error: )(?:\[\d+\] is setting up.*|.*)wait timeout after (\d+?)(?:000)?ms, keys: ",
    "no word for {0} s",
)

# --- NeMo Gym -------------------------------------------------------------------------------------------------------

pattern_sign("gym_server", "finished unexpectedly!", r"^RuntimeError: Process `([^`]+)` finished unexpectedly!", "{0}")
pattern_sign("gym_server", "finished unexpectedly!", r"^RuntimeError: (Head server) finished unexpectedly!", "{0}")
pattern_sign(
    "gym_server",
    "querying NeMo Gym",
    r"^\w+Error: Hit a non-successful response when querying NeMo Gym for rollouts: (.*)",
    "{0}",
)
pattern_sign(
    "gym_server",
    "Gym returned",
    r"^\w+Error: (NeMo[ -]Gym returned (?:only )?\d+ rollout.*?(?:requested|row\(s\)))",
    "{0}",
)


@line_sign("gym_server", "Cannot connect to host")
def gym_server_gone(line: Line, stream: Stream) -> Found | None:
    """Gym's servers and its client talk over HTTP between the run's own nodes."""
    found = exception(line, stream)
    match = re.match(r"Cannot connect to host ([\w.-]+:\d+) ", found[1]) if found else None
    if match is None or "Gym" not in line.who:
        return None
    return at(line, stream, f"no answer at {match[1]}", phase="generation")


# --- vLLM's processes -----------------------------------------------------------------------------------------------

pattern_sign(
    "vllm_dead",
    "EngineDeadError",
    r"^(?:[\w.]*\.)?EngineDeadError: (EngineCore encountered an issue)",
    "",
)
pattern_sign(
    "vllm_dead", "ngine core initialization failed", r"^RuntimeError: Engine core initialization failed", "at its start"
)
pattern_sign(
    "vllm_dead", "died unexpectedly", r"(?:Engine core proc|Worker proc) (\S+) died unexpectedly", "{0}", any_level=True
)
pattern_sign(
    "vllm_dead", "EngineCore", r"^EngineCore (?:encountered a fatal error|failed to start|hit an exception)", ""
)
pattern_sign(
    "vllm_dead",
    "during refit",
    r"Updating weights for the generation policy failed during refit",
    "it did not take the weights",
)

# --- crashes --------------------------------------------------------------------------------------------------------

pattern_sign("segfault", "egfault encountered", r"^!+ Segfault encountered !+", "")
pattern_sign("segfault", "Fatal Python error", r"^Fatal Python error: (Segmentation fault|Bus error)", "{0}")
pattern_sign("segfault", "SIGSEGV received", r"^\*\*\* SIGSEGV received at time=", "", any_level=True)
pattern_sign(
    "segfault",
    "egmentation fault",
    r"(?:^|line \d+: +\d+ |task \d+: )Segmentation fault(?: +\(core dumped\))?",
    "",
)
pattern_sign("segfault", "Bus error", r"^srun: error: (?P<node>[\w.-]+): tasks? [\d,-]+: (Bus error)", "{1}")
pattern_sign("killed", "Killed", r"^srun: error: (?P<node>[\w.-]+): tasks? [\d,-]+: (Killed)$", "SIGKILL")

# --- Slurm's steps ---------------------------------------------------------------------------------------------------

pattern_sign(
    "step_refused",
    "to create step",
    r"(?i)^srun: error: Unable to create step(?: for job \d+)?: (?P<subject>.*)",
    "{subject}",
)
pattern_sign(
    "step_refused",
    "to confirm allocation",
    r"^srun: error: Unable to confirm allocation for job \S+: (?P<subject>.*)",
    "{subject}",
)
pattern_sign("step_refused", "srun: fatal:", r"^srun: fatal: (?P<subject>.*)", "{subject}")
pattern_sign("step_refused", "srun: ", r"^srun: ((?:unrecognized|invalid|ambiguous) option.*)", "{0}")
pattern_sign("step_refused", "srun: error: Invalid", r"^srun: error: (?P<subject>Invalid .*)", "{subject}")
pattern_sign(
    "step_failed",
    "Task launch for",
    r"^srun: error: Task launch for (?:StepId=)?\S+ failed on node (?P<node>[\w.-]+): (.*)",
    "{1}",
)
pattern_sign("step_failed", "Application launch failed", r"^srun: error: Application launch failed: (.*)", "{0}")
pattern_sign("container", "pyxis: ", r"^slurmstepd: error: pyxis: (.*)", "{0}")
pattern_sign("container", "FATAL: ", r"^FATAL: +((?:container|[Uu]nable to|[Cc]ould not|[Ww]hile).*)", "{0}")

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
