"""The rulebook: which layouts are valid, for preflight, `nano-exp plan` and parallelism=auto alike.

Each rule is a small function with its source, registered under its own name. It gets a `Case` and yields a `Problem`
for each thing that is wrong; it knows nothing of memory, and what a case does not say it does not judge.

    problems(layout, architecture, shape)   every Problem of a layout on a cluster with a batch

Sources: MC = NVIDIA/Megatron-LM at the pins of NeMo RL v0.5.0-v0.7.0; RL = NVIDIA-NeMo/RL at v0.7.0; AM =
NVIDIA-NeMo/Automodel at the pins of NeMo RL v0.5.0-v0.7.0.
"""

from __future__ import annotations

# isort: off
from nano_exp.layout import rules_gpus, rules_model, rules_sequence, rules_batches  # noqa: F401  registered in this order

# isort: on
from nano_exp.layout.architecture import Architecture
from nano_exp.layout.case import RULES as RULES
from nano_exp.layout.case import Case, Problem, Shape
from nano_exp.layout.layouts import Layout
from nano_exp.nemo_rl import versions


def problems(layout: Layout, architecture: Architecture | None, shape: Shape) -> list[Problem]:
    """Every rule that a layout breaks; an empty list for a valid one."""
    case = Case(layout, architecture, shape)
    return [
        problem._replace(rule=one.name)
        for one in RULES.values()
        if versions.holds(one.versions, shape.version)
        for problem in one.check(case)
        if problem.severity == "error"
    ]
