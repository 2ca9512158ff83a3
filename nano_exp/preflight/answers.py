"""What Slurm's commands answered about the place. Pure: text in, facts out; gather.py asks."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: sinfo's format that `parse_nodes` reads: partition, up or down, time limit, job size, nodes, CPUs, GRES, state,
#: whether jobs share nodes, and memory.
SINFO = "%P|%a|%l|%s|%D|%c|%G|%t|%h|%m"
ASSOCIATIONS = "account,partition,qos,maxsubmitjobs,maxwall"
QOS = "name,maxwall,maxsubmitpu"


@dataclass(frozen=True)
class Nodes:
    """Equal nodes of a partition.

    Parameters
    ----------
    partition: its name; `default` whether it is the one used when none is named
    up: whether the partition takes jobs
    minutes: its time limit; None for no limit
    largest: nodes that a job may have at most; None for no limit
    count: nodes of this kind
    cpus: of a node
    gpus: (type, count) of a node; the type is "" where Slurm does not say
    state: as sinfo abbreviates it: idle, mix, alloc, down*, drain, ...
    exclusive: a job there has its nodes alone, whatever it asks for (OverSubscribe=EXCLUSIVE)
    forced: jobs there share nodes, whatever they ask for (OverSubscribe=FORCE)
    mib: host memory of a node, RealMemory; 1 is Slurm's word for not configured
    """

    partition: str
    default: bool
    up: bool
    minutes: float | None
    largest: int | None
    count: int
    cpus: int
    gpus: tuple[tuple[str, int], ...]
    state: str
    exclusive: bool = False
    forced: bool = False
    mib: int = 0

    def gpu_count(self, kind: str = "") -> int:
        """GPUs of a node, of one type where that is named."""
        return sum(count for gpu_type, count in self.gpus if kind in ("", gpu_type))


@dataclass(frozen=True)
class GpuPart:
    """What belongs to one GPU of a node when its GPUs share it: CPUs, and MiB of host memory (0: not known)."""

    cpus: int
    mib: int


def of_partition(nodes: Iterable[Nodes], partition: str) -> list[Nodes]:
    """The nodes of one or several partitions with commas; "" for the default one."""
    partitions = partition.split(",") if partition else []
    return [n for n in nodes if (n.partition in partitions if partitions else n.default)]


def part(nodes: Iterable[Nodes], partition: str, gpus: int, kind: str = "") -> GpuPart | None:
    """The smallest part of those nodes that have `gpus` GPUs (of a type); None where none has.

    Parameters
    ----------
    partition: one or several with commas; "" for the default one
    """
    fitting = [n for n in of_partition(nodes, partition) if n.gpu_count(kind) >= max(gpus, 1)]
    if not fitting:
        return None
    return GpuPart(
        min(n.cpus // n.gpu_count() for n in fitting), min(n.mib // n.gpu_count() if n.mib > 1 else 0 for n in fitting)
    )


@dataclass(frozen=True)
class Association:
    """What a user may use: an account, perhaps in one partition only, with its QOS and limits."""

    account: str
    partition: str
    qos: tuple[str, ...]
    max_submit: int | None
    max_minutes: float | None


@dataclass(frozen=True)
class Qos:
    """A quality of service's limits."""

    name: str
    max_minutes: float | None
    max_submit: int | None


@dataclass(frozen=True)
class Estimate:
    """What `sbatch --test-only` said: refused, with Slurm's words, or when the job would start (Unix time)."""

    refused: str
    start: float | None


@dataclass(frozen=True)
class Answers:
    """What Slurm said of the place; None for a question without an answer.

    Parameters
    ----------
    available: whether this host has sbatch at all
    most_mib: partition -> the most host memory that a job may ask for on a node, where it has such a limit
    silent: questions without an answer, with Slurm's words, one line each
    """

    available: bool = True
    nodes: tuple[Nodes, ...] | None = None
    settings: Mapping[str, str] | None = None
    associations: tuple[Association, ...] | None = None
    qos: tuple[Qos, ...] | None = None
    test: Estimate | None = None
    most_mib: Mapping[str, int] | None = None
    silent: tuple[str, ...] = field(default=())

    @property
    def none(self) -> bool:
        """Whether slurmctld answered nothing that it was asked (accounts are its database's)."""
        return self.nodes is None and self.settings is None and self.test is None


def parse_minutes(text: str) -> float | None:
    """`4:00:00`, `30:00` (minutes and seconds), `7-00:00:00` -> minutes; None for infinite and for anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def parse_gpus(text: str) -> tuple[tuple[str, int], ...]:
    """`gpu:h100:8(S:0-1),lustre:1` -> (("h100", 8),); `gpu:4` -> (("", 4),); `(null)` -> ()."""
    entries = re.findall(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)(?=[,(]|$)", text)
    return tuple((kind.lower(), int(count)) for kind, count in entries)


def parse_nodes(text: str) -> tuple[Nodes, ...]:
    """Lines of `sinfo -h -e -o SINFO`; those that are something else are left out."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 10 or not parts[4].isdigit():
            continue
        name, up, limit, size, count, cpus, gres, state, sharing, mib = (part.strip() for part in parts)
        largest = _number(size.rpartition("-")[2])
        cores, memory = (int(re.sub(r"\D.*", "", text) or 0) for text in (cpus, mib))  # `64+` where nodes differ
        rows.append(
            Nodes(
                name.rstrip("*"),
                name.endswith("*"),
                up == "up",
                parse_minutes(limit),
                largest,
                int(count),
                cores,
                parse_gpus(gres),
                state,
                sharing.upper().startswith("EXCLUSIVE"),
                sharing.upper().startswith("FORCE"),
                memory,
            )
        )
    return tuple(rows)


def parse_settings(text: str) -> dict[str, str]:
    """`scontrol show config`: `MaxArraySize            = 1001` -> {"MaxArraySize": "1001"}."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def parse_associations(text: str) -> tuple[Association, ...]:
    """Lines of `sacctmgr -nP show assoc format=ASSOCIATIONS`."""
    associations = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) == 5 and parts[0]:
            account, partition, qos, submit, wall = parts
            names = tuple(name for name in qos.split(",") if name)
            associations.append(Association(account, partition, names, _number(submit), parse_minutes(wall)))
    return tuple(associations)


def parse_qos(text: str) -> tuple[Qos, ...]:
    """Lines of `sacctmgr -nP show qos format=QOS`."""
    rows = (line.split("|") for line in text.splitlines())
    return tuple(Qos(row[0], parse_minutes(row[1]), _number(row[2])) for row in rows if len(row) == 3 and row[0])


def parse_most_mib(text: str) -> dict[str, int]:
    """MaxMemPerNode in lines of `scontrol -o show partition`: `PartitionName=gpu ... MaxMemPerNode=1900000`."""
    records = (dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines())
    return {
        fields["PartitionName"]: int(fields["MaxMemPerNode"])
        for fields in records
        if "PartitionName" in fields and fields.get("MaxMemPerNode", "").isdigit()
    }


def parse_test_only(code: int, stderr: str) -> Estimate:
    """Exit code and stderr of `sbatch --test-only`."""
    if code != 0:
        lines = [
            re.sub(r"^(sbatch: )?((error|fatal|allocation failure): )?", "", s).strip() for s in stderr.splitlines()
        ]
        return Estimate("; ".join(dict.fromkeys(line for line in lines if line)) or f"exit code {code}", None)
    match = re.search(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", stderr)
    try:
        return Estimate("", time.mktime(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) if match else None)
    except (ValueError, OverflowError):
        return Estimate("", None)
