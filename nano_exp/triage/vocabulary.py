"""Every cause that a diagnosis can name: the rows of causes.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from nano_exp import files

TABLE = Path(__file__).with_name("causes.yaml")

Fault = Literal["infrastructure", "config", "code", "user", "unknown"]


@dataclass(frozen=True)
class Pattern:
    """A sign that is one regular expression over a line; causes.yaml says what its fields mean."""

    needle: str
    pattern: str
    detail: str = ""
    any_level: bool = False


@dataclass(frozen=True)
class Cause:
    """A cause.

    Parameters
    ----------
    name: its word in records and filters
    title: what a table shows
    fault: whose: only infrastructure's may be retried without being asked
    echo: what others' faults look like from here (a worker that vanished): anything with a reason of its own wins
    outside: it also happens to processes that are killed from outside; not believed when Slurm ended the job
    blames_node: the next attempt should avoid the node
    weak: a warning that is often survived: believed only where set-up never ended, and nothing else says why
    remedy: what to type, a template (remedies.of); None where a function makes it
    signs: lines that show it; others are functions (signs_*.py)
    """

    name: str
    title: str
    fault: Fault
    echo: bool = False
    outside: bool = False
    blames_node: bool = False
    weak: bool = False
    remedy: str | None = None
    signs: tuple[Pattern, ...] = ()


FLAGS = ("echo", "outside", "blames_node", "weak")


@cache
def causes() -> Mapping[str, Cause]:
    """Name -> cause, in the order of causes.yaml. Read when a diagnosis is made: few attempts need one."""
    cause_of = {}
    for name, row in files.read_yaml(TABLE).items():
        signs = tuple(Pattern(**sign) for sign in row.get("signs", ()))
        flags = {flag: flag in row.get("flags", ()) for flag in FLAGS}
        cause_of[name] = Cause(name, row["title"], row["fault"], **flags, remedy=row.get("remedy"), signs=signs)
    return cause_of


@cache
def order() -> Mapping[str, int]:
    """Name -> place in the table."""
    return {name: place for place, name in enumerate(causes())}


PHASES: dict[str, str] = {
    "train": "in the training step",
    "logprob": "while computing logprobs",
    "generation": "in generation",
    "refit": "while vLLM took over the weights (refit)",
    "conversion": "while converting the Hugging Face weights to Megatron's format",
    "setup": "during set-up",
    "data": "while reading data",
    "checkpoint": "at a checkpoint",
    "unknown": "",
}
