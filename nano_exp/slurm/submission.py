"""sbatch: submit a script, and say what to type where Slurm refuses it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from nano_exp.errors import UserError
from nano_exp.slurm import client
from nano_exp.slurm.client import NoAnswer


class Refused(UserError):
    """Slurm refused the submission: certainly nothing was queued."""


class Unclear(UserError):
    """The answer to sbatch was lost: a job may or may not have been queued."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"sbatch: {message}",
            "the job may or may not have been queued",
            "the same command again: it asks Slurm first, by the launch's name, and submits only what is not there",
            code=4,
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
    client.require()
    try:
        arguments, exported = carrying([*script_options(script.read_text()), *options], os.environ, carry)
        done = client.run(["sbatch", "--parsable", *arguments, str(script)], more=exported)
    except NoAnswer as error:
        raise Unclear(str(error)) from error
    match = re.search(r"^(\d+)(?:;\S+)?\s*$", done.stdout, re.MULTILINE)
    if done.returncode == 0 and match:
        return match[1]
    message = client.words(done.stderr or done.stdout) or f"exit code {done.returncode}"
    if done.returncode <= 0 or client.LOST_ANSWER.search(message):  # below 0: sbatch was killed by a signal
        raise Unclear(message)
    raise Refused(f"sbatch: {message}", *remedy(message), code=4 if out_of_reach(message) else 3)


def carrying(
    options: Sequence[str], environ: Mapping[str, str], names: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """sbatch's options, and what its environment has to have besides, with which a job gets these variables.

    An option wins over SBATCH_EXPORT. What either says stays, and the names are added to it.
    """
    positions = [n for n, option in enumerate(options) if option.startswith("--export=")]
    if positions:
        changed = list(options)
        changed[positions[-1]] = "--export=" + _exporting(options[positions[-1]].removeprefix("--export="), names)
        return changed, {}
    exported = environ.get("SBATCH_EXPORT")
    return list(options), {} if exported is None else {"SBATCH_EXPORT": _exporting(exported, names)}


def _exporting(exported: str, names: Sequence[str]) -> str:
    listed = [] if exported.upper() in ("NONE", "NIL") else exported.split(",")
    missing = [name for name in names if name not in {item.partition("=")[0] for item in listed}]
    return exported if "ALL" in exported.upper().split(",") or not missing else ",".join([*listed, *missing])


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
    (
        "exclusive",
        "a job does not get its nodes alone there",
        "site.allocation=share: CPUs and memory for each of its GPUs",
    ),
    (
        "memory",
        "this much host memory is not given there; a whole node's is all of it (--mem=0)",
        "site.memory_gb=N, GiB a node; `scontrol show partition` has MaxMemPerNode",
    ),
    (
        "gres",
        "there are no such GPUs, or they are asked for in other words there",
        "site.gres=gpu (--gres=gpu:N), or gpu:TYPE as `sinfo -o '%P %G'` says; site.gres=none where Slurm has no GPUs",
    ),
    ("account", "you may not charge that account", "site.account=NAME; `sacctmgr show assoc user=$USER` lists yours"),
    ("partition", "there is no such partition, or you may not use it", "site.partition=NAME; `sinfo -s` lists them"),
    (
        "qos",
        "there is no such QOS, or you may not use it",
        "site.qos=NAME; `sacctmgr show assoc user=$USER format=qos`",
    ),
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
        "leave it out of after=: a job that has ended need not be waited for",
    ),
    (
        "array",
        "the array is larger than this site allows",
        "slurm.max_array=N; `scontrol show config | grep MaxArraySize`",
    ),
)


def out_of_reach(message: str) -> bool:
    """Whether Slurm's words say that it could not be asked, rather than no."""
    return bool(
        re.search(r"contact slurm|configuration source|connect", message, re.IGNORECASE)
        or client.LOST_ANSWER.search(message)
    )


def remedy(message: str) -> tuple[str, str]:
    """Why Slurm refuses with these words, and what to type instead."""
    low = message.lower()
    for word, why, fix in REMEDIES:
        if word in low:
            return why, fix
    return "Slurm refused the job", "look at the script with dry_run=true and change the setting it names"


def script_options(text: str) -> list[str]:
    """The options of a batch script's #SBATCH lines, as sbatch takes them on its command line."""
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    return [word for line in lines for word in shlex.split(line)]
