"""What a run's state asks of its user: one short thing to type, or that it goes on by itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nano_exp.store.state import PROMOTED, State

#: Slurm's reasons for which a job never starts by itself -> what to type, with the run and its job.
BLOCKED = {
    "JobHeldUser": "scontrol release {job}",
    "JobHeldAdmin": "held by an administrator; ask them, or nano-exp cancel {run}",
    "job requeued in held state": "scontrol release {job}",
    "launch failed requeued held": "scontrol release {job}",
    "DependencyNeverSatisfied": "nano-exp cancel {run}: what it waits for will not come",
    "BadConstraints": "nano-exp cancel {run}, then nano-exp retry with another hydra.launcher.constraint",
    "PartitionTimeLimit": "nano-exp cancel {run}, then nano-exp retry {run} hydra.launcher.timeout_min=N",
    "PartitionNodeLimit": "nano-exp cancel {run}: the partition has too few nodes",
    "InvalidAccount": "nano-exp cancel {run}, then nano-exp retry {run} hydra.launcher.account=NAME",
    "InvalidQOS": "nano-exp cancel {run}, then nano-exp retry {run} hydra.launcher.qos=NAME",
}
#: Slurm's states that wait until somebody releases the job.
HELD = ("requeue_hold", "special_exit", "resv_del_hold")


def advice(run: str, now: State, diagnosis: Mapping[str, Any], goes_on: bool, stalled: bool) -> str:
    """The next thing to do about a run; "" where there is none.

    Parameters
    ----------
    diagnosis: of its last attempt's failure; empty where there is none
    goes_on: Slurm was asked to start it again after that attempt
    stalled: its watchdog sees no new steps
    """
    kind = now.kind
    if kind == "pending":
        step = "scontrol release {job}" if now.why in HELD else BLOCKED.get(now.why.replace("_", " "), "")
        step = step or BLOCKED.get(now.why, "")
        if not step and goes_on:
            return "starts again by itself"
        return step.format(run=run, job=now.job)
    if kind == "running":
        return f"nano-exp logs {run}" if stalled else ""
    if kind == "failed":
        remedy = str(diagnosis.get("remedy") or "")
        if diagnosis.get("fault") == "infrastructure" or not (diagnosis or remedy):
            return f"nano-exp retry {run}" if diagnosis else f"nano-exp logs {run}"
        return f"fix: {remedy}" if remedy else f"nano-exp logs {run}"
    if kind == "frozen":
        return f"sbatch it, or nano-exp retry {run}"
    if kind == "unstarted" and now.why.startswith(PROMOTED):
        return f"goes on by itself as another run of its study ends, or: nano-exp promote {run}"
    if kind in ("stopped", "lost", "unstarted", "cancelled", "refused"):
        return f"nano-exp retry {run}"
    if kind == "paused":
        return f"to go on: nano-exp promote {run}"
    if kind == "ended early":
        return f"to go on: nano-exp retry {run} stop=off"
    if kind == "budget":
        return f"nano-exp retry {run} budget=GPU-HOURS, with more of them"
    if kind == "unknown":
        host = now.job.rpartition(":")[0]
        return f"look on {host}" if host else "the same again when Slurm answers"
    if kind == "damaged":
        return "launch it again with fresh=true"
    return ""


#: Slurm's word for how a job ended -> in words.
ENDS = {
    "BOOT_FAIL": "its node did not boot",
    "CANCELLED": "cancelled",
    "COMPLETED": "its job ended without an end of the attempt",
    "DEADLINE": "its deadline passed",
    "FAILED": "its batch script failed",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "out of host memory",
    "PREEMPTED": "preempted",
    "REVOKED": "revoked by its cluster",
    "TIMEOUT": "ended by its time limit",
}


def ending(state: str, exit_code: str, nodes: str, user: str) -> str:
    """How a job ended that left no word, from sacct's columns.

    Parameters
    ----------
    state: OUT_OF_MEMORY, `CANCELLED by 1001`, ...
    user: the name of the user in it, where there is one
    """
    word = state.split()[0]
    words = ENDS.get(word, word.lower().replace("_", " "))
    if word == "CANCELLED" and " by " in state:
        words += f" by {user or 'uid ' + state.rsplit(' ', 1)[-1]}"
    if word == "FAILED" and exit_code not in ("", "0:0"):
        words += f" (exit code {exit_code})"
    if word in ("NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL") and nodes not in ("", "None assigned"):
        words += f" on {nodes}"
    return f"{words} ({word})" if word not in ("CANCELLED", "FAILED", "COMPLETED") else words
