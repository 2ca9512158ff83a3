"""`pack=N`: small runs share an allocation, so many at a time; which runs can (docs/sweeps.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp.engines import slots
from nano_exp.errors import UserError
from nano_exp.launch import allocation, machine
from nano_exp.launch.terms import Terms
from nano_exp.slurm import arrays
from nano_exp.slurm.shapes import Shape, shape

ALONE = "leave pack out: each run gets an allocation of its own"
ONE_BY_ONE = "leave pack out: one run at a time"


@dataclass(frozen=True)
class Pack:
    """How an array's runs are dealt.

    Parameters
    ----------
    slots: runs at once in one allocation
    allocations: tasks of the job array; run number i goes to allocation i modulo this
    behind: the array that has to end first, for `parallel`
    """

    slots: int
    allocations: int
    behind: int | None = None


def deal(terms: Terms, counts: Sequence[int]) -> list[Pack | None]:
    """The packs of a launch's arrays; None for an array whose runs are not packed.

    With `parallel` there are as many allocations as may be full at once, and each works off its runs; without it there
    is a slot for every run.

    Parameters
    ----------
    counts: runs of each array
    """
    if terms.pack is None:
        return [None] * len(counts)
    most = min(terms.pack, terms.parallel or terms.pack)
    sizes = [-(-count // most) for count in counts]
    if terms.parallel is None:
        packs = [Pack(-(-count // size), size) for count, size in zip(counts, sizes, strict=True)]
        return [pack if pack.slots > 1 else None for pack in packs]
    shares = arrays.slots(terms.parallel // most, sizes)
    return [
        Pack(min(most, -(-count // share.throttle)), share.throttle, share.behind)
        for count, share in zip(counts, shares, strict=True)
    ]


def at_once(terms: Terms) -> int | None:
    """How many runs a machine without Slurm executes at once; None where neither `pack` nor `parallel` says."""
    return min(filter(None, (terms.pack, terms.parallel)), default=None)


def require(
    terms: Terms, configs: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], where: str = "slurm"
) -> None:
    """Refuse to pack runs that cannot share an allocation, or this machine.

    Parameters
    ----------
    configs: the frozen configs of a launch
    parameters: hydra.launcher's
    where: slurm or local

    Raises
    ------
    UserError: the first thing that is in the way
    """
    if terms.pack is None:
        return
    shapes = list(dict.fromkeys(shape(dict(config)) for config in configs))
    _require_small(terms.pack, shapes, where)
    for config in configs:
        _require_engine(terms.pack, config, shapes[0])
    for config in configs:
        most = machine.gpus() if where == "local" else allocation.most_gpus(config["site"], parameters)
        _require_room(terms.pack, shapes[0], most, where)


def _require_small(pack: int, shapes: Sequence[Shape], where: str) -> None:
    form = shapes[0]
    if len(shapes) > 1:
        raise UserError(
            f"pack={pack}, and runs of {form} beside runs of {shapes[1]}",
            "all slots of an allocation have the same GPUs and CPUs",
            "one launch for each shape",
        )
    if form.nodes > 1:
        raise UserError(f"pack={pack}, and runs of {form}", "runs that share a node have one node each", ALONE)
    if form.whole and where != "local":
        raise UserError(
            f"pack={pack}, and runs that have their nodes alone", "they share a node", "site.allocation=share"
        )


def _require_engine(pack: int, config: Mapping[str, Any], form: Shape) -> None:
    if config["engine"]["name"] != "nemo_rl":
        return
    if config["site"].get("entry") == "pyxis":
        raise UserError(
            f"pack={pack} with site.entry=pyxis",
            "its step takes all of the allocation's GPUs and CPUs",
            ALONE,
        )
    if pack > (most := slots.most(form.gpus_per_node)):
        raise UserError(
            f"pack={pack}, and runs of NeMo RL with {_gpus(form)}",
            f"each one's Ray and vLLM need ports of their own, and there are blocks for {most}",
            f"pack={most}",
        )


def _require_room(pack: int, form: Shape, most: int | None, where: str) -> None:
    if most is None or form.gpus_per_node * pack <= most:
        return
    fits = most // form.gpus_per_node
    has = f"this machine shows {most}" if where == "local" else f"they share a node, and nodes there have {most}"
    raise UserError(
        f"pack={pack}, and runs of {_gpus(form)}",
        has,
        f"pack={fits}" if fits > 1 else (ONE_BY_ONE if where == "local" else ALONE),
    )


def _gpus(form: Shape) -> str:
    return f"{form.gpus_per_node} GPU{'s' if form.gpus_per_node > 1 else ''}"
