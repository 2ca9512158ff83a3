"""`parallelism=auto`: the best layout that fits, as plain overrides, before anything is composed.

So a frozen config has plain values, its identity is that of the values, and a sweep may mix `auto` with other layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from nano_exp import dotted
from nano_exp.compose import compose, family, resolving
from nano_exp.compose.compose import Point
from nano_exp.compose.family import Sibling
from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.overrides import Override


def wants_auto(overrides: Sequence[str]) -> bool:
    """Whether a point asks for it."""
    return any(is_auto(word) for word in overrides)


def is_auto(word: str) -> bool:
    typed = Override.parse(word)
    return not typed.deletes and (typed.key, typed.unquoted) == ("parallelism", "auto")


def without(overrides: Sequence[str]) -> list[str]:
    """The overrides that are left: those of the published layout."""
    return [word for word in overrides if not is_auto(word)]


def compose_point(config_loader: ConfigLoader, overrides: Sequence[str]) -> Point:
    """One point, composed.

    Raises
    ------
    UserError: as `take` and `compose.compose_point`
    Uncomposable: as `compose.compose_point`
    """
    if not wants_auto(overrides):
        return compose.compose_point(config_loader, overrides)
    rest = without(overrides)
    words, note = take(rest, resolving.resolve(compose.compose_point(config_loader, rest).cfg))
    point = compose.compose_point(config_loader, overrides, words)
    return replace(point, notes=_with(point.notes, note))


def compose_points(
    config_loader: ConfigLoader, overrides: Sequence[Sequence[str]], master: DictConfig | None = None
) -> list[Point | Sibling]:
    """Every point of a launch, composed; where some ask for parallelism=auto, all are composed without it first, since
    a layout is chosen for each point's own values.

    Parameters
    ----------
    master: as `family.compose_points` has it

    Raises
    ------
    UserError, Uncomposable: as `compose_point`, for the first point that cannot be composed
    """
    if not any(wants_auto(point) for point in overrides):
        return family.compose_points(config_loader, overrides, master)
    rests = [without(point) for point in overrides]
    words_and_notes: list[tuple[Sequence[str], str]] = []
    for point, rest, plain in zip(overrides, rests, family.compose_points(config_loader, rests), strict=True):
        words_and_notes.append(take(rest, _resolved(plain)) if wants_auto(point) else (point, ""))
    composed = family.compose_points(config_loader, [words for words, _ in words_and_notes])
    return [
        replace(one, overrides=tuple(point), notes=_with(one.notes, note))
        for one, point, (_, note) in zip(composed, overrides, words_and_notes, strict=True)
    ]


def _with(notes: tuple[str, ...], note: str) -> tuple[str, ...]:
    return (*notes, note) if note else notes


def _resolved(point: Point | Sibling) -> dict[str, Any]:
    if isinstance(point, Point):
        return resolving.resolve(point.cfg)
    return dotted.with_values(point.family.resolved, point.changes)


def take(rest: Sequence[str], config: Mapping[str, Any]) -> tuple[list[str], str]:
    """A point's overrides with a layout in the place of `parallelism=auto`, and what was taken in one line.

    Keys of a layout that the user typed too stay as typed: only layouts that agree with them are looked at.

    Parameters
    ----------
    rest: the point's other overrides
    config: resolved, composed of these

    Raises
    ------
    UserError: no layout is valid, or none fits
    """
    from nano_exp.layout import layouts, workload
    from nano_exp.planner import gpus, search, verdict
    from nano_exp.planner.ranges import GIB

    if Config(config).get("engine.name") == "embedded":  # it has one layout
        return list(rest), ""
    device = gpus.of_site(config)
    job = workload.of_config(config)
    typed = {Override.parse(word).key for word in rest} & set(layouts.KEYS)
    pinned = tuple((key, Config(config).get(key)) for key in sorted(typed))
    constants = gpus.constants(device.name)
    best = search.best(job, device, constants, pinned)
    with_typed = f" with {search.as_text(dict(pinned))}" if pinned else ""
    if best is None:
        raise UserError(
            f"parallelism=auto{with_typed}: no layout is valid on {job.world} training GPUs",
            "heads, layers, experts or batches do not divide that way (nano-exp plan with these words lists what does)",
            "leave some of these keys out, or name a layout: parallelism=published",
        )
    worst = best.telling
    needs = f"{worst.name} {worst.size.expected / GIB:.1f} of {worst.limit / GIB:.1f} GiB"
    if best.klass == "no":
        shorter = f"policy.max_total_sequence_length={max(job.max_length // 2, 1)}"
        raise UserError(
            f"parallelism=auto{with_typed}: no layout fits {job.world} x {device.name}",
            f"the best one, {best.layout.title()}, needs at least {worst.size.low / GIB:.1f} of "
            f"{worst.limit / GIB:.1f} GiB in the phase {worst.name}",
            verdict.cheapest_fix(best.job, device, constants) or f"{shorter}, more nodes, or GPUs with more memory",
        )
    note = (
        f"parallelism=auto takes {best.layout.title()}, micro batch {best.layout.micro_batch}: {best.klass} ({needs})"
    )
    return [*search.as_words(layouts.overrides(best.layout).items()), *rest], note
