"""The one module that runs Slurm's commands, and what their answers mean."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nano_exp.errors import UserError

#: How long one command may take, seconds. Slurm's own tools retry for about 10-20 s before they give up.
TIMEOUT_S = 60.0

#: Job states (squeue, sacct) in which a job holds or will hold resources. STAGE_OUT and the rest count as active too.
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD"}


class NoAnswer(Exception):
    """Slurm did not answer: nothing is known about any job."""


class Refused(UserError):
    """Slurm refused the submission: certainly nothing was queued."""


class Unclear(UserError):
    """The answer to sbatch was lost: a job may or may not have been queued."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"sbatch: {said}",
            "the job may or may not have been queued",
            "the same command again: it asks Slurm first, by the launch's name, and submits only what is not there",
            code=4,
        )


@dataclass(frozen=True)
class Job:
    """One line of squeue: a job, an array task, or the pending tasks of an array."""

    id: str  # the array's id for a task
    tasks: range | tuple[int, ...] | None  # None: not an array
    state: str
    name: str
    reason: str
    throttle: int | None = None  # of the array, shown with its waiting tasks where those are merged

    @property
    def starts(self) -> bool:
        """Whether it has nodes, or is getting them: what an array's throttle counts."""
        return self.state not in WAITING - {"CONFIGURING"}


@dataclass
class Queue:
    """The jobs that Slurm knows as not ended."""

    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_id = _Index((job.id, job) for job in self.jobs)
        self._by_name = _Index((job.name, job) for job in self.jobs)

    def find(self, job: str, task: int | None = None) -> Job | None:
        """The job or array task, if it is pending, running or completing."""
        return self._by_id.get(job, task)

    def named(self, name: str, task: int | None = None) -> Job | None:
        """The job, or the task of an array, of that name."""
        return self._by_name.get(name, task)


class _Index:
    """Jobs by a key and an array task. The first one of a key and task is found."""

    def __init__(self, pairs: Iterable[tuple[str, Job]]) -> None:
        self._whole: dict[str, Job] = {}
        self._tasks: dict[tuple[str, int | None], Job] = {}
        for key, job in pairs:
            self._whole.setdefault(key, job)
            for task in (None,) if job.tasks is None else job.tasks:
                self._tasks.setdefault((key, task), job)

    def get(self, key: str, task: int | None) -> Job | None:
        """An array of one is a plain job to Slurm; a whole array is asked for without a task."""
        if task is None:
            return self._whole.get(key)
        return self._tasks.get((key, task)) or self._tasks.get((key, None))


def available() -> bool:
    """Whether this host can submit at all."""
    return shutil.which("sbatch") is not None


def require() -> None:
    """Raises UserError where there is no sbatch, or nothing that tells it where its cluster is."""
    if not available():
        raise UserError(
            "no sbatch on PATH",
            "this cluster= is run by Slurm, and this host has no Slurm commands",
            "launch from a login node (module load slurm?), or run here without Slurm: python launch.py cluster=local",
        )
    if said := _unconfigured():
        raise UserError(
            said,
            "Slurm's commands read the cluster's address there, and each of them looks for it for a minute",
            "SLURM_CONF=/path/of/the/cluster's/slurm.conf, or unset SLURM_CONF where the site needs none",
            code=4,
        )


def _unconfigured() -> str:
    path = os.environ.get("SLURM_CONF")
    return f"SLURM_CONF={path} is not there" if path and not Path(path).exists() else ""


#: Slurm's variables that say where the cluster is; any other changes what is asked or sent.
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"}
_DROPPED = ("SLURM_", "SLURMD_", "SQUEUE_", "SACCT_")


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for Slurm's commands.

    SQUEUE_STATES would hide jobs from us, SLURM_TIME_FORMAT reword times, and the variables of a job that one launches
    from (SLURM_ARRAY_TASK_ID, SLURM_RESTART_COUNT, ...) reach the new job through sbatch, which then takes them for its
    own.
    """
    kept = {k: v for k, v in environ.items() if k in _KEPT or not k.startswith(_DROPPED)}
    return {**kept, "SLURM_BITSTR_LEN": "0"}


def ask(argv: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands that changes nothing.

    Raises
    ------
    NoAnswer: it is not there, or took too long
    """
    return _run(argv, timeout_s)


def _run(
    argv: Sequence[str], timeout_s: float = TIMEOUT_S, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    if said := _unconfigured():
        raise NoAnswer(said)
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**client_environment(os.environ), **(more or {})},
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise NoAnswer(f"{argv[0]} is not on PATH") from error
    except OSError as error:
        raise NoAnswer(f"{argv[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"{argv[0]} gave no answer within {timeout_s:.0f} s") from error


def this_user() -> str:
    """This process's user by its id, which is Slurm's: LOGNAME and USER may say another one (su, containers)."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def queue(users: Iterable[str] = (), merged: bool = False) -> Queue:
    """Every not-ended job of these users and of this one, in one call; those in hidden partitions too.

    A line for each array task: otherwise squeue puts those that wait into one line, with all their reasons in it, and
    does not tell which task is held and which one waits for its turn.

    Parameters
    ----------
    merged: one line for the waiting tasks of an array all the same: it alone shows the array's throttle

    Raises
    ------
    NoAnswer: Slurm's words in it
    """
    who = ",".join(sorted(set(users) | {this_user()}))
    lines = [] if merged else ["--array"]
    done = _run(["squeue", "--all", "--noheader", *lines, f"--user={who}", "--format=%i|%T|%j|%r"])
    if done.returncode != 0:
        raise NoAnswer(words(done.stderr) or f"squeue ended with {done.returncode}")
    return Queue([job for line in done.stdout.splitlines() if (job := parse_squeue_line(line)) is not None])


def parse_squeue_line(line: str) -> Job | None:
    """`%i|%T|%j|%r`: `12|RUNNING|name|None`, `12_3|...`, `12_[4-9%2]|PENDING|...`; None for anything else."""
    parts = line.strip().split("|", 3)
    if len(parts) != 4:
        return None
    identifier, state, name, reason = parts
    match = re.fullmatch(r"(\d+)(?:\+\d+)?(?:_(\d+|\[[^\]]*\]))?", identifier)
    if match is None or state in ENDED:
        return None
    tasks = parse_tasks(match[2]) if match[2] else None
    throttle = re.search(r"%(\d+)\]$", match[2] or "")
    return Job(match[1], tasks, state, name, reason, int(throttle[1]) if throttle else None)


def parse_tasks(text: str) -> tuple[int, ...]:
    """`3`, `[2-9%4]`, `[1,3,5-7]`, `[0-8:2]` -> the task numbers."""
    tasks: list[int] = []
    for part in text.strip("[]").split("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if match is not None:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            tasks.extend(range(first, last + 1, step))
    return tuple(tasks)


#: sbatch's words after which a job may exist all the same: the request went out and its answer was lost.
_LOST_ANSWER = re.compile(
    r"timed out|zero bytes|unexpected message|i/o error|connection reset|broken pipe|receive failure|shutdown failure",
    re.IGNORECASE,
)


def sbatch(script: Path, *options: str, carry: Sequence[str] = ()) -> str:
    """Submit a script, with these options on top of its own, and return the job's id.

    The script's options are given on the command line too: there they win over SBATCH_* variables, which win over the
    script. With SBATCH_JOB_NAME set, the job would not be found again by the launch's name.

    Parameters
    ----------
    carry: names of variables that the job gets, also where --export or SBATCH_EXPORT (NONE, at whole sites) leaves them
        out. Names only: an argument list is seen by everybody.

    Raises
    ------
    Refused: with Slurm's words; nothing was queued
    Unclear: the answer was lost
    """
    require()
    try:
        given, exported = carrying([*script_options(script.read_text()), *options], os.environ, carry)
        done = _run(["sbatch", "--parsable", *given, str(script)], more=exported)
    except NoAnswer as error:
        raise Unclear(str(error)) from error
    match = re.search(r"^(\d+)(?:;\S+)?\s*$", done.stdout, re.MULTILINE)
    if done.returncode == 0 and match:
        return match[1]
    said = words(done.stderr or done.stdout) or f"exit code {done.returncode}"
    if done.returncode <= 0 or _LOST_ANSWER.search(said):  # below 0: sbatch was killed by a signal
        raise Unclear(said)
    raise Refused(f"sbatch: {said}", *remedy(said), code=4 if out_of_reach(said) else 3)


def carrying(
    options: Sequence[str], environ: Mapping[str, str], names: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """sbatch's options, and what its environment has to have besides, with which a job gets these variables.

    An option wins over SBATCH_EXPORT. What either says stays, and the names are added to it.
    """
    typed = [n for n, option in enumerate(options) if option.startswith("--export=")]
    if typed:
        given = list(options)
        given[typed[-1]] = "--export=" + _exporting(options[typed[-1]].removeprefix("--export="), names)
        return given, {}
    said = environ.get("SBATCH_EXPORT")
    return list(options), {} if said is None else {"SBATCH_EXPORT": _exporting(said, names)}


def _exporting(said: str, names: Sequence[str]) -> str:
    listed = [] if said.upper() in ("NONE", "NIL") else said.split(",")
    missing = [name for name in names if name not in {item.partition("=")[0] for item in listed}]
    return said if "ALL" in said.upper().split(",") or not missing else ",".join([*listed, *missing])


#: A word of sbatch's refusal -> (why, what to type); the first that fits.
REMEDIES = (
    (
        "violates accounting",
        "a limit of your account or QOS: jobs queued, size or time",
        "the same command when some of your jobs have ended, or smaller arrays: slurm.max_array=N; "
        "`sacctmgr show qos` has the limits",
    ),
    (
        "configuration source",
        "this host has sbatch, and no cluster that it belongs to",
        "launch from a login node of the cluster, or set SLURM_CONF",
    ),
    ("account", "you may not charge that account", "site.account=NAME; `sacctmgr show assoc user=$USER` lists yours"),
    ("partition", "the partition is not there, or not for you", "site.partition=NAME; `sinfo -s` lists them"),
    ("qos", "that QOS is not yours to use", "site.qos=NAME; `sacctmgr show assoc user=$USER format=qos`"),
    ("time limit", "the partition does not allow this time", "hydra.launcher.timeout_min=N (minutes)"),
    ("node configuration", "no node there has these resources", "another cluster= or site.partition=; `sinfo -N -l`"),
    ("node count", "the partition has too few nodes", "another cluster= or site.partition=; `sinfo -s`"),
    (
        "contact slurm controller",
        "the controller is down or out of reach",
        "the same command later: nothing was queued",
    ),
    (
        "dependency",
        "Slurm does not know the job that it has to wait for, or has forgotten it",
        "after= without it: a job that has ended has to be waited for no more",
    ),
    (
        "array",
        "the array is larger than this site allows",
        "slurm.max_array=N; `scontrol show config | grep MaxArraySize`",
    ),
    ("gres", "no such GPUs there", "site.partition=NAME or hydra.launcher.gres=gpu:TYPE:N; `sinfo -o '%P %G'`"),
)


def out_of_reach(said: str) -> bool:
    """Whether Slurm's words say that it could not be asked, rather than no."""
    return bool(
        re.search(r"contact slurm|configuration source|connect", said, re.IGNORECASE) or _LOST_ANSWER.search(said)
    )


def remedy(said: str) -> tuple[str, str]:
    """Why Slurm refuses with these words, and what to type instead."""
    low = said.lower()
    for word, why, fix in REMEDIES:
        if word in low:
            return why, fix
    return "Slurm refused the job", "look at the script with dry_run=true and change the setting it names"


def words(text: str) -> str:
    """Slurm's message without its prefixes, on one line."""
    lines = [re.sub(r"^(s[a-z]+): ((error|fatal): )?", "", s).strip() for s in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))


def script_options(text: str) -> list[str]:
    """The options of a batch script's #SBATCH lines, as sbatch takes them on its command line."""
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line)]


@dataclass(frozen=True)
class Ended:
    """A row of sacct: how a job or array task ended. `state` may have more words ("CANCELLED by 1001")."""

    state: str
    exit_code: str
    nodes: str = ""


def accounting(jobs: Iterable[str], names: Mapping[str, str] | None = None, requeued: bool = False) -> dict[str, Ended]:
    """`12` or `12_3` -> its end as sacct has it, in one call; empty where there is no accounting.

    sacct is asked only to say why: nothing is decided on it alone, so its absence is no error.

    Parameters
    ----------
    names: job -> its name, where known: Slurm uses its numbers again, and another job of that number is not meant
    requeued: an incarnation that was started again counts as an end too (state REQUEUED)
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    numbers = sorted({int(number) for job in wanted if (number := job.partition("_")[0]).isdigit()})
    ids = ",".join(map(str, numbers[-MOST_ASKED:]))
    try:
        done = _run(["sacct", "-X", "-n", "-P", "-D", "-j", ids, "--format=JobID,State,ExitCode,NodeList,JobName"])
    except NoAnswer:
        return {}
    ended = ENDED | {"REQUEUED"} if requeued else ENDED
    found = parse_accounting(done.stdout if done.returncode == 0 else "", names or {}, ended)
    return {job: found[job] for job in wanted if job in found}


#: Most jobs that sacct is asked about, the newest: its argument must not become longer than the kernel takes (128 KiB).
MOST_ASKED = 8000
#: What accounting calls a job that was cancelled before Slurm had written its name down.
NAMELESS = "allocation"


def parse_accounting(text: str, names: Mapping[str, str], ended: Container[str] = ENDED) -> dict[str, Ended]:
    """Lines of sacct -D, `JobID|State|ExitCode|NodeList|JobName`: each job's newest end, if its name is right.

    Parameters
    ----------
    ended: the states that are an end
    """
    found: dict[str, Ended] = {}
    for line in text.splitlines():
        parts = line.split("|", 4)
        if len(parts) < 5 or not parts[1] or parts[1].split()[0] not in ended:
            continue
        job, state, exit_code, nodes, name = parts
        if name in (names.get(job, name), NAMELESS):
            found[job] = Ended(state, exit_code, nodes)  # later rows are later incarnations
    return found


def scancel(jobs: Sequence[str]) -> None:
    """Cancel jobs (`12`, `12_3`) in one call. Jobs that ended meanwhile are no error.

    Raises
    ------
    UserError: Slurm's words
    """
    try:
        done = _run(["scancel", *jobs])
        said = "" if done.returncode == 0 else words(done.stderr)
    except NoAnswer as error:
        said = str(error)
    if said and "already completing or completed" not in said.lower():
        raise UserError(f"scancel: {said}", "Slurm did not take the request", "the same command again", code=4)


def cancel_waiting(jobs: Sequence[str]) -> str:
    """Cancel what waits of these jobs and arrays, and nothing that runs; what went wrong, or nothing."""
    if not jobs:
        return ""
    try:
        done = _run(["scancel", "--state=PENDING", *jobs])
    except NoAnswer as error:
        return str(error)
    return "" if done.returncode == 0 else words(done.stderr) or f"scancel ended with {done.returncode}"


def array_limit() -> int:
    """How many tasks one job array may have at this site. Raises NoAnswer."""
    done = _run(["scontrol", "show", "config"])
    limit = parse_array_limit(done.stdout) if done.returncode == 0 else None
    if limit is None:
        raise NoAnswer(words(done.stderr) or "scontrol show config has no MaxArraySize")
    return limit


def parse_array_limit(text: str) -> int | None:
    """The smallest of the limits in `scontrol show config`; None where there is none.

    MaxArraySize caps the index, which starts at 0; 0 means no arrays at all, and a plain job is one task.
    """
    if re.search(r"^MaxArraySize\s*=\s*\d+", text, re.MULTILINE) is None:
        return None
    limits = r"^MaxArraySize\s*=\s*(\d+)|^MaxJobCount\s*=\s*(\d+)|\bmax_array_tasks=(\d+)"
    return max(1, min(int("".join(found)) for found in re.findall(limits, text, re.MULTILINE)))


def kill_wait(timeout_s: float) -> float | None:
    """Seconds from the SIGTERM with which the cluster ends a job to its SIGKILL; None where Slurm does not say."""
    try:
        done = _run(["scontrol", "show", "config"], timeout_s)
    except NoAnswer:
        return None
    return parse_kill_wait(done.stdout) if done.returncode == 0 else None


def parse_kill_wait(text: str) -> float | None:
    """KillWait in `scontrol show config`, seconds."""
    found = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    return float(found[1]) if found else None


def throttle(array: str, tasks: int) -> str:
    """Have a job array run at most this many (above 0) tasks at once; what went wrong, or nothing."""
    try:
        done = _run(["scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={tasks}"])
    except NoAnswer as error:
        return str(error)
    if done.returncode == 0:
        return ""
    # Of an array that has begun, it names each part: `16_0: Job has already finished`, `16_1-4: No error`.
    said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    fine = ("no error", "already finished", "already completing or completed", "invalid job id")
    wrong = [line for line in said if not any(word in line.lower() for word in fine)]
    return words("\n".join(wrong)) if wrong or said else f"scontrol ended with {done.returncode}"


@dataclass(frozen=True)
class Control:
    """What slurmctld says of a job that is running, or is being ended.

    Parameters
    ----------
    restarts: how often it was started again; it grows the moment that Slurm decides to start the job again
    preempted: it is being preempted
    reason: Slurm's reason, `TimeLimit` for a job that is ended for that
    excluded: the nodes that it must not get, as Slurm writes lists of them
    partition, nodes: where it runs, and on how many nodes
    throttle: of its array; None where there is none
    """

    restarts: int
    preempted: bool
    reason: str = ""
    excluded: str = ""
    partition: str = ""
    nodes: int = 1
    throttle: int | None = None


def control(job: str, timeout_s: float = TIMEOUT_S) -> Control:
    """One job (`12`, `12_3`), from scontrol. Raises NoAnswer."""
    done = _run(["scontrol", "--all", "--oneliner", "show", "job", job], timeout_s)
    if done.returncode != 0 or not done.stdout.strip():
        raise NoAnswer(words(done.stderr) or f"scontrol ended with {done.returncode}")
    return parse_control(done.stdout)


def parse_control(text: str) -> Control:
    """A line of `scontrol --oneliner show job`."""
    fields = dict(re.findall(r"(\w+)=(\S*)", text.splitlines()[0]))
    preempted, excluded = fields.get("PreemptTime", "None"), fields.get("ExcNodeList", "")
    return Control(
        _whole(fields.get("Restarts", ""), 0),
        preempted not in ("None", "Unknown", ""),
        fields.get("Reason", ""),
        "" if excluded == "(null)" else excluded,
        fields.get("Partition", ""),
        _whole(fields.get("NumNodes", "").partition("-")[0], 1),
        _whole(fields.get("ArrayTaskThrottle", ""), 0) or None,
    )


def _whole(text: str, default: int) -> int:
    return int(text) if text.isdigit() else default


def requeue(job: str, timeout_s: float = TIMEOUT_S) -> None:
    """Have Slurm start a running job again: it is ended and waits in the queue anew. Called from inside of it.

    Raises
    ------
    NoAnswer: the controller cannot be reached
    UserError: Slurm refused
    """
    done = _run(["scontrol", "requeue", job], timeout_s)
    said = words(done.stderr)
    if done.returncode == 0 or "pending" in said.lower():  # pending: Slurm had decided so already
        return
    if _LOST_ANSWER.search(said) or "contact" in said.lower():
        raise NoAnswer(said)
    raise UserError(f"scontrol requeue {job}: {said}", "Slurm does not start the job again", "nano-exp retry")


def without(known: Control, node: str) -> str:
    """The list of nodes that a running job must not get any more, with `node` in it.

    Raises
    ------
    NoAnswer: the controller cannot be reached
    UserError: without the node the partition is too small
    """
    excluded = ",".join(filter(None, [known.excluded, node]))
    there = _run(["sinfo", "--noheader", f"--partition={known.partition}", "--format=%D"])
    if there.returncode != 0:
        raise NoAnswer(words(there.stderr) or f"sinfo ended with {there.returncode}")
    count = sum(_whole(word, 0) for word in there.stdout.split())
    if count - len(hostnames(excluded)) < known.nodes:
        raise UserError(
            f"partition {known.partition} has {count} nodes, and the run needs {known.nodes}",
            f"without {excluded} it would wait for ever",
            "another partition: nano-exp retry RUN hydra.launcher.partition=NAME",
        )
    return excluded


def exclude(job: str, nodes: str) -> str:
    """Have a job that waits in the queue not get these nodes; what went wrong, or nothing."""
    return _update(job, f"ExcNodeList={nodes}")


def depend(job: str, terms: Sequence[str]) -> str:
    """Have a job, task or array that waits in the queue wait for these (`afterok:12`); what went wrong, or nothing.

    They take the place of what it waited for before.
    """
    return _update(job, f"Dependency={','.join(terms)}")


def _update(job: str, setting: str) -> str:
    """Change a waiting job.

    A job that requeued itself waits there while it still lives, and is being ended: this very command may be killed by
    the signal that all of its processes get, and is then given again.
    """
    said = ""
    for _ in range(5):
        try:
            changed = _run(["scontrol", "update", f"JobId={job}", setting])
        except NoAnswer as error:
            return str(error)
        if changed.returncode == 0:
            return ""
        said = words(changed.stderr) or f"scontrol ended with {changed.returncode}"
    return said


def end_time(job: str) -> float | None:
    """Unix time at which a running job's time limit ends it, from squeue; None when there is no limit or no answer."""
    try:
        done = _run(["squeue", "--all", "--noheader", "--jobs", job, "--format=%e"])
    except NoAnswer:
        return None
    text = done.stdout.strip().splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def hostnames(nodelist: str) -> list[str]:
    """`mini[1-2],gpu07` -> each node's name, in Slurm's order; scontrol expands it without asking the controller.

    Raises
    ------
    UserError: scontrol is not there or does not understand the list
    """
    if not nodelist:
        return []
    try:
        done = _run(["scontrol", "show", "hostnames", nodelist])
        said = words(done.stderr) if done.returncode else ""
    except NoAnswer as error:
        said = str(error)
    if said:
        raise UserError(f"scontrol show hostnames {nodelist}: {said}", "the nodes' names are needed", "see Slurm's log")
    return done.stdout.split()
