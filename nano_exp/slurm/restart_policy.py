"""Whether a run goes on by itself after an attempt: a pure function of how the attempt ended and of those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nano_exp import slurm

#: What a signal that reached an attempt meant: the allocation's time limit, a preemption that does not requeue by
#: itself, Slurm starting the job again (scontrol requeue, preemption, node failure), or somebody's scancel. "" where
#: it cannot be told, and where no signal came.
Stopped = Literal["", "time_limit", "preempted", "slurm", "cancelled"]


#: So many attempts in a row that stall in one phase and save nothing are enough: the next would stall there too.
SAME_STALLS = 2


@dataclass(frozen=True)
class Limits:
    """The `slurm` section's word on going on.

    Parameters
    ----------
    requeue: whether a run goes on by itself at all
    attempts: at most this many attempts of one submission
    idle: at most this many attempts in a row that save no new step
    """

    requeue: bool = True
    attempts: int = 100
    idle: int = 3

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Limits:
        """From the config; what is not there (a run frozen before) has the default."""
        return cls(
            bool(section.get("requeue", cls.requeue)),
            int(section.get("max_attempts", cls.attempts)),
            int(section.get("max_idle_attempts", cls.idle)),
        )


@dataclass(frozen=True)
class Decision:
    """What happens next.

    Parameters
    ----------
    by: who starts the run again: "attempt" (it asks Slurm to), "slurm" (by itself), or "" for nobody
    why: the reason, one line
    avoid: a node that the next attempt should not get, or ""
    """

    by: Literal["", "attempt", "slurm"]
    why: str
    avoid: str = ""


def meaning(known: slurm.Control | None, own_restarts: int, deadline: float | None, now: float) -> Stopped:
    """What a SIGTERM inside a Slurm job meant.

    Parameters
    ----------
    known: the job as slurmctld has it now; None when it does not answer
    own_restarts: of this attempt's start
    deadline, now: unix times; the allocation's end, where it has one. Asked only where Slurm does not answer: the two
        clocks may differ
    """
    if known is None:
        return "time_limit" if deadline is not None and now >= deadline - 5 else ""
    if known.restarts > own_restarts:
        return "slurm"
    if known.reason == "TimeLimit":
        return "time_limit"
    return "preempted" if known.preempted else "cancelled"


def decide(
    end: Mapping[str, Any],
    stopped: Stopped,
    saved: Sequence[int | None],
    limits: Limits,
    attempts: int,
    same_stalls: int = 0,
) -> Decision:
    """Whether the run of an attempt in Slurm goes on.

    Parameters
    ----------
    end: its end: kind (done, stopped, failed, cancelled), and for a failure the diagnosis
    saved: for each attempt of the run, oldest first, this one included: how many new steps it saved; None: unknown
    attempts: how many of them belong to the newest submission
    same_stalls: how many in a row, this one included, were ended for a stall in the same phase
    """
    kind = end.get("kind")
    diagnosis = end.get("diagnosis") or {}
    if kind in ("done", "cancelled", "ended early", "paused") or stopped == "cancelled":
        return Decision("", "")
    if stopped == "slurm":
        return Decision("slurm", "Slurm starts it again")
    if kind == "stopped":
        if end.get("signal") and stopped not in ("time_limit", "preempted"):
            return Decision("", "")
        why = "preempted" if stopped == "preempted" else "time limit, with steps left"
    elif diagnosis.get("fault") == "infrastructure":
        why = f"a fault of the cluster: {diagnosis.get('title')}"
    else:
        return Decision("", "")
    if not limits.requeue:
        return Decision("", "slurm.requeue=false: it does not go on by itself")
    if attempts >= limits.attempts:
        return Decision("", f"{attempts} attempts were made (slurm.max_attempts={limits.attempts})")
    idle = 0
    for steps in reversed(saved):
        if steps is None or steps > 0:
            break
        idle += 1
    if min(idle, same_stalls) >= SAME_STALLS:
        return Decision("", f"{same_stalls} attempts in a row stalled at the same place and saved no new step")
    if idle >= limits.idle:
        return Decision("", f"{idle} attempts in a row saved no new step (slurm.max_idle_attempts={limits.idle})")
    return Decision("attempt", why, str(diagnosis.get("bad_node") or ""))
