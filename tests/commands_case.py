"""Commands of a cluster that is not here: programs on PATH that say what they are told to."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The words of a cluster -> the command that says them, by a pattern of its arguments.
SAY = {
    "config": ("scontrol", "*show\\ config*"),
    "ping": ("scontrol", "ping"),
    "partitions": ("scontrol", "*show\\ partition*"),
    "nodes": ("sinfo", "*"),
    "default_qos": ("sacctmgr", "*defaultqos*"),
    "associations": ("sacctmgr", "*assoc*"),
    "qos": ("sacctmgr", "*qos*format=name*"),
    "user": ("sacctmgr", "*show\\ user*"),
    "srun_help": ("srun", "--help"),
    "srun": ("srun", "*--job-name*"),
    "sacct": ("sacct", "*"),
    "queue": ("squeue", "*"),
    "test": ("sbatch", "*--test-only*"),
    "cancel": ("scancel", "*"),
}
UP = "Slurmctld(primary) at head is UP"


def cluster(folder: Path, words: Mapping[str, Any], without: tuple[str, ...] = ()) -> None:
    """Write the commands.

    Parameters
    ----------
    words: by the names of SAY; `failing` has those that end with 1 and say theirs on stderr, `hangs` those that hang
    without: commands that are not there
    """
    folder.mkdir(exist_ok=True)
    failing = words.get("failing", {})
    commands: dict[str, list[str]] = {}
    for name, (command, pattern) in SAY.items():
        if name in failing:
            say = f"printf '%s\\n' {shlex.quote(failing[name])} >&2; exit 1"
        elif name in words.get("hangs", ()):
            say = "exec /bin/sleep 5"
        elif words.get(name):
            say = f"printf '%s\\n' {shlex.quote(str(words[name]).rstrip())}; exit 0"
        else:
            say = "exit 0" if name in ("queue", "sacct", "test", "cancel") and words else "exit 1"
        commands.setdefault(command, []).append(f"{pattern}) {say};;")
    for command, cases in commands.items():
        path = folder / command
        if command in without:
            path.unlink(missing_ok=True)
            continue
        path.write_text("\n".join(['#!/bin/sh\ncase "$*" in', *cases, "esac\nexit 1\n"]))
        path.chmod(0o755)
