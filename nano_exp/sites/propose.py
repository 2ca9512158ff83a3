"""A site's keys from what was seen of its cluster: text in, keys out, each with how it is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nano_exp.nemo_rl import versions
from nano_exp.planner import gpus
from nano_exp.preflight import answers
from nano_exp.preflight.answers import Association, Nodes
from nano_exp.preflight.facts import FileSystem
from nano_exp.preflight.folders import SHARED
from nano_exp.preflight.place_facts import gpu_gb
from nano_exp.sites.look import Look

#: The allocation's time where nothing is shorter, minutes: conf/site/default.yaml's.
TIMEOUT_MIN = 240
#: Partitions that are for something else than training.
_ASIDE = re.compile(r"debug|dev|test|interact|preempt|urgent|low|backfill|requeue|shared|short|build|viz|mig", re.I)


@dataclass(frozen=True)
class Key:
    """One key of the site's file.

    Parameters
    ----------
    value: what is written
    how: how it is known, for its comment
    ask: the question to the user, where it cannot be seen; empty where it was
    options: values to choose from
    """

    value: Any
    how: str = ""
    ask: str = ""
    options: tuple[str, ...] = ()


@dataclass
class Proposal:
    """The keys of a site, in the order of conf/site/default.yaml; what is not in it is left to that file."""

    name: str
    keys: dict[str, Key] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        return {name: key.value for name, key in self.keys.items()}


class Cluster:
    """What the words of a cluster's commands mean."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.settings = answers.parse_settings(look.config)
        self.nodes = answers.parse_nodes(look.nodes)
        self.associations = answers.parse_associations(look.associations)
        self.qos = {one.name: one for one in answers.parse_qos(look.qos)}
        self.most_mib = answers.parse_most_mib(look.partitions)
        records = (dict(re.findall(r"(\w+)=(\S*)", line)) for line in look.partitions.splitlines())
        self.partitions = {record["PartitionName"]: record for record in records if "PartitionName" in record}

    @cached_property
    def usable(self) -> list[str]:
        """Partitions with GPUs that this user may use, best first."""
        return sorted(
            dict.fromkeys(n.partition for n in self.nodes if n.gpu_count() and n.up and self._allowed(n.partition)),
            key=self._rank,
        )

    def _allowed(self, partition: str) -> bool:
        record = self.partitions.get(partition, {})
        accounts, groups = _names(record.get("AllowAccounts")), _names(record.get("AllowGroups"))
        if accounts and self.associations and not accounts & {a.account for a in self.associations}:
            return False
        denied = {a.account for a in self.associations} <= _names(record.get("DenyAccounts")) and self.associations
        return not denied and (not groups or bool(groups & set(self.look.groups)))

    def _rank(self, partition: str) -> tuple[Any, ...]:
        mine = self.of(partition)
        minutes = min((n.minutes for n in mine if n.minutes is not None), default=None)
        whole = any(n.gpu_count() >= 8 for n in mine)
        memory = max((gpu_gb(kind, 80.0) for n in mine for kind, _ in n.gpus), default=0.0)
        total = sum(n.count * n.gpu_count() for n in mine)
        short = minutes is not None and minutes < TIMEOUT_MIN
        default = any(n.default for n in mine)
        return (bool(_ASIDE.search(partition)) or short, memory < 79, not default, not whole, -total, partition)

    def of(self, partition: str) -> list[Nodes]:
        """A partition's nodes with GPUs."""
        return [n for n in self.nodes if n.partition == partition and n.gpu_count()]

    def file_system(self, path: str) -> FileSystem | None:
        """Where a path is mounted, by the mounts that were seen."""
        best = None
        for line in self.look.mounts.splitlines():
            words = line.split()
            if len(words) >= 3 and (path == words[1] or path.startswith(words[1].rstrip("/") + "/")):
                mount = FileSystem(words[1], words[2])
                best = mount if best is None or len(mount.mount) >= len(best.mount) else best
        return best

    def is_shared(self, path: str) -> bool:
        system = self.file_system(path)
        return system is not None and system.type.startswith(SHARED)


def _names(text: str | None) -> set[str]:
    return set() if not text or text in ("ALL", "(null)") else set(text.split(","))


def proposal(look: Look, name: str = "", chosen: Mapping[str, Any] | None = None) -> Proposal:
    """A site's keys.

    Parameters
    ----------
    name: the site's; empty: the cluster's own
    chosen: keys that the user gave; the others follow from them
    """
    cluster, given = Cluster(look), dict(chosen or {})
    made = Proposal(name or site_name(cluster))
    for key, make in _MAKERS:
        if key in given:
            made.keys[key] = Key(given[key], "as you said")
        elif (one := make(cluster, made.values())) is not None:
            made.keys[key] = one
    for key, value in given.items():
        made.keys.setdefault(key, Key(value, "as you said"))
    return made


def site_name(cluster: Cluster) -> str:
    """The cluster's own name as a file's; `mysite` where it has none."""
    words = re.sub(r"\W+", "_", cluster.settings.get("ClusterName", "").lower()).strip("_")
    return words if words and words not in ("default", "cluster", "linux") else "mysite"


Values = Mapping[str, Any]


def _partition(c: Cluster, made: Values) -> Key | None:
    if not c.nodes:
        return Key(None, "Slurm did not say", "partition with GPUs")
    if not c.usable:
        return Key(None, "no partition with GPUs that is yours was seen", "partition with GPUs")
    best = c.usable[0]
    why = "the default one" if any(n.default for n in c.of(best)) else "what your GPUs are in"
    others = f" (others with GPUs: {', '.join(c.usable[1:])})" if c.usable[1:] else ""
    return Key(best, f"sinfo: {why}{others}", options=tuple(c.usable))


def _kinds(c: Cluster, made: Values) -> list[str]:
    """Types of GPUs in the partition, the largest memory first."""
    kinds = {kind for n in c.of(str(made.get("partition"))) for kind, _ in n.gpus if kind}
    return sorted(kinds, key=lambda kind: (-gpu_gb(kind, 80.0), kind))


def planner_name(kind: str) -> str | None:
    """The planner's name of a type of GPU as Slurm writes it: h100 -> h100-80; None where it does not know the type, or
    the type is sold with two sizes."""
    if kind in gpus.gpus():
        return kind
    match = re.match(r"(?:nvidia[_-])?([a-z]+\d+[a-z]?)", kind)
    if match is None:
        return None
    word = match[1]
    stated = re.search(r"(\d+)gb", kind)
    if stated is not None and f"{word}-{stated[1]}" in gpus.gpus():
        return f"{word}-{stated[1]}"
    only = gpus.of_type(word, only=True)
    return only.name if only is not None else None


def _gpu(c: Cluster, made: Values) -> Key | None:
    for kind in _kinds(c, made):
        name = planner_name(kind)
        if name is not None:
            return Key(name, f"Slurm's gres type {kind}")
        return Key(None, f"Slurm calls them {kind}; docs/planner.md has the names", "kind of GPU", tuple(gpus.gpus()))
    return Key(None, "Slurm does not say which", "kind of GPU", tuple(gpus.gpus())) if c.nodes else None


def _account(c: Cluster, made: Values) -> Key | None:
    if not c.associations:
        return Key(None, "no accounting, or Slurm did not say; your default is taken")
    partition = made.get("partition")
    record = c.partitions.get(str(partition), {})
    accounts, qos = _names(record.get("AllowAccounts")), _names(record.get("AllowQos"))
    fitting = [
        a
        for a in c.associations
        if a.partition in ("", partition)
        and (not accounts or a.account in accounts)
        and (not qos or not a.qos or qos & set(a.qos))
    ]
    names = list(dict.fromkeys(a.account for a in fitting or c.associations))
    default = c.look.user.strip().splitlines()[0].strip() if c.look.user.strip() else ""
    if default in names:
        return Key(default, "sacctmgr: your default account", options=tuple(names))
    if len(names) == 1:
        return Key(names[0], "sacctmgr: the only one there", options=tuple(names))
    return Key(names[0] if names else None, f"of {', '.join(names)}", "account to charge", tuple(names))


def _mine(c: Cluster, made: Values) -> list[Association]:
    account, partition = made.get("account"), made.get("partition")
    return [a for a in c.associations if account in (None, a.account) and (not a.partition or a.partition == partition)]


def _qos(c: Cluster, made: Values) -> Key | None:
    mine = list(dict.fromkeys(name for a in _mine(c, made) for name in a.qos))
    allowed = _names(c.partitions.get(str(made.get("partition")), {}).get("AllowQos"))
    if not allowed or not mine or _default_qos(c, made) in allowed:
        return Key(None, "the partition takes your default")
    both = [name for name in mine if name in allowed]
    if not both:
        return Key(None, f"the partition takes {', '.join(sorted(allowed))}", "quality of service", tuple(allowed))
    best = sorted(both, key=lambda name: (bool(_ASIDE.search(name)), both.index(name)))[0]
    return Key(best, f"of yours the partition takes {', '.join(both)}", options=tuple(both))


def _default_qos(c: Cluster, made: Values) -> str:
    """The QOS of jobs that name none, as sacctmgr has it for the account; "" where it names none."""
    rows = (line.split("|") for line in c.look.default_qos.splitlines())
    defaults = [row[1] for row in rows if len(row) == 2 and made.get("account") in (None, row[0]) and row[1]]
    return defaults[0] if defaults else ""


def _entry(c: Cluster, made: Values) -> Key | None:
    if "--container-image" in c.look.srun_help:
        return Key("pyxis", "srun --help has --container-image")
    if {"apptainer", "singularity"} & set(c.look.tools) or _module(c, "apptainer"):
        where = "a module" if "apptainer" not in c.look.tools and _module(c, "apptainer") else "on PATH"
        if not c.look.images and c.look.checkouts:
            return Key("bare", f"a checkout is there; apptainer too ({where})")
        return Key("apptainer", f"apptainer is {where}")
    return Key("bare", "no pyxis and no apptainer were seen")


def _module(c: Cluster, name: str) -> str | None:
    """The module of this name, as `module load` takes it."""
    lines = [line.strip().removesuffix("(default)").strip() for line in c.look.modules.splitlines()]
    return next((name for line in lines if line.split("/")[0] == name), None)


def _checkout(c: Cluster, made: Values) -> Key | None:
    there = c.look.checkouts
    if made.get("entry") != "bare":
        return Key(None, "the image has its own, container.workdir")
    if there:
        return Key(there[0], "found" + (f"; others: {', '.join(there[1:])}" if there[1:] else ""), options=there)
    ask = "path of the NeMo RL checkout that every node sees"
    folder = _scratch(c) or c.look.here
    if not folder:
        return Key(None, "none was found", ask)
    release = max((v for v in map(versions.version_of, versions.options()) if "+" not in v), key=versions.order)
    return Key(
        f"{folder}/nemo-rl-{release}", f"not there yet: nano-exp prepare ... --checkout {release} clones it", ask
    )


def _python(c: Cluster, made: Values) -> Key | None:
    if made.get("entry") != "bare":
        return Key("/opt/nemo_rl_venv/bin/python", "inside NeMo RL's image")
    return Key(None, "`uv run python` in the checkout")


def _container(c: Cluster, made: Values) -> Key | None:
    if made.get("entry") == "bare":
        return None
    ending = ".sqsh" if made.get("entry") == "pyxis" else ".sif"
    fitting = [image for image in c.look.images if image.endswith(ending)]
    if fitting:
        return Key(sorted(fitting)[-1], "found; docs/sites.md has its form", options=tuple(fitting))
    return Key(None, f"no {ending} file of NeMo RL was found", f"path of NeMo RL's image ({ending})")


def _flags(c: Cluster, made: Values) -> Key | None:
    return Key(["--writable-tmpfs"], "NeMo RL writes beside its code") if made.get("entry") == "apptainer" else None


def _allocation(c: Cluster, made: Values) -> Key | None:
    nodes = c.of(str(made.get("partition")))
    refused = c.look.tests.get("exclusive", "")
    if nodes and all(n.forced for n in nodes):
        return Key("share", "OverSubscribe=FORCE: no run gets nodes alone there")
    if refused:
        return Key("share", f"whole nodes are refused: {refused}"[:90])
    return Key("node", "whole nodes, as NeMo RL's own ray.sub asks for them")


def _memory(c: Cluster, made: Values) -> Key | None:
    partition = str(made.get("partition"))
    most, has = c.most_mib.get(partition), max((n.mib for n in c.of(partition)), default=0)
    if most is not None and has > most and made.get("allocation") == "node":
        return Key(most // 1024, f"MaxMemPerNode, below the node's {has // 1024} GiB")
    return Key(None, "all of a whole node, a share's by its GPUs")


def _gres(c: Cluster, made: Values) -> Key | None:
    types = c.settings.get("GresTypes", "")
    if c.settings and "gpu" not in types.split(","):
        return Key("none", "GresTypes has no gpu")
    kinds = _kinds(c, made)
    if len(kinds) > 1:
        return Key(f"gpu:{kinds[0]}", f"the partition has {', '.join(kinds)}")
    if c.settings and "cons_tres" not in c.settings.get("SelectType", "cons_tres"):
        return Key("gpu", f"{c.settings['SelectType']} has no --gpus-per-node")
    return Key(None, "--gpus-per-node")


def _modules(c: Cluster, made: Values) -> Key | None:
    if made.get("entry") == "apptainer" and "apptainer" not in c.look.tools and (name := _module(c, "apptainer")):
        return Key([name], "module avail")
    return Key([], "")


def _scratch(c: Cluster) -> str | None:
    """The folder for large files: shared, and the user's."""
    named = [value for name, value in c.look.variables.items() if name != "HF_HOME"]
    there = [path for path in dict.fromkeys([*named, *c.look.writable]) if c.is_shared(path)]
    away = [path for path in there if path != c.look.home]
    return next(iter([*away, *there]), None)


def _hf_home(c: Cluster, made: Values) -> Key | None:
    said = c.look.variables.get("HF_HOME")
    if said and c.is_shared(said):
        return Key(said, "your HF_HOME")
    folder = _scratch(c)
    if folder is None:
        return Key(None, "no shared file system was seen", "HF_HOME: a folder that every node sees, with 200 GB")
    system = c.file_system(folder)
    return Key(f"{folder}/hf", f"on {system.type if system else 'a shared file system'}; make it with mkdir -p")


def _beside(name: str, what: str) -> Any:
    def make(c: Cluster, made: Values) -> Key | None:
        folder = _scratch(c)
        return Key(f"{folder}/{name}", what) if made.get("entry") == "bare" and folder else Key(None, "")

    return make


def _env(c: Cluster, made: Values) -> Key | None:
    if made.get("entry") == "bare":
        return None
    return Key({"NEMO_RL_VENV_DIR": "/opt/ray_venvs"}, "inside NeMo RL's image")


def _timeout(c: Cluster, made: Values) -> Key | None:
    limits: list[tuple[float, str]] = [(float(TIMEOUT_MIN), "nothing is shorter")]
    limits += [(n.minutes, "the partition's limit") for n in c.of(str(made.get("partition"))) if n.minutes]
    mine = _mine(c, made)
    limits += [(a.max_minutes, "your account's limit") for a in mine if a.max_minutes]
    names = [str(made.get("qos") or _default_qos(c, made))]
    names.append(c.partitions.get(str(made.get("partition")), {}).get("QoS", ""))
    limits += [(limit, f"QOS {q}'s limit") for q in names if q in c.qos and (limit := c.qos[q].max_minutes)]
    minutes, why = min(limits)
    return Key(int(minutes), why)


_MAKERS: Sequence[tuple[str, Any]] = (
    ("partition", _partition),
    ("gpu", _gpu),
    ("account", _account),
    ("qos", _qos),
    ("entry", _entry),
    ("checkout", _checkout),
    ("python", _python),
    ("container.image", _container),
    ("container.flags", _flags),
    ("allocation", _allocation),
    ("memory_gb", _memory),
    ("gres", _gres),
    ("venv_dir", _beside("nemo_rl_venvs", "environments of NeMo RL's workers")),
    ("uv_cache_dir", _beside("uv_cache", "uv's cache")),
    ("modules", _modules),
    ("hf_home", _hf_home),
    ("env", _env),
    ("timeout_min", _timeout),
)
KEYS: Iterable[str] = tuple(name for name, _ in _MAKERS)
