"""The one module that runs Slurm's commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_exp import project
from nano_exp.errors import UserError

#: How long one command may take, seconds. Slurm's own tools retry for about 10-20 s before they give up.
TIMEOUT_S = 60.0


class NoAnswer(Exception):
    """Slurm did not answer: nothing is known about any job."""


def available() -> bool:
    """Whether this host can submit at all."""
    return shutil.which("sbatch") is not None


def require() -> None:
    """Raises UserError where there is no sbatch, or nothing that tells it where its cluster is."""
    if not available():
        raise UserError(
            "no sbatch on PATH",
            "this cluster= is run by Slurm, and this host has no Slurm commands",
            f"launch from a login node (module load slurm?), or here without Slurm: {project.launcher()} cluster=local",
        )
    if problem := _unconfigured():
        raise UserError(
            problem,
            "Slurm's commands read the cluster's address there, and each of them looks for it for a minute",
            "SLURM_CONF=/path/of/the/cluster's/slurm.conf, or unset SLURM_CONF where the site needs none",
            code=4,
        )


def _unconfigured() -> str:
    path = os.environ.get("SLURM_CONF")
    return f"SLURM_CONF={path} does not exist" if path and not Path(path).exists() else ""


#: Slurm's variables that say where the cluster is; any other changes what is asked or sent.
_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"}
_DROPPED = ("SLURM_", "SLURMD_", "SQUEUE_", "SACCT_")


def client_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for Slurm's commands.

    SQUEUE_STATES would hide jobs from us, SLURM_TIME_FORMAT reword times, and the variables of a job that one launches
    from (SLURM_ARRAY_TASK_ID, SLURM_RESTART_COUNT, ...) reach the new job through sbatch, which then takes them for its
    own.
    """
    allowed = {k: v for k, v in environ.items() if k in _KEPT or not k.startswith(_DROPPED)}
    return {**allowed, "SLURM_BITSTR_LEN": "0"}


def ask(argv: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands that changes nothing.

    Raises
    ------
    NoAnswer: it is not there, or took too long
    """
    return run(argv, timeout_s)


def run(
    argv: Sequence[str], timeout_s: float = TIMEOUT_S, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands.

    Parameters
    ----------
    more: variables that it gets besides `client_environment`

    Raises
    ------
    NoAnswer: it is not there, or took too long
    """
    if problem := _unconfigured():
        raise NoAnswer(problem)
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


#: sbatch's words after which a job may exist all the same: the request went out and its answer was lost.
LOST_ANSWER = re.compile(
    r"timed out|zero bytes|unexpected message|i/o error|connection reset|broken pipe|receive failure|shutdown failure",
    re.IGNORECASE,
)


def words(text: str) -> str:
    """Slurm's message without its prefixes, on one line."""
    lines = [re.sub(r"^(s[a-z]+): ((error|fatal): )?", "", s).strip() for s in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
