"""What the controller says of one running job, of its nodes and of the cluster's limits, from scontrol and sinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nano_exp.errors import UserError
from nano_exp.slurm import client
from nano_exp.slurm.client import TIMEOUT_S, NoAnswer


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
    done = client.run(["scontrol", "--all", "--oneliner", "show", "job", job], timeout_s)
    if done.returncode != 0 or not done.stdout.strip():
        raise NoAnswer(client.words(done.stderr) or f"scontrol ended with {done.returncode}")
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


def array_limit() -> int:
    """How many tasks one job array may have at this site. Raises NoAnswer."""
    done = client.run(["scontrol", "show", "config"])
    limit = parse_array_limit(done.stdout) if done.returncode == 0 else None
    if limit is None:
        raise NoAnswer(client.words(done.stderr) or "scontrol show config has no MaxArraySize")
    return limit


def parse_array_limit(text: str) -> int | None:
    """The smallest of the limits in `scontrol show config`; None where there is none.

    MaxArraySize caps the index, which starts at 0; 0 means no arrays at all, and a plain job is one task.
    """
    if re.search(r"^MaxArraySize\s*=\s*\d+", text, re.MULTILINE) is None:
        return None
    limits = r"^MaxArraySize\s*=\s*(\d+)|^MaxJobCount\s*=\s*(\d+)|\bmax_array_tasks=(\d+)"
    return max(1, min(int("".join(groups)) for groups in re.findall(limits, text, re.MULTILINE)))


def kill_wait(timeout_s: float) -> float | None:
    """Seconds from the SIGTERM with which the cluster ends a job to its SIGKILL; None where Slurm does not say."""
    try:
        done = client.run(["scontrol", "show", "config"], timeout_s)
    except NoAnswer:
        return None
    return parse_kill_wait(done.stdout) if done.returncode == 0 else None


def parse_kill_wait(text: str) -> float | None:
    """KillWait in `scontrol show config`, seconds."""
    match = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    return float(match[1]) if match else None


def without(known: Control, node: str) -> str:
    """The list of nodes that a running job must not get any more, with `node` in it.

    Raises
    ------
    NoAnswer: the controller cannot be reached
    UserError: without the node the partition is too small
    """
    excluded = ",".join(filter(None, [known.excluded, node]))
    there = client.run(["sinfo", "--noheader", f"--partition={known.partition}", "--format=%D"])
    if there.returncode != 0:
        raise NoAnswer(client.words(there.stderr) or f"sinfo ended with {there.returncode}")
    count = sum(_whole(word, 0) for word in there.stdout.split())
    if count - len(hostnames(excluded)) < known.nodes:
        raise UserError(
            f"partition {known.partition} has {count} nodes, and the run needs {known.nodes}",
            f"without {excluded} it would wait forever",
            "another partition: nano-exp retry RUN hydra.launcher.partition=NAME",
        )
    return excluded


def hostnames(nodelist: str) -> list[str]:
    """`mini[1-2],gpu07` -> each node's name, in Slurm's order; scontrol expands it without asking the controller.

    Raises
    ------
    UserError: scontrol is not there or does not understand the list
    """
    if not nodelist:
        return []
    try:
        done = client.run(["scontrol", "show", "hostnames", nodelist])
        problem = client.words(done.stderr) if done.returncode else ""
    except NoAnswer as error:
        problem = str(error)
    if problem:
        raise UserError(
            f"scontrol show hostnames {nodelist}: {problem}",
            "the run needs the names of its nodes",
            f"scontrol show hostnames {nodelist}   (on this host, until it answers)",
        )
    return done.stdout.split()
