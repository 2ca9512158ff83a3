"""What the planner's tests share: the three models, resolved configs of real compositions, a job to change."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from core_case import point

from nano_exp.compose import resolving
from nano_exp.layout import architecture, workload
from nano_exp.layout.architecture import Architecture
from nano_exp.layout.workload import Job
from nano_exp.planner import gpus

MODELS = ("nano_9b", "nano_12b", "nano_30b")
H100 = gpus.gpu("h100-80")
#: The constants as assumed, whatever was calibrated on this machine.
CONSTANTS = gpus.assumed()


@cache
def config(*overrides: str) -> dict[str, Any]:
    """A resolved config, as preflight sees it. Not to be changed."""
    return resolving.resolve(point(*overrides).cfg)


@cache
def facts(model: str) -> dict[str, Any]:
    return config(f"model={model}", "cluster=1n8g")["model"]


@cache
def model(name: str) -> Architecture:
    return architecture.from_facts(facts(name))


@cache
def read(*overrides: str) -> Job:
    return workload.of_config(config(*overrides))


def over(base: Job, **shape: Any) -> Job:
    """The job over another shape."""
    return replace(base, shape=base.shape._replace(**shape))


def laid(base: Job, **layout: Any) -> Job:
    """The job with another layout."""
    return replace(base, layout=replace(base.layout, **layout))
