"""What a mini cluster is: settings, names, addresses, ports, configuration files. Nothing here starts anything."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from string import Template

NODES = ("mini1", "mini2")
GPUS = 8  # declared on each node
CPUS = 64  # declared on each node
ACCOUNT = "research"  # besides root's own account `root`; any other account is refused
SLOTS = 16  # clusters that fit side by side on one machine
FIRST_PORT = 16810  # below the ephemeral ports, which srun uses
TEMPLATES = Path(__file__).parent / "templates"

FAST_TIMERS = """\
# Short timers: a requeued job starts after 4-6 s, not 2-3 minutes; a lost node is down after 10-21 s, not 5 minutes.
SchedulerParameters=sched_interval=2,bf_interval=2
MinJobAge=30
KillWait=2
SlurmdTimeout=10
SlurmctldTimeout=5
BatchStartTimeout=5
MessageTimeout=5
TCPTimeout=1
"""


class Refused(Exception):
    """Something that cannot be done, told before anything was changed: what was found, why, what to type instead."""

    def __init__(self, found: str, why: str, fix: str) -> None:
        super().__init__(found)
        self.found, self.why, self.fix = found, why, fix

    def __str__(self) -> str:
        return f"error: {self.found}\n  why: {self.why}\n  fix: {self.fix}"


class Failed(Exception):
    """Something that went wrong on the way, with the last lines of the log that tells why."""


@dataclass(frozen=True)
class Settings:
    """What `up` was asked for; the cluster keeps it until `down`."""

    accounting: bool = True
    fast: bool = False
    max_array_size: int = 1001  # Slurm's default
    network: str = "10.77.0.0/16"

    def differences(self, other: Settings) -> list[str]:
        """Lines like `fast: it has False, you asked for True`, where `self` is what the cluster has."""
        return [
            f"{f.name}: it has {getattr(self, f.name)}, you asked for {getattr(other, f.name)}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]


@dataclass(frozen=True)
class Cluster:
    """One cluster: the state folder and the slot (0-15) give every name, address and port."""

    state: Path
    settings: Settings
    slot: int = 0

    @property
    def tag(self) -> str:
        return hashlib.sha1(str(self.state).encode()).hexdigest()[:8]

    @property
    def bridge(self) -> str:
        return f"minibr{self.slot}"

    def veth(self, node: str) -> str:
        return f"mc{self.slot}-{node}"

    def netns(self, node: str) -> str:
        """Named for the state folder, not the slot: `down` finds it when nothing else is left."""
        return f"minicluster-{self.tag}-{node}"

    def _host(self, number: int) -> str:
        return str(ipaddress.ip_network(self.settings.network)[self.slot * 256 + number])

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"{self._host(0)}/24")

    @property
    def address(self) -> str:
        """Of this machine on the bridge, where slurmctld and slurmdbd listen."""
        return self._host(254)

    def node_address(self, node: str) -> str:
        return self._host(NODES.index(node) + 1)

    @property
    def slurmctld_port(self) -> int:
        return FIRST_PORT + 10 * self.slot

    @property
    def slurmd_port(self) -> int:
        return self.slurmctld_port + 1

    @property
    def slurmdbd_port(self) -> int:
        return self.slurmctld_port + 2

    @property
    def slurm_conf(self) -> Path:
        return self.state / "slurm.conf"

    @property
    def client_env(self) -> dict[str, str]:
        """What a shell needs to talk to this cluster."""
        path = os.environ.get("PATH", "/usr/bin:/bin")
        for folder in ("/usr/bin", "/usr/sbin"):
            if folder not in path.split(":"):
                path = f"{path}:{folder}"
        return {"SLURM_CONF": str(self.slurm_conf), "PATH": path}

    def output(self, daemon: str) -> Path:
        """Where a daemon's stderr goes: all that it says, from its first word. Slurm's timed logs lie beside it."""
        return self.state / "log" / f"{daemon.replace(':', '-')}.out"

    def files(self) -> dict[str, str]:
        """Every configuration file's name in the state folder and its text."""
        accounting = "AccountingStorageType=accounting_storage/none\n"
        if self.settings.accounting:
            accounting = (
                "AccountingStorageType=accounting_storage/slurmdbd\n"
                f"AccountingStorageHost={self.address}\n"
                f"AccountingStoragePort={self.slurmdbd_port}\n"
                f"AccountingStoragePass={self.state}/munge.socket\n"  # with munge this is the socket, not a password
                "AccountingStorageTRES=gres/gpu\n"
                "AccountingStorageEnforce=associations,qos\n"
            )
        values = {
            "state": self.state,
            "address": self.address,
            "slurmctld_port": self.slurmctld_port,
            "slurmd_port": self.slurmd_port,
            "slurmdbd_port": self.slurmdbd_port,
            "cred_expire": ",cred_expire=5" if self.settings.fast else "",
            "max_array_size": self.settings.max_array_size,
            "max_job_count": max(30_000, 2 * self.settings.max_array_size),
            "timers": FAST_TIMERS if self.settings.fast else "",
            "accounting": accounting,
            "cpus": CPUS,
            "gpus": GPUS,
            "last_gpu": GPUS - 1,
            "node_names": ",".join(NODES),
            "nodes": "\n".join(f"NodeName={n} NodeHostname={n} NodeAddr={self.node_address(n)}" for n in NODES),
        }
        names = ["slurm.conf", "gres.conf", *(["slurmdbd.conf", "mariadb.cnf"] if self.settings.accounting else [])]
        texts = {name: Template((TEMPLATES / name).read_text()).substitute(values) for name in names}
        hosts = [f"{self.node_address(n)} {n}" for n in NODES]
        texts["hosts"] = "\n".join(["127.0.0.1 localhost", "::1 localhost", f"{self.address} minictl", *hosts, ""])
        return texts


def default_state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "nano-exp" / "minicluster"


def save(cluster: Cluster) -> None:
    """Write cluster.json, whole or not at all: the first file of a state folder, by which `down` knows it for ours."""
    target = cluster.state / "cluster.json"
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps({"settings": asdict(cluster.settings), "slot": cluster.slot}, indent=1) + "\n")
    draft.replace(target)


def load(state: Path) -> Cluster | None:
    """The cluster of a state folder; None where there is none, or no readable record of it."""
    try:
        record = json.loads((state / "cluster.json").read_text())
        return Cluster(state, Settings(**record["settings"]), int(record["slot"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def at_slot(cluster: Cluster, slot: int) -> Cluster:
    return replace(cluster, slot=slot)
