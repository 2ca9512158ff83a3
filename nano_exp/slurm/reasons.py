"""Slurm's words for why a job waits (squeue's reason), in plain ones with Slurm's own after them. Pure."""

from __future__ import annotations

import re

#: Reasons of their own. `{}` is what Slurm names after the reason.
REASONS = {
    "Priority": "others in the queue come first",
    "Resources": "next in the queue, waits for free nodes",
    "Dependency": "waits for another job to end",
    "DependencyNeverSatisfied": "waits for a job that will not end as it must",
    "JobArrayTaskLimit": "as many runs of its array as are allowed at once run already",
    "BeginTime": "its start time has not come",
    "JobHeldUser": "held by its user",
    "JobHeldAdmin": "held by an administrator",
    "ReqNodeNotAvail": "a node that it needs is not available",
    "NodeDown": "a node that it needs is down",
    "Reservation": "waits for its reservation to begin",
    "ReservationDeleted": "its reservation is gone",
    "Licenses": "waits for a licence",
    "PartitionDown": "its partition does not start jobs now",
    "PartitionInactive": "its partition takes no jobs now",
    "PartitionNodeLimit": "asks for more nodes than its partition gives a job",
    "PartitionTimeLimit": "asks for more time than its partition gives a job",
    "AccountNotAllowed": "its account may not use the partition",
    "QOSNotAllowed": "its QOS may not be used there",
    "InvalidAccount": "its account does not exist any more",
    "InvalidQOS": "its QOS does not exist any more",
    "QOSUsageThreshold": "its QOS has been used too much lately",
    "BadConstraints": "no node has what it asks for",
    "NodesDown": "the nodes that it needs are down, drained or reserved for others",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "its files are being copied to the burst buffer",
    "BurstBufferOperation": "the burst buffer failed for it",
    "FrontEndDown": "the front end that starts jobs is down",
    "Cleaning": "its last start is being cleaned up",
    "Prolog": "its nodes are being prepared",
    "SchedDefer": "looked at in the next round of scheduling",
    "FedJobLock": "the clusters settle which of them starts it",
    "DeadLine": "cannot end before its deadline",
    "SystemFailure": "Slurm itself failed",
    "JobLaunchFailure": "it could not be started on its node",
    "InactiveLimit": "it was inactive for too long",
    "MaxRequeueExceeded": "it was started again too often",
    "MaxMemPerLimit": "asks for more memory than a CPU or node may have",
    "AccountingPolicy": "a limit of its account",
    "None": "just submitted",
}
#: Slurm says it in a sentence, with _ for blanks.
_SENTENCES = {"Nodes required for job are DOWN": "NodesDown"}
_WHOSE = {"Assoc": "its account", "Association": "its account", "QOS": "its QOS"}
_WHAT = {
    "cpu": "CPUs",
    "gres": "GPUs",
    "node": "nodes",
    "nodes": "nodes",
    "mem": "memory",
    "memory": "memory",
    "job": "jobs",
    "jobs": "jobs",
    "submitjob": "submitted jobs",
    "submitjobs": "submitted jobs",
    "wall": "time",
    "wallduration": "time",
    "time": "time",
    "billing": "billing units",
    "energy": "energy",
    "license": "licences",
    "bb": "burst buffer",
    "resource": "resources",
    "unknown": "resources",
    "prio": "priority",
}


def in_words(reason: str) -> str:
    """A reason in plain words, as in `waits for another job to end (Dependency)`; what is not known stays as it is."""
    sentence = reason.replace("_", " ")
    word, _, rest = reason.partition(",")
    word = next((name for start, name in _SENTENCES.items() if sentence.startswith(start)), word.strip())
    plain = REASONS.get(word) or _limit(word)
    if plain is None:
        return sentence if "_" in reason else reason
    nodes = rest.partition(":")[2].strip() if word == "ReqNodeNotAvail" else ""
    return f"{plain}{f': {nodes}' if nodes else ''} ({word})" if word not in ("NodesDown", "None") else plain


def _limit(word: str) -> str | None:
    """A limit of an account or a QOS, whose names are made of parts: QOSMaxJobsPerUserLimit, AssocGrpGRESMinutes."""
    parts = re.fullmatch(
        r"(Association|Assoc|QOS)?(Grp|Max|Min)?([A-Za-z]+?)(?:Run)?(Minutes)?(?:Per(User|Account|Job|Node))?"
        r"(?:Limit|NotSatisfied)?",
        word,
    )
    what = _WHAT.get(parts[3].lower()) if parts and (parts[1] or parts[5]) else None
    if parts is None or what is None:
        return None
    whose = _WHOSE.get(parts[1], "its QOS")
    what += " x minutes" if parts[4] else ""
    if parts[2] == "Min":
        return f"asks for fewer {what} than {whose} wants"
    if parts[5] in ("Job", "Node"):
        return f"asks for more {what} a {parts[5].lower()} than {whose} gives"
    return f"{whose} is at its limit of {what}" + (f" for one {parts[5].lower()}" if parts[5] else "")
