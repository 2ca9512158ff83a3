"""The machine against what the runs ask of it: partitions, GPUs, limits, folders."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nano_exp import slurm
from nano_exp.errors import UserError, choice, nearest
from nano_exp.planner import gpus
from nano_exp.preflight.answers import Answers, Nodes
from nano_exp.preflight.cost import checkpoints, gigabytes, rollouts
from nano_exp.preflight.facts import existing
from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View, whole
from nano_exp.slurm import arrays, shapes
from nano_exp.text import duration

ANY = "any engine"


@rule(place=True, engine=ANY)
def slurm_there(c: View) -> Iterator[Found]:
    """Runs for Slurm are launched from a host that has its commands."""
    if c.on_slurm and c.facts.answers is not None and not c.facts.answers.available:
        try:
            slurm.require()
        except UserError as error:
            yield Found((), error.why, error.fix, error.found)


def _asked(c: View, name: str) -> Any:
    """One of hydra.launcher's parameters."""
    return c.facts.parameters.get(name)


def _partitions(c: View) -> Sequence[str]:
    """The partitions asked for; Slurm takes several with commas."""
    return [name for name in str(_asked(c, "partition") or "").split(",") if name]


def _nodes(c: View) -> list[Nodes] | None:
    """The nodes of the partitions asked for; None where Slurm did not tell or a partition is not there."""
    if not c.on_slurm or c.facts.answers is None or c.facts.answers.nodes is None:
        return None
    named = _partitions(c)
    found = [n for n in c.facts.answers.nodes if (n.partition in named if named else n.default)]
    return found if found and {n.partition for n in found} >= set(named) else None


@rule(place=True, engine=ANY)
def partition_there(c: View) -> Iterator[Found]:
    """The partition exists and takes jobs."""
    if not c.on_slurm or c.facts.answers is None or c.facts.answers.nodes is None:
        return
    every = sorted({n.partition for n in c.facts.answers.nodes})
    for name in _partitions(c):
        if name not in every:
            yield Found(
                (),
                f"you cannot use a partition of that name here; yours are: {', '.join(every)}",
                choice("site.partition=", nearest(name, every), every),
                f"partition {name}",
            )
    nodes = _nodes(c)
    if nodes is None and not _partitions(c):
        yield Found(
            (),
            f"no partition is named, and this cluster has no default one; its partitions are: {', '.join(every)}",
            f"site.partition={every[0] if every else '...'}",
            "site.partition=null",
        )
    elif nodes and not any(n.up for n in nodes):
        yield Found(
            (),
            "it takes jobs but does not start them now",
            "another site.partition=, or wait until it is up",
            f"partition {nodes[0].partition} is down",
            severity="warning",
        )


@rule(place=True, engine=ANY)
def partition_time(c: View) -> Iterator[Found]:
    """The partition allows the time asked for."""
    minutes, nodes = _asked(c, "timeout_min"), _nodes(c)
    if not nodes or not isinstance(minutes, int | float):
        return
    longest = max(n.minutes if n.minutes is not None else math.inf for n in nodes)
    if minutes > longest:
        yield Found(
            (),
            f"partition {nodes[0].partition} allows {duration(60 * longest)} at most",
            f"hydra.launcher.timeout_min={longest:.0f} (a run that needs more saves, stops and goes on when launched "
            "again), or another site.partition=",
            f"a time limit of {duration(60 * minutes)}",
        )


@rule(place=True, engine=ANY)
def nodes_fit(c: View) -> Iterator[Found]:
    """The partition has enough nodes with the GPUs and CPUs asked for."""
    nodes = _nodes(c)
    if not nodes or c.nodes is None or c.gpus is None:
        return
    shape = shapes.shape(dict(c.config))
    where, kind = nodes[0].partition, _gpu_type(c)
    wanted = f"{shape.nodes} node{'s' if shape.nodes > 1 else ''} with {shape.gpus_per_node} {kind or ''} GPUs".replace(
        "  ", " "
    )
    largest = max(n.largest if n.largest is not None else math.inf for n in nodes)
    if shape.nodes > largest:
        yield Found(
            ("cluster.num_nodes",),
            f"a job in partition {where} has {largest} nodes at most",
            "another cluster= or site.partition=",
        )
        return
    with_gpus = [n for n in nodes if n.gpu_count(kind) >= shape.gpus_per_node]
    cpus = shape.cpus_per_node or 0
    whole = [n for n in with_gpus if n.cpus >= cpus]
    if sum(n.count for n in with_gpus) < shape.nodes:
        yield Found(
            ("cluster.num_nodes", "cluster.gpus_per_node"),
            f"partition {where} has no {wanted}; it has {_kinds(nodes)}",
            "another cluster= or site.partition= (`sinfo -N -o '%P %N %G %c'`)",
        )
    elif sum(n.count for n in whole) < shape.nodes:
        most = max(n.cpus for n in with_gpus)
        yield Found(
            ("cluster.num_nodes", "cluster.gpus_per_node"),
            f"{cpus} CPUs a node are asked for, and the nodes with these GPUs in partition {where} have {most}",
            f"slurm.cpus_per_node={most}",
        )


def _extra(c: View) -> Mapping[str, Any]:
    """sbatch's own options that were typed."""
    return c.facts.parameters.get("additional_parameters") or {}


@rule(place=True)
def node_alone(c: View) -> Iterator[Found]:
    """A run has its nodes alone where it takes all of their GPUs; where it leaves some free it says what is meant.

    On one node NeMo RL stops beside another Ray: `memory_summary(stats_only=True, ...)` (utils/memory_tracker.py) looks
    for Ray by its processes, whoever's they are.
    """
    said = c.site.get("allocation")
    if not c.gpus or said == shapes.NODE or "exclusive" in _extra(c):
        return
    roomy = [n for n in _nodes(c) or () if n.gpu_count() > c.gpus and not n.exclusive]
    own_ray = c.launcher("engine").get("ray_address", "local") in ("local", None)
    if not roomy or (said == shapes.SHARE and not (c.nodes == 1 and own_ray)):
        return
    have = f"nodes of partition {roomy[0].partition} have {roomy[0].gpu_count()} GPUs"
    yield Found(
        ("cluster.gpus_per_node",),
        f"{have}: the run would have them alone, and GPUs would idle"
        if said is None
        else f"{have} and are shared: another run may be on the same one, and NeMo RL stops where it sees a second Ray",
        "site.allocation=node (the nodes alone)" + ("" if c.nodes == 1 else ", or site.allocation=share"),
    )


@rule(place=True, engine=ANY)
def node_given(c: View) -> Iterator[Found]:
    """The partition gives whole nodes where they are asked for."""
    nodes = _nodes(c)
    if (
        nodes
        and shapes.whole_nodes(c.site.get("allocation"), c.engine)
        and "exclusive" not in _extra(c)
        and all(n.forced for n in nodes)
    ):
        yield Found(
            (),
            f"jobs in partition {nodes[0].partition} share their nodes, whatever they ask for (OverSubscribe=FORCE)",
            "site.allocation=share, or another site.partition=",
            "whole nodes (--exclusive)",
        )


@rule(place=True, engine=ANY)
def memory_given(c: View) -> Iterator[Found]:
    """The partition gives the host memory asked for."""
    nodes, most = _nodes(c), (c.facts.answers.most_mib if c.facts.answers is not None else None) or {}
    typed = c.site.get("memory_gb")
    if not nodes or (typed is None and not shapes.whole_nodes(c.site.get("allocation"), c.engine)) or _memory_typed(c):
        return
    has = max(n.mib for n in nodes)
    allowed = max(most.get(n.partition, has) for n in nodes)
    asked = has if typed is None else float(typed) * 1024
    if has <= 1 or asked <= min(has, allowed):  # 1: Slurm does not know it
        return
    limit = f"allows {gib(allowed)} a node (MaxMemPerNode)" if allowed < has else f"has {gib(has)} a node"
    yield Found(
        (),
        f"partition {nodes[0].partition} {limit}, and Slurm refuses more",
        f"site.memory_gb={min(has, allowed) // 1024}",
        "all memory of a node (--mem=0)" if typed is None else f"site.memory_gb={typed}",
    )


def _memory_typed(c: View) -> bool:
    """Whether hydra.launcher's own settings say how much memory."""
    return any(_asked(c, key) is not None for key in ("mem_gb", "mem_per_cpu", "mem_per_gpu")) or any(
        str(key).startswith("mem") for key in _extra(c)
    )


def host_mib(c: View) -> float | None:
    """Host memory that the run gets of a node, MiB, of the nodes that have most; None where nobody says."""
    typed, asked = c.site.get("memory_gb"), _asked(c, "mem_gb")
    for said in (asked, typed):
        if isinstance(said, int | float) and said > 0:
            return float(said) * 1024
    if _memory_typed(c) and asked != 0:  # hydra.launcher.mem_gb=0 is all of it
        return None
    kind, count = _gpu_type(c), c.gpus or 1
    there = [n for n in _nodes(c) or () if n.mib > 1 and n.gpu_count(kind) >= count]
    if not there:
        return None
    if shapes.whole_nodes(c.site.get("allocation"), c.engine) or asked == 0:
        return float(max(n.mib for n in there))
    each = c.site.get("memory_gb_per_gpu")
    if isinstance(each, int | float):
        return float(each) * 1024 * count
    return float(max(n.mib // n.gpu_count() for n in there) * count)


def gib(mib: float) -> str:
    return f"{mib / 1024:,.0f} GiB"


#: GPUs that the planner has no constants for, by the names that sites give them, and their memory in GB. Types that are
#: sold with two sizes stand with the larger one: nothing is said against them.
OTHER_GPUS = {
    **{"t4": 16, "p100": 16, "rtx2080ti": 11, "v100": 32, "a2": 16, "rtx5090": 32},
    **{"a10": 24, "a30": 24, "l4": 24, "a5000": 24, "rtx3090": 24, "rtx4090": 24},
    **{"a40": 48, "l40": 48, "a6000": 48, "rtx6000": 48, "rtx8000": 48, "gh200": 144},
}


def gpu_gb(kind: str, otherwise: float) -> float:
    """The memory of a type of GPU as Slurm names it, in GB; `otherwise` for a type that is not known."""
    stated = re.search(r"(\d+)gb", kind)
    if stated is not None:
        return float(stated[1])
    word = re.sub(r"^(nvidia|geforce|tesla|quadro)[_-]|[_-](sxm\d*|pcie|nvl|ada)\b.*", "", kind)
    found = gpus.of_type(word)
    if found is not None:
        return float(found.name.rpartition("-")[2])
    return OTHER_GPUS.get(re.sub(r"[_-]", "", word), otherwise)


def gpu_types(c: View) -> set[str]:
    """The types of GPUs that the launch may get, as Slurm names them; empty where it does not say."""
    nodes, kind = _nodes(c), _gpu_type(c)
    fitting = [n for n in nodes or () if n.gpu_count(kind) >= (c.gpus or 1)]
    return {own for n in fitting for own, _ in n.gpus if own and kind in ("", own)}


def _gpu_type(c: View) -> str:
    """The GPU type that the launch asks for by name; "" where it takes any."""
    for name in ("gres", "gpus_per_node"):
        match = re.search(r"(?:^|gpu:)([a-zA-Z][\w-]*):\d+", str(_asked(c, name) or ""))
        if match is not None and match[1] != "gpu":
            return match[1].lower()
    match = re.search(r"gpu:([a-zA-Z][\w-]*)(:\d+|$)", str(_extra(c).get("gres") or c.site.get("gres") or ""))
    return match[1].lower() if match is not None else ""


def _kinds(nodes: Sequence[Nodes]) -> str:
    shown = []
    for n in nodes:
        own = " + ".join(f"{count} {kind or 'GPUs'}" for kind, count in n.gpus) or "no GPUs"
        shown.append(f"{n.count} of {own}, {n.cpus} CPUs")
    return "; ".join(dict.fromkeys(shown))


@rule(place=True)
def gpu_memory(c: View) -> Iterator[Found]:
    """The GPUs have the memory that NVIDIA names for the model."""
    nodes, needed = _nodes(c), c.model.get("gpu_memory_gb")
    if not nodes or not isinstance(needed, int | float) or c.gpus is None or c.nodes is None:
        return
    kind = _gpu_type(c)
    fitting = [n for n in nodes if n.gpu_count(kind) >= c.gpus]
    small = sorted({own for n in fitting for own, _ in n.gpus if kind in ("", own) and gpu_gb(own, needed) < needed})
    if not small:
        return
    others = [n for n in fitting if any(gpu_gb(own, needed) >= needed for own, _ in n.gpus)]
    enough = sum(n.count for n in others) >= c.nodes
    names = ", ".join(f"{own} ({gpu_gb(own, needed):.0f} GB)" for own in small)
    best = next((own for n in others for own, _ in n.gpus if gpu_gb(own, needed) >= needed), "h100")
    yield Found(
        ("cluster.gpus_per_node",),
        f"NVIDIA names {needed} GB a GPU for {c.model.get('name')}, and partition {nodes[0].partition} has {names}"
        + (" beside others: Slurm may give either" if enough else ""),
        f"hydra.launcher.gres=gpu:{best}:{c.gpus}" + ("" if enough else ", in another site.partition="),
        severity="warning" if enough else "error",
    )


@rule(place=True, engine=ANY)
def account_there(c: View) -> Iterator[Found]:
    """The account is one that this user may charge."""
    answers = c.facts.answers
    account = _asked(c, "account")
    if not c.on_slurm or answers is None or not answers.associations or not account or not _enforced(c):
        return
    own = sorted({a.account for a in answers.associations})
    if account not in own:
        yield Found(
            (),
            f"you may charge: {', '.join(own)}",
            choice("site.account=", nearest(str(account), own), own),
            f"account {account} is not yours",
        )


def _enforced(c: View) -> bool:
    settings = c.facts.answers.settings if c.facts.answers is not None else None
    return bool(settings) and "associations" in str((settings or {}).get("AccountingStorageEnforce", "")).lower()


@rule(place=True, engine=ANY)
def qos_allows(c: View) -> Iterator[Found]:
    """The QOS is one of this user's, and allows the time asked for."""
    answers, qos, minutes = c.facts.answers, _asked(c, "qos"), _asked(c, "timeout_min")
    if not c.on_slurm or answers is None or not qos or not _enforced(c):
        return
    own = sorted({name for a in answers.associations or () for name in a.qos})
    if own and qos not in own:
        yield Found(
            (),
            f"your QOS are: {', '.join(own)}",
            choice("site.qos=", nearest(str(qos), own), own),
            f"QOS {qos} is not yours",
        )
        return
    for known in answers.qos or ():
        limit = known.max_minutes
        if known.name == qos and limit is not None and isinstance(minutes, int | float) and minutes > limit:
            yield Found(
                (),
                f"QOS {qos} allows {duration(60 * limit)} at most",
                f"hydra.launcher.timeout_min={limit:.0f}, or another site.qos=",
                f"a time limit of {duration(60 * minutes)}",
            )


@rule(place=True, engine=ANY)
def submit_limit(c: View) -> Iterator[Found]:
    """No job array is larger than what this user may have queued; a sweep that is goes out in parts."""
    answers = c.facts.answers
    if not c.on_slurm or answers is None or not _enforced(c):
        return
    account, qos = _asked(c, "account"), _asked(c, "qos")
    limits = [a.max_submit for a in answers.associations or () if not account or a.account == account]
    limits += [known.max_submit for known in answers.qos or () if known.name == qos]
    known_limits = [limit for limit in limits if limit is not None]
    count = sum(c.facts.new.values())
    if not known_limits or count <= (limit := min(known_limits)):
        return
    most = min(whole(c.launcher("slurm").get("max_array")) or count, _max_array(answers) or count)
    fits = max(len(chunk) for n in c.facts.new.values() for chunk in arrays.chunks(n, most)) <= limit
    yield Found(
        (),
        f"you may have {limit} jobs queued at once here, and each run is one"
        + (": arrays that fit are sent, those that do not are refused" if fits else "; Slurm takes an array whole"),
        "the same command again, when some have ended, sends the rest"
        if fits
        else f"slurm.max_array={max(1, limit // 4)}: what fits is sent, and the same command again sends the rest",
        f"{count} runs to submit",
        severity="warning" if fits else "error",
    )


def _max_array(answers: Answers) -> int | None:
    text = str((answers.settings or {}).get("MaxArraySize", ""))
    return int(text) if text.isdigit() else None


#: Words of a refusal of sbatch --test-only that are of the moment: sbatch itself would queue the job.
_OF_THE_MOMENT = re.compile(r"busy|not available|unavailable|down|drain|reserved", re.IGNORECASE)


@rule(place=True, engine=ANY, asked=True)
def slurm_accepts(c: View) -> Iterator[Found]:
    """Slurm itself, asked with sbatch --test-only for the largest run, would take the job."""
    test = c.facts.answers.test if c.facts.answers is not None else None
    if not c.on_slurm or test is None or not test.refused:
        return
    why, fix = slurm.remedy(test.refused)
    passing = bool(_OF_THE_MOMENT.search(test.refused))
    yield Found((), why, fix, f"sbatch --test-only: {test.refused}", severity="warning" if passing else "error")


#: File systems that several hosts see, by the names that the kernel has for them.
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "panfs", "orangefs", "glusterfs", "cifs", "smb", "afs")
#: And those that certainly only this host sees.
LOCAL = ("tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "squashfs")


@rule(place=True, engine=ANY, severity="warning")
def shared_folders(c: View) -> Iterator[Found]:
    """Results and models lie where every node sees them."""
    if not c.on_slurm or (c.facts.answers is None or c.facts.answers.nodes is None):
        return
    for key, path, why in (
        ("run.results", c.config["run"].get("results"), "the job on its node finds its config there, and writes back"),
        ("site.hf_home", c.site.get("hf_home"), "every node loads the model from there"),
    ):
        system = c.facts.file_system(str(path)) if path else None
        if system is not None and system.type in LOCAL:
            yield Found(
                (),
                f"{why}, and {system.mount} is of type {system.type}, which only this host sees unless it is exported",
                f"{key}=<a folder on a shared file system>; ignore=[shared_folders] where it is one",
                f"{key}={path}",
            )


@rule(place=True, severity="warning")
def checkout_is_release(c: View) -> Iterator[Found]:
    """The checkout is the release that its number says, not a branch that calls itself by it."""
    path, keys = c.site.get("checkout"), c.facts.keys(c.release)
    if not path or keys is None or "+" in c.release:
        return
    here, there = c.facts.commit(str(path)), keys.raw.commit
    if here and there and here != there:
        yield Found(
            (),
            f"{c.release} is {there[:12]}; what was changed since, in keys and defaults, is not known here",
            f"nano-exp recipes import {path}, which shows it; ignore=[checkout_is_release] for patches of your own; "
            f"or git -C {path} checkout {c.release}",
            f"site.checkout={path} is at {here[:12]}",
        )


@rule(place=True, severity="warning")
def disk_free(c: View) -> Iterator[Found]:
    """The checkpoints that are kept, and the rollouts that are logged, have room."""
    kept, logged, runs = checkpoints(c), rollouts(c), max(1, sum(c.facts.new.values()))
    results = c.config["run"].get("results")
    own = str(c.get("checkpointing.checkpoint_dir") or results)
    logs = str(c.get("logger.log_dir") or results)
    rolled = logged.most if logged is not None and logged.most is not None else 0
    together = kept is not None and c.facts.file_system(own) == c.facts.file_system(logs)
    if kept is not None:
        words = f"a run keeps up to {kept.count} checkpoints of about {gigabytes(kept.each)}, {gigabytes(kept.most)}"
        if together and rolled:
            words += f", and logs {gigabytes(rolled)} of rollouts"
        yield from _full(
            c,
            own,
            kept.most + (rolled if together else 0),
            words,
            runs,
            ("checkpointing.keep_top_k", "checkpointing.save_optimizer"),
            "checkpointing.keep_top_k=1, or checkpointing.checkpoint_dir=<a larger disk>",
        )
    if rolled and not together:
        words = f"a run logs up to {gigabytes(rolled)} of rollouts (train_data_step files, NeMo Gym's responses)"
        yield from _full(c, logs, rolled, words, runs, ("logger.log_dir",), "logger.log_dir=<a larger disk>")


def _full(c: View, folder: str, size: int, words: str, runs: int, keys: tuple[str, ...], fix: str) -> Iterator[Found]:
    free = c.facts.disk_free(folder)
    if free is not None and size * runs > free:
        yield Found(
            keys,
            words
            + (f", {runs} runs {gigabytes(size * runs)}" if runs > 1 else "")
            + f"; {existing(folder)} has {gigabytes(free)} free",
            f"{fix}; nano-exp clean frees what old runs need no more; quotas are not known here",
        )


def start_line(test: Any, now: float | None = None) -> str:
    """When Slurm expects to start the job, in words; empty where it does not say."""
    if test is None or test.start is None:
        return ""
    wait = (test.start - (time.time() if now is None else now)) / 60
    if wait < 2:
        return "Slurm would start it at once (sbatch --test-only)"
    at = time.strftime("%d %b %H:%M", time.localtime(test.start))
    return f"Slurm expects to start it about {at}, in {duration(60 * wait)} (sbatch --test-only)"
