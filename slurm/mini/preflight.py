"""Everything that `up` needs of the machine, looked at before anything is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from .cluster import SLOTS, Cluster, at_slot
from .network import blockers, free_slot, own_slot

# program -> Debian package that brings it
PROGRAMS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "hostname": "hostname",
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
}
ACCOUNTING_PROGRAMS = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 27: "CAP_MKNOD"}
DISK_MB = 300  # the database takes 115 MB, logs and spool the rest
SOCKET_PATH_MAX = 107  # bytes, of a Unix socket's address


def which(program: str) -> str | None:
    """Where a program is; the sbin folders count even if a shell's PATH lacks them."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")


def missing_packages(accounting: bool) -> dict[str, str]:
    """program -> package, for the programs that are not there."""
    wanted = PROGRAMS | (ACCOUNTING_PROGRAMS if accounting else {})
    return {program: package for program, package in wanted.items() if which(program) is None}


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _state_problems(state: Path) -> list[str]:
    found = []
    if not re.fullmatch(r"[\w./+@-]+", str(state), re.ASCII):
        found.append(
            f"the state folder {state} has characters that slurm.conf cannot hold; choose another with --state"
        )
    if len(f"{state}/mariadb.socket") > SOCKET_PATH_MAX:
        found.append(f"the state folder {state} is too long for a Unix socket in it; choose a shorter one with --state")
    if state.is_dir() and any(state.iterdir()) and not (state / "cluster.json").exists():
        found.append(f"the folder {state} has files in it and is not a mini cluster's; choose another with --state")
    there = next((p for p in [state, *state.parents] if p.exists()), Path("/"))
    if not there.is_dir():
        found.append(f"{there} is not a folder, so {state} cannot be made; choose another with --state")
    elif not os.access(there, os.W_OK):
        found.append(f"{there} cannot be written to; choose another folder with --state")
    elif shutil.disk_usage(there).free < DISK_MB * 2**20:
        found.append(f"less than {DISK_MB} MB are free at {there}; choose another folder with --state")
    return found


def _kernel_problems() -> list[str]:
    trial = "ip link add b0 type bridge && ip link add v0 type veth peer name v1"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "sh", "-c", trial], capture_output=True, text=True)
    found = []
    if done.returncode != 0:
        found.append(f"this kernel or container allows no namespaces, bridges or veth pairs ({done.stderr.strip()})")
    if not re.search(r"^\S+ \S+ cgroup2? ", Path("/proc/mounts").read_text(), re.MULTILINE):
        found.append("no cgroup file system is mounted, and slurmd does not start without one")
    return found


def problems(cluster: Cluster) -> list[str]:
    """Everything in the way of `up`, one line each; empty when it can start."""
    found = []
    root = os.geteuid() == 0
    if not root:
        found.append(
            f"you are not root (user id {os.geteuid()}); network namespaces and Slurm's daemons need it: use sudo"
        )
    lacking = [name for bit, name in CAPABILITIES.items() if not _capabilities() >> bit & 1]
    if root and lacking:
        found.append(f"root lacks {', '.join(lacking)} here; in a container, start it with --privileged")
    missing = missing_packages(cluster.settings.accounting)
    if missing:
        packages = " ".join(dict.fromkeys(missing.values()))
        found.append(f"missing: {', '.join(missing)}; type: apt-get install -y --no-install-recommends {packages}")
    if root:
        found += _state_problems(cluster.state)
    if root and not lacking and not {"ip", "unshare"} & missing.keys():
        found += _kernel_problems()
    if "ip" not in missing and own_slot(cluster.state) is None and free_slot(cluster) is None:
        found += [f"none of the {SLOTS} slots is free; the first: {why}" for why in blockers(at_slot(cluster, 0))]
        found.append("choose another address range (--network 172.30.0.0/16), or take a cluster down")
    return found
