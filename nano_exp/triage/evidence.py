"""What is known of an attempt that ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nano_exp.triage.slurm_record import SlurmRecord


@dataclass(frozen=True)
class Evidence:
    """What an attempt left behind. Nothing here is read from anywhere: the caller read it.

    Parameters
    ----------
    stdout, stderr: the engine's output, whole or its end
    node_logs: node name -> what that node's Ray, dmesg or step printed
    exit_code: of the engine, 128 + n for signal n; None when nobody could see it
    slurm: what Slurm says of the job; None when it says nothing
    config: the frozen config, or NeMo RL's sections of it; may be empty
    stopped_by: the signal ("SIGTERM") that the attempt got and passed on, or ""
    addresses: IP address -> node name, where it is known; Ray names nodes by address
    stalled: the watchdog's words, where it ended the attempt
    logs_alone: nothing else is known, neither an exit code nor whether it failed at all
    full_disk: the path of the results where their disk is full: the logs then lack their last words; or ""
    """

    stdout: str = ""
    stderr: str = ""
    node_logs: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    slurm: SlurmRecord | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    stopped_by: str = ""
    addresses: Mapping[str, str] = field(default_factory=dict)
    stalled: str = ""
    full_disk: str = ""
    logs_alone: bool = False
