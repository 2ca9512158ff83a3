"""What a launch's allocations cost at most, those that runs share counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nano_exp import alike
from nano_exp.launch import job_arrays, packing
from nano_exp.launch.terms import Terms
from nano_exp.preflight import cost as costs
from nano_exp.preflight.cost import Cost


def cost(configs: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], terms: Terms) -> Cost:
    """What runs of these configs cost at most.

    Parameters
    ----------
    parameters: hydra.launcher's
    """
    return shared(costs.cost(configs, parameters), configs, parameters, terms)


def shared(whole: Cost, configs: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], terms: Terms) -> Cost:
    """A cost in which each run has an allocation of its own, as it is with `pack`."""
    minutes = parameters.get("timeout_min")
    if terms.pack is None or whole.gpu_hours is None or not isinstance(minutes, int | float):
        return whole
    places = alike.each(configs, job_arrays.shape_and_place)
    groups = Counter((*place, str(config["run"]["name"])) for place, config in zip(places, configs, strict=True))
    hours: list[float] = []
    for ((form, _, _), count), pack in zip(groups.items(), packing.deal(terms, list(groups.values())), strict=True):
        slots, number = (pack.slots, pack.allocations) if pack else (1, count)
        hours += [form.nodes * form.gpus_per_node * slots * minutes / 60] * number
    return replace(whole, gpu_hours=sum(hours), largest_gpu_hours=max(hours), packed=len(hours))
