"""What can be seen of a cluster from its login node: the words of its commands, as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import slurm
from nano_exp.nemo_rl import checkout as checkouts
from nano_exp.preflight import answers

TIMEOUT_S = 10.0
#: Variables that say where a user's large files belong.
FOLDERS = ("HF_HOME", "SCRATCH", "WORK", "PSCRATCH", "CSCRATCH", "PROJECT", "PROJWORK", "DATA")
TOOLS = ("apptainer", "singularity", "enroot", "uv", "lfs", "quota", "mmlsquota")


@dataclass(frozen=True)
class Look:
    """The words of a cluster's commands; empty for one that is not there or does not answer.

    Parameters
    ----------
    config: scontrol show config
    partitions: scontrol --oneliner show partition
    nodes: sinfo with preflight's format
    associations, qos: sacctmgr with preflight's formats
    user: sacctmgr show user, the default account
    default_qos: sacctmgr show assoc, account and default QOS
    srun_help: srun --help, where plugins add their options
    modules: module --terse avail
    tests: a probe of sbatch --test-only -> Slurm's words where it was refused, "" where it was taken
    tools: programs on PATH
    variables: of FOLDERS
    mounts: /proc/self/mounts
    quota: what quota, lfs quota or mmlsquota say
    home: the user's
    checkouts, images: NeMo RL checkouts and container images that were found
    writable: folders that the user may write to, of those that are likely
    groups: the user's
    name: the user's
    here: the folder that runs are launched from, which every node has to see
    """

    config: str = ""
    partitions: str = ""
    nodes: str = ""
    associations: str = ""
    qos: str = ""
    user: str = ""
    default_qos: str = ""
    srun_help: str = ""
    modules: str = ""
    tests: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    mounts: str = ""
    quota: str = ""
    home: str = ""
    checkouts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    name: str = ""
    here: str = ""


def looked() -> Look:
    """Ask everything at the same time."""
    user = slurm.this_user()
    sacctmgr = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show"]
    asked = {
        "config": ["scontrol", "show", "config"],
        "partitions": ["scontrol", "--oneliner", "show", "partition"],
        "nodes": ["sinfo", "--all", "--noheader", "--exact", f"--format={answers.SINFO}"],
        "associations": [*sacctmgr, "assoc", f"user={user}", f"format={answers.ASSOCIATIONS}"],
        "default_qos": [*sacctmgr, "assoc", f"user={user}", "format=account,defaultqos"],
        "qos": [*sacctmgr, "qos", f"format={answers.QOS}"],
        "user": [*sacctmgr, "user", user, "format=defaultaccount"],
        "srun_help": ["srun", "--help"],
    }
    variables = {name: value for name in FOLDERS if (value := os.environ.get(name))}
    home = str(Path.home())
    with ThreadPoolExecutor(len(asked) + 3) as pool:
        words: dict[str, Any] = {name: pool.submit(_slurm, argv) for name, argv in asked.items()}
        modules = pool.submit(_shell, ["bash", "-lc", "module --terse avail 2>&1"])
        quota = pool.submit(_shell, ["bash", "-lc", "quota -s 2>/dev/null"])
        roots = likely(variables, home, user)
        found = pool.submit(_found, roots)
        checkouts_there, images = found.result()
        return Look(
            **{name: future.result() for name, future in words.items()},
            modules=modules.result(),
            tools=tuple(name for name in TOOLS if shutil.which(name)),
            variables=variables,
            mounts=_read("/proc/self/mounts"),
            quota=quota.result(),
            home=home,
            checkouts=checkouts_there,
            images=images,
            writable=tuple(str(path) for path in roots if os.access(path, os.W_OK)),
            groups=_groups(),
            name=user,
            here=str(Path.cwd()),
        )


def likely(variables: Mapping[str, str], home: str, user: str) -> list[Path]:
    """Folders where a user's large files are, at sites as they are; those that are there."""
    named = [value for name, value in variables.items() if name != "HF_HOME"]
    shared = [f"{root}/{user}" for root in ("/scratch", "/lustre", "/fsx", "/shared", "/data", "/gpfs")]
    return [path for text in dict.fromkeys([*named, *shared, home]) if (path := Path(text)).is_dir()]


def tested(partition: str, options: Sequence[str]) -> str:
    """Slurm's words where it would refuse such a job; empty where it would take it, or does not say."""
    argv = ["sbatch", "--test-only", "--nodes=1", "--time=10", *options, "--wrap=:"]
    if partition:
        argv.insert(2, f"--partition={partition}")
    try:
        done = slurm.ask(argv, TIMEOUT_S)
    except slurm.NoAnswer:
        return ""
    return answers.parse_test_only(done.returncode, done.stderr).refused


def _slurm(argv: Sequence[str]) -> str:
    try:
        done = slurm.ask(argv, TIMEOUT_S)
    except slurm.NoAnswer:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _shell(argv: Sequence[str]) -> str:
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _groups() -> tuple[str, ...]:
    import grp

    names = []
    for number in os.getgroups():
        try:
            names.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return tuple(names)


def _found(roots: Sequence[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Checkouts of NeMo RL, and images that are named for it, in these folders and one below."""
    checkouts_there, images = [], []
    for root in roots:
        for path in _two_levels(root):
            if path.suffix in (".sqsh", ".sif") and "nemo" in path.name.lower():
                images.append(str(path))
            elif (path / "nemo_rl").is_dir() and checkouts.read_checkout(path).version:
                checkouts_there.append(str(path))
    return tuple(dict.fromkeys(checkouts_there)), tuple(dict.fromkeys(images))


def _two_levels(root: Path) -> list[Path]:
    paths = []
    try:
        for path in sorted(root.iterdir())[:500]:
            paths.append(path)
            if path.is_dir() and not path.name.startswith("."):
                paths += sorted(path.iterdir())[:500]
    except OSError:
        pass
    return paths
