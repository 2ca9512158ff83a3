"""What is changed of jobs that exist: cancelled, throttled, started again, made to wait or kept off nodes."""

from __future__ import annotations

from collections.abc import Sequence

from nano_exp.errors import UserError
from nano_exp.slurm import client
from nano_exp.slurm.client import TIMEOUT_S, NoAnswer


def scancel(jobs: Sequence[str]) -> None:
    """Cancel jobs (`12`, `12_3`) in one call. Jobs that ended meanwhile are no error.

    Raises
    ------
    UserError: Slurm's words
    """
    try:
        done = client.run(["scancel", *jobs])
        message = "" if done.returncode == 0 else client.words(done.stderr)
    except NoAnswer as error:
        message = str(error)
    if message and "already completing or completed" not in message.lower():
        raise UserError(f"scancel: {message}", "Slurm did not take the request", "the same command again", code=4)


def cancel_waiting(jobs: Sequence[str]) -> str:
    """Cancel what waits of these jobs and arrays, and nothing that runs; what went wrong, or nothing."""
    if not jobs:
        return ""
    try:
        done = client.run(["scancel", "--state=PENDING", *jobs])
    except NoAnswer as error:
        return str(error)
    return "" if done.returncode == 0 else client.words(done.stderr) or f"scancel ended with {done.returncode}"


def throttle(array: str, tasks: int) -> str:
    """Have a job array run at most this many (above 0) tasks at once; what went wrong, or nothing."""
    try:
        done = client.run(["scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={tasks}"])
    except NoAnswer as error:
        return str(error)
    if done.returncode == 0:
        return ""
    # Of an array that has begun, it names each part: `16_0: Job has already finished`, `16_1-4: No error`.
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    fine = ("no error", "already finished", "already completing or completed", "invalid job id")
    wrong = [line for line in lines if not any(word in line.lower() for word in fine)]
    return client.words("\n".join(wrong)) if wrong or lines else f"scontrol ended with {done.returncode}"


def requeue(job: str, timeout_s: float = TIMEOUT_S) -> None:
    """Have Slurm start a running job again: it is ended and waits in the queue anew. Called from inside of it.

    Raises
    ------
    NoAnswer: the controller cannot be reached
    UserError: Slurm refused
    """
    done = client.run(["scontrol", "requeue", job], timeout_s)
    message = client.words(done.stderr)
    if done.returncode == 0 or "pending" in message.lower():  # pending: Slurm had decided so already
        return
    if client.LOST_ANSWER.search(message) or "contact" in message.lower():
        raise NoAnswer(message)
    raise UserError(f"scontrol requeue {job}: {message}", "Slurm does not start the job again", "nano-exp retry")


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
    message = ""
    for _ in range(5):
        try:
            changed = client.run(["scontrol", "update", f"JobId={job}", setting])
        except NoAnswer as error:
            return str(error)
        if changed.returncode == 0:
            return ""
        message = client.words(changed.stderr) or f"scontrol ended with {changed.returncode}"
    return message
