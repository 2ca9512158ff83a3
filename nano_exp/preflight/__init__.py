"""Preflight: wrong configs die in a second, and not in the queue.

    examine(wanted, facts, ignore) -> Report        every rule over every point; `wording` shows it

Settings that exclude each other are rows of the table in `exclusions`. Each other rule is a small function in a module
for its topic, registered by `registry.rule` under its own name. To add one, write it there and its passing and failing
example in tests/preflight. Rules get a `View` (a frozen config, and the
numbers derived from it) with `Facts` (files, environment, what Slurm said) and change nothing.
"""

from __future__ import annotations

# isort: off
from nano_exp.preflight import (  # noqa: F401  each registers its rules, in this order
    driver,
    validation,
    cluster,
    layout_findings,
    exclusions,
    policy,
    vllm,
    late,
    loss,
    megatron,
    keys,
    number_values,
    generation,
    tools,
    wandb_names,
    engine_refusals,
    partitions,
    accounts,
    folders,
    receivers_told,
    shared_caches,
    memory,
    studies,
    exportable,
)

# isort: on
from nano_exp.preflight.finding import Finding as Finding
from nano_exp.preflight.registry import PLACE as PLACE
from nano_exp.preflight.registry import RULES as RULES
from nano_exp.preflight.registry import Rule as Rule
from nano_exp.preflight.run import Report as Report
from nano_exp.preflight.run import examine as examine
from nano_exp.preflight.run import ignored as ignored
