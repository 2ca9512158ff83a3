"""Every valid layout of a run, judged and ranked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from nano_exp.layout import layouts
from nano_exp.layout.layouts import Layout
from nano_exp.layout.workload import Job
from nano_exp.planner import candidates, steptime
from nano_exp.planner.gpus import Constants, Gpu
from nano_exp.planner.phase_memory import GENERATION, ORDER, REFIT, SHARE, Phase, deciding, phases
from nano_exp.planner.steptime import StepTime


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
        return deciding(self.phases).klass

    @property
    def own_klass(self) -> str:
        """The class of the phases that the layout decides."""
        return deciding(self._own).klass

    @property
    def telling(self) -> Phase:
        """The phase that decides; of a layout that fits, the fullest of those that the layout itself makes full."""
        return deciding(self._own if self.klass == "fits" else self.phases)

    @property
    def _own(self) -> Sequence[Phase]:
        """Without vLLM's phases, which take what they are given, and the refit, whose buffer takes of what is free."""
        return [p for p in self.phases if p.name not in (GENERATION, SHARE, REFIT)] or self.phases

    @property
    def training_headroom(self) -> float:
        """Bytes left in the fullest phase that the layout decides."""
        return min(phase.headroom for phase in self._own)


def option(job: Job, gpu: Gpu, constants: Constants) -> Option:
    """One layout judged."""
    return Option(job, phases(job, gpu, constants), steptime.estimate(job, gpu, constants))


#: Keys that the user set, with their values.
Pinned = tuple[tuple[str, Any], ...]


@lru_cache(maxsize=64)
def every(
    job: Job, gpu: Gpu, constants: Constants, pinned: Pinned = (), micros: tuple[int, ...] = ()
) -> tuple[Option, ...]:
    """Every candidate layout for the job, best first (`rank`), each with as little recompute and offload as fits.

    Parameters
    ----------
    pinned: layouts that say otherwise are left out
    micros: micro batches to look at; by default 1, 2, 4, 8 and the present one
    """
    options = []
    for plain in candidates.valid(job.architecture, job.shape, job.layout, job.max_length, micros):
        if job.lora and plain.backend != job.layout.backend:
            continue  # each backend has adapters of its own in the config: the other one would train all parameters
        variants: list[Option] = []
        for layout in candidates.thriftier(plain, job.architecture, job.version):
            if agrees(layout, pinned):
                variants.append(option(replace(job, layout=layout), gpu, constants))
                if variants[-1].own_klass == "fits":
                    break
        options += [min(variants, key=rank)] if variants else []
    return tuple(sorted(options, key=rank))


#: Times of two layouts within this factor are the same to the ranking: the estimate is no better than that.
SAME_TIME = 1.15


def rank(one: Option) -> tuple[int, int, int, int, float]:
    """The class; that of what the layout decides; the estimated time of that, in steps of SAME_TIME; simplicity;
    headroom."""
    n, training_time = one.layout, max(one.time.total - one.time.generation, 1e-9)
    sizes = (n.tensor, n.pipeline, n.context, n.expert)
    complexity = sum(size.bit_length() - 1 for size in sizes) + 2 * n.offload + (n.pipeline > 1) + (n.context > 1)
    return (
        ORDER.index(one.klass),
        ORDER.index(one.own_klass),
        round(math.log(training_time, SAME_TIME)),
        complexity,
        -one.training_headroom,
    )


def best(job: Job, gpu: Gpu, constants: Constants, pinned: Pinned = ()) -> Option | None:
    """The best layout, or None where there is no valid one."""
    return next(iter(every(job, gpu, constants, pinned)), None)


def agrees(layout: Layout, pinned: Pinned) -> bool:
    """Whether a layout has the pinned values (a size that its overrides leave out is 1, a switch false)."""
    if not pinned:
        return True
    settings = layouts.overrides(layout)
    return all(settings.get(key, False if isinstance(value, bool) else 1) == value for key, value in pinned)


def shortlist(options: Sequence[Option], number: int) -> list[Option]:
    """The best option of each (backend, TP, PP, CP, EP), the first `number` of them."""
    families: set[tuple[Any, ...]] = set()
    shortlisted = []
    for one in options:
        n = one.layout
        key = (n.backend, n.tensor, n.pipeline, n.context, n.expert)
        if key not in families:
            families.add(key)
            shortlisted.append(one)
    return shortlisted[:number]


def as_text(keys: Mapping[str, Any]) -> str:
    """Overrides as one types them."""
    return " ".join(as_words(keys.items()))


def as_words(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in pairs]
