"""What to type against a cause: overrides of this project, fitted to the frozen config, and never what it already has.

Facts: NeMo RL v0.7.0 models/policy/*.py, models/megatron/{setup,community_import}.py, algorithms/grpo.py, its
docs/cluster.md and docs/about/tips-and-tricks.md; vLLM's own messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nano_exp.triage.knobs import Knobs
from nano_exp.triage.signs import Found
from nano_exp.triage.vocabulary import CAUSES

Remedy = Callable[[Knobs, Found, str], str]
REMEDIES: dict[str, Remedy] = {}


def remedy(*causes: str) -> Callable[[Remedy], Remedy]:
    """Register what to type against these causes: a function of the knobs, of what was found, and of the phase."""
    assert set(causes) <= set(CAUSES)

    def register(function: Remedy) -> Remedy:
        REMEDIES.update(dict.fromkeys(causes, function))
        return function

    return register


def of(cause: str, config: Mapping[str, Any], found: Found, phase: str, node: str = "") -> str:
    """The remedy, one line; where a node is to blame, how to avoid it comes first."""
    said = REMEDIES[cause](Knobs(config), found, phase)
    if node and CAUSES[cause].blames_node:
        return f"hydra.launcher.exclude={node}; {said}"
    return said


def either(*choices: str) -> str:
    """The first ones that apply, best first."""
    return "; or ".join([c for c in choices if c][:3])
