"""Every valid layout of a run, judged and ranked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from nano_exp.planner import layouts, steptime
from nano_exp.planner.gpus import Constants, Gpu
from nano_exp.planner.job import Job
from nano_exp.planner.layouts import EMBEDDED, Layout
from nano_exp.planner.phases import Phase, phases
from nano_exp.planner.steptime import StepTime

_RANK = {"fits": 0, "tight": 1, "no": 2}


@dataclass(frozen=True)
class Option:
    """A layout with what it needs and costs."""

    job: Job
    phases: tuple[Phase, ...]
    time: StepTime

    @property
    def layout(self) -> Layout:
        return self.job.layout

    @property
    def klass(self) -> str:
        return max((phase.klass for phase in self.phases), key=lambda k: _RANK[k])

    @property
    def training_headroom(self) -> float:
        """Bytes left in the fullest phase that the layout can change: generation by itself is not one."""
        own = [p for p in self.phases if p.name not in ("generation", "vllm share")] or list(self.phases)
        return min(phase.headroom for phase in own)


def option(job: Job, gpu: Gpu, constants: Constants) -> Option:
    """One layout judged."""
    return Option(job, phases(job, gpu, constants), steptime.estimate(job, gpu, constants))


#: Keys that the user set, with their values.
Pinned = tuple[tuple[str, Any], ...]


@lru_cache(maxsize=64)
def every(job: Job, gpu: Gpu, constants: Constants, pinned: Pinned = ()) -> tuple[Option, ...]:
    """Every candidate layout for the job, best first (`rank`), each with as little recompute and offload as fits.

    Parameters
    ----------
    pinned: layouts that say otherwise are left out
    """
    if job.layout.backend == EMBEDDED:
        return (option(job, gpu, constants),)
    found = []
    for plain in layouts.candidates(job.architecture, job.shape, job.layout, job.max_length):
        tried: list[Option] = []
        for layout in layouts.thriftier(plain, job.architecture, job.version):
            if agrees(layout, pinned):
                tried.append(option(replace(job, layout=layout), gpu, constants))
                if tried[-1].klass == "fits":
                    break
        found += [min(tried, key=rank)] if tried else []
    return tuple(sorted(found, key=rank))


#: Times of two layouts within this factor are the same to the ranking: the estimate is no better than that.
SAME_TIME = 1.15


def rank(one: Option) -> tuple[int, int, int, float]:
    """The class; the estimated time that the layout decides, in steps of SAME_TIME; simplicity; headroom."""
    n, own = one.layout, max(one.time.total - one.time.generation, 1e-9)
    sizes = (n.tensor, n.pipeline, n.context, n.expert)
    complexity = sum(size.bit_length() - 1 for size in sizes) + 2 * n.offload + (n.pipeline > 1) + (n.context > 1)
    return _RANK[one.klass], round(math.log(own, SAME_TIME)), complexity, -one.training_headroom


def best(job: Job, gpu: Gpu, constants: Constants, pinned: Pinned = ()) -> Option | None:
    """The best layout, or None where there is no valid one."""
    return next(iter(every(job, gpu, constants, pinned)), None)


def agrees(layout: Layout, pinned: Pinned) -> bool:
    """Whether a layout has the pinned values (a size that its overrides leave out is 1, a switch false)."""
    if not pinned:
        return True
    own = layouts.overrides(layout)
    return all(own.get(key, False if isinstance(value, bool) else 1) == value for key, value in pinned)


def shortlist(found: Sequence[Option], number: int) -> list[Option]:
    """The best option of each (backend, TP, PP, CP, EP), the first `number` of them."""
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for one in found:
        n = one.layout
        key = (n.backend, n.tensor, n.pipeline, n.context, n.expert)
        if key not in seen:
            seen.add(key)
            kept.append(one)
    return kept[:number]


def as_text(keys: Mapping[str, Any]) -> str:
    """Overrides as one types them."""
    return " ".join(as_words(keys.items()))


def as_words(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in pairs]
