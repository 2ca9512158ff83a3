"""What an attempt left behind, gathered for triage: its logs, its exit code, and Slurm's record of its job."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp import files, slurm, triage
from nano_exp.store import runs

#: Of each log's end, bytes: the lines that matter come last, after pages of the config and of progress.
WINDOW = 2 * 1024 * 1024
#: A disk with less free, bytes, is full: no checkpoint was ever that small.
FULL = 1024 * 1024


def diagnose(
    attempt_dir: Path,
    config: Mapping[str, Any],
    exit_code: int | None,
    record: triage.SlurmRecord | None = None,
    stalled: str = "",
) -> triage.Diagnosis:
    """Why an attempt failed.

    Parameters
    ----------
    exit_code: of the engine, 128 + n for signal n; None when nobody saw it
    record: Slurm's, where its accounting has one
    stalled: the watchdog's words, where it ended the attempt
    """
    logs = {path.stem: files.tail(path, WINDOW) for path in sorted((attempt_dir / "nodes").glob("*.log"))}
    evidence = triage.Evidence(
        stdout=files.tail(attempt_dir / "stdout.log", WINDOW),
        stderr=files.tail(attempt_dir / "stderr.log", WINDOW),
        node_logs=logs,
        exit_code=exit_code,
        slurm=record,
        config=config,
        stalled=stalled,
        full_disk=full_disk(attempt_dir),
    )
    return triage.diagnose(evidence)


def full_disk(folder: Path) -> str:
    """The folder where nothing can be written any more, or nothing."""
    try:
        return str(folder) if shutil.disk_usage(folder).free < FULL else ""
    except OSError:
        return ""


def slurm_record(job: str | None) -> triage.SlurmRecord | None:
    """The newest ended incarnation of a job as accounting has it; None without a job or without accounting."""
    ended = slurm.accounting([job], requeued=True).get(job) if job else None
    return triage.SlurmRecord.of(ended.state, ended.exit_code, ended.nodes) if ended else None


def lost(attempt: runs.Attempt, config: Mapping[str, Any], next_owner: runs.Owner) -> triage.Diagnosis:
    """Why an attempt vanished without a word: its node died, it was killed, or its time was over.

    Parameters
    ----------
    next_owner: of the attempt after it; the same job means that Slurm started it again, with or without accounting
    """
    job = attempt.owner.job if attempt.owner else None
    record = slurm_record(job)
    if record is None and job is not None and job == next_owner.job:
        record = triage.SlurmRecord("REQUEUED")
    return diagnose(attempt.dir, config, None, record=record)
