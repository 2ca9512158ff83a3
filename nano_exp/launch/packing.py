"""`pack=N`: small runs share an allocation, so many at a time; which runs can (docs/sweeps.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.launch import allocation
from nano_exp.launch.terms import Terms
from nano_exp.slurm import arrays
from nano_exp.slurm.shapes import Shape, shape

ALONE = "leave pack out: each run gets an allocation of its own"


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


def require(terms: Terms, configs: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> None:
    """Refuse to pack runs that cannot share an allocation.

    Parameters
    ----------
    configs: the frozen configs of a launch
    parameters: hydra.launcher's

    Raises
    ------
    UserError: the first thing that is in the way
    """
    if terms.pack is None:
        return
    if terms.halving:
        raise UserError(
            f"pack={terms.pack} with halving.rungs",
            "a run that goes on from a rung is sent by itself",
            "leave one of the two out",
        )
    shapes = list(dict.fromkeys(shape(dict(config)) for config in configs))
    _require_small(terms.pack, shapes)
    for config in configs:
        _require_engine(terms.pack, config)
    for config in configs:
        _require_room(terms.pack, shapes[0], config, parameters)


def _require_small(pack: int, shapes: Sequence[Shape]) -> None:
    form = shapes[0]
    if len(shapes) > 1:
        raise UserError(
            f"pack={pack}, and runs of {form} beside runs of {shapes[1]}",
            "all slots of an allocation have the same GPUs and CPUs",
            "one launch for each shape",
        )
    if form.nodes > 1:
        raise UserError(f"pack={pack}, and runs of {form}", "runs that share a node have one node each", ALONE)
    if form.whole:
        raise UserError(
            f"pack={pack}, and runs that have their nodes alone", "they share a node", "site.allocation=share"
        )


def _require_engine(pack: int, config: Mapping[str, Any]) -> None:
    if config["engine"]["name"] != "nemo_rl":
        return
    if Config(config).get("engine.ray_address", "local") == "local":
        raise UserError(
            f"pack={pack} with the engine nemo_rl, which starts Ray",
            "NeMo RL's memory report stops with an error where it finds two Rays on a host",
            f"{ALONE}, on a node of its own",
        )
    if config["site"].get("entry") == "pyxis":
        raise UserError(
            f"pack={pack} with site.entry=pyxis",
            "its step takes all of the allocation's GPUs and CPUs",
            ALONE,
        )


def _require_room(pack: int, form: Shape, config: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    most = allocation.most_gpus(config["site"], parameters)
    if most is None or form.gpus_per_node * pack <= most:
        return
    fits = most // form.gpus_per_node
    raise UserError(
        f"pack={pack}, and runs of {form.gpus_per_node} GPU{'s' if form.gpus_per_node > 1 else ''}",
        f"they share a node, and nodes there have {most}",
        f"pack={fits}" if fits > 1 else ALONE,
    )
