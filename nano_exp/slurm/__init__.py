"""Slurm: what it is asked and told, and what its answers mean. `client` alone runs its commands."""

from __future__ import annotations

from nano_exp.slurm.changes import cancel_waiting, depend, exclude, requeue, scancel, throttle
from nano_exp.slurm.client import TIMEOUT_S, NoAnswer, ask, available, require, words
from nano_exp.slurm.sacct import MOST_ASKED, Ended, accounting, parse_accounting
from nano_exp.slurm.scontrol import (
    Control,
    array_limit,
    control,
    hostnames,
    kill_wait,
    parse_array_limit,
    parse_control,
    parse_kill_wait,
    without,
)
from nano_exp.slurm.squeue import ENDED, WAITING, Job, Queue, end_time, parse_squeue_line, parse_tasks, queue, this_user
from nano_exp.slurm.submission import Refused, Unclear, carrying, out_of_reach, remedy, sbatch, script_options
from nano_exp.slurm.usage import Usage, parse_usage, usage

__all__ = [
    "ENDED",
    "MOST_ASKED",
    "TIMEOUT_S",
    "WAITING",
    "Control",
    "Ended",
    "Job",
    "NoAnswer",
    "Queue",
    "Refused",
    "Unclear",
    "Usage",
    "accounting",
    "array_limit",
    "ask",
    "available",
    "cancel_waiting",
    "carrying",
    "control",
    "depend",
    "end_time",
    "exclude",
    "hostnames",
    "kill_wait",
    "out_of_reach",
    "parse_accounting",
    "parse_array_limit",
    "parse_control",
    "parse_kill_wait",
    "parse_squeue_line",
    "parse_tasks",
    "parse_usage",
    "queue",
    "remedy",
    "requeue",
    "require",
    "sbatch",
    "scancel",
    "script_options",
    "this_user",
    "throttle",
    "usage",
    "without",
    "words",
]
