"""Slurm: its commands, whether its controller answers, partitions, limits and accounting."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence

from nano_exp import slurm
from nano_exp.doctor.check import SLURM_S, Level, Said, check, error, fine, refusal, skipped, warning
from nano_exp.doctor.place import QUESTION_S, Place
from nano_exp.errors import UserError
from nano_exp.preflight.answers import Nodes
from nano_exp.text import duration

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct")
#: Arrays of fewer runs than this make many of a sweep.
FEW = 100


def out_of_reach(place: Place) -> Said | None:
    """Why Slurm is not asked; another check says what to do about it."""
    if not slurm.available():
        return skipped("no Slurm commands on this host")
    return skipped("Slurm's controller does not answer") if place.ping() else None


@check(SLURM_S)
def slurm_commands(place: Place) -> Iterator[Said]:
    """Slurm's commands are on PATH, and its controller answers."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    level: Level = "error" if place.on_slurm else "warning"
    try:
        slurm.require()
    except UserError as mistake:
        here = not place.on_slurm and len(missing) == len(COMMANDS)
        yield skipped("no Slurm here: cluster=local alone can be launched") if here else refusal(mistake, level)
        return
    if missing:
        yield warning(
            f"not on PATH: {', '.join(missing)}",
            "nano-exp asks Slurm with them; without sacct ended jobs are not known, without the others runs are not",
            "module load slurm, or the folder of Slurm's commands on PATH",
        )
    if problem := place.ping():
        yield Said(
            level,
            f"Slurm does not answer: {problem}",
            "nothing can be sent or asked until it does",
            "scontrol ping, again in a minute; SLURM_CONF=/path/of/slurm.conf where this host belongs to no cluster; "
            "else tell the site's administrators",
        )
        return
    settings = place.answers().settings or {}
    name, version = settings.get("ClusterName", "?"), settings.get("SLURM_VERSION", "?")
    yield fine(f"cluster {name}, Slurm {version}, the controller answers")


@check(SLURM_S)
def partitions(place: Place) -> Iterator[Said]:
    """There are partitions with GPUs, and the runs fit into the one that is named."""
    if silent := out_of_reach(place):
        yield silent
        return
    nodes = place.answers().nodes
    if nodes is None:
        yield _unanswered(place, "partitions")
        return
    with_gpus = [n for n in nodes if n.gpu_count()]
    if not with_gpus:
        yield Said(
            "error" if place.nemo_rl else "warning",
            "no partition has GPUs",
            "Slurm gives a run GPUs only where its nodes declare them (GresTypes=gpu, Gres=gpu:...)",
            "sinfo -o '%P %G' shows what it declares; site.gres=none where Slurm does not count them",
        )
    yield from place.rules(
        *("partition_there", "partition_time", "nodes_fit", "node_alone", "node_given", "memory_given", "gpu_memory"),
        *("host_memory_fits",),
        ask=True,
    )
    if with_gpus:
        yield fine("; ".join(_words(with_gpus)))


def _words(nodes: Sequence[Nodes]) -> Iterator[str]:
    for name in dict.fromkeys(n.partition for n in nodes):
        mine = [n for n in nodes if n.partition == name]
        gpus: dict[str, int] = {}
        for n in mine:
            for kind, count in n.gpus:
                key = f"{count} {kind or 'GPUs'}"
                gpus[key] = gpus.get(key, 0) + n.count
        limit = mine[0].minutes
        yield (
            f"{name}{'*' if mine[0].default else ''}: "
            + " + ".join(f"{count} nodes of {kind}" for kind, count in gpus.items())
            + (f", {duration(60 * limit)} at most" if limit is not None else "")
        )


def _unanswered(place: Place, what: str) -> Said:
    return warning(
        f"Slurm did not say: {'; '.join(place.answers().silent) or what}",
        "what the runs ask for cannot be compared with it",
        "the same again in a minute, or the command that it names by hand",
    )


@check(SLURM_S)
def limits(place: Place) -> Iterator[Said]:
    """Slurm's limits let this user send and queue the runs."""
    if silent := out_of_reach(place):
        yield silent
        return
    answers = place.answers()
    if answers.settings is None:
        yield _unanswered(place, "limits")
        return
    text = "\n".join(f"{key} = {value}" for key, value in answers.settings.items())
    array = slurm.parse_array_limit(text)
    if array is not None and array < FEW:
        yield warning(
            f"MaxArraySize={answers.settings.get('MaxArraySize')}: an array has {array} runs at most",
            "a sweep is cut into many arrays, each with its own place in the queue",
            f"nothing to type: sweeps are cut by themselves; slurm.max_array={max(1, array)} says it beforehand",
        )
    yield from place.rules("account_there", "qos_allows", "submit_limit", "slurm_accepts", ask=True)
    queued = [a.max_submit for a in answers.associations or () if a.max_submit is not None]
    queued += [q.max_submit for q in answers.qos or () if q.max_submit is not None]
    words = [f"{array} runs an array" if array is not None else "", f"{min(queued)} jobs queued" if queued else ""]
    yield fine(", ".join(filter(None, words)) or "none that Slurm tells")


@check(SLURM_S)
def accounting(place: Place) -> Iterator[Said]:
    """Slurm keeps what ended jobs did, or it is known that it does not."""
    if silent := out_of_reach(place):
        yield silent
        return
    kind = (place.answers().settings or {}).get("AccountingStorageType", "")
    if "slurmdbd" not in kind and "mysql" not in kind:
        yield fine("none here (no slurmdbd): GPU-hours and ends come from the runs' own files")
        return
    try:
        done = slurm.ask(["sacct", "-n", "-P", "-X", "-S", "now", "--format=JobID"], QUESTION_S)
        problem = slurm.words(done.stderr) if done.returncode else ""
    except slurm.NoAnswer as silence:
        problem = str(silence)
    if problem:
        yield warning(
            f"sacct: {problem}",
            "the cluster has accounting, and its database does not answer: how lost jobs ended stays unknown",
            "sacct -X, again in a minute; runs can be sent all the same",
        )
    else:
        yield fine("slurmdbd answers")


#: Seconds between two clocks from which tokens of munge and times of files mislead; and from which they fail.
SKEW, BROKEN = 5.0, 60.0


@check(SLURM_S)
def controller_clock(place: Place) -> Iterator[Said]:
    """The controller's clock and this host's agree."""
    if silent := out_of_reach(place):
        yield silent
        return
    try:
        before = time.time()
        done = slurm.ask(["scontrol", "show", "config"], QUESTION_S)
        after = time.time()
    except slurm.NoAnswer as silence:
        yield skipped(str(silence))
        return
    match = re.search(r"data as of (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", done.stdout)
    if match is None:
        yield skipped("the controller does not tell its time")
        return
    theirs = time.mktime(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    yield skew("the controller's clock", theirs - before if theirs < before else max(0.0, theirs - after), 1.0)


def skew(whose: str, seconds: float, exact: float) -> Said:
    """What it means that a clock is `seconds` ahead of this host's."""
    apart = abs(seconds)
    if apart <= max(SKEW, exact):
        return fine(f"{whose} and this host's agree within {max(apart, exact):.1f} s")
    make = error if apart >= BROKEN else warning
    return make(
        f"{whose} is {duration(apart)} {'ahead of' if seconds > 0 else 'behind'} this host's",
        "munge refuses what is too old, and heartbeats and times of files are compared between hosts",
        "chronyc tracking (or timedatectl) on both hosts; the administrators set the clocks",
    )
