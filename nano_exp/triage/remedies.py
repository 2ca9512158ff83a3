"""What to type against a cause: overrides of this project, fitted to the frozen config, and never what it already has.

Facts: NeMo RL v0.7.0 models/policy/*.py, models/megatron/{setup,community_import}.py, algorithms/grpo.py, its
docs/cluster.md and docs/about/tips-and-tricks.md; vLLM's own messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nano_exp.triage.knobs import Knobs
from nano_exp.triage.signs import Reading
from nano_exp.triage.vocabulary import causes

Remedy = Callable[[Knobs, Reading, str], str]
REMEDIES: dict[str, Remedy] = {}


def remedy(*names: str) -> Callable[[Remedy], Remedy]:
    """Register what to type against causes whose row has no remedy.

    A function of the knobs, of what the sign read, and of the phase.
    """

    def register(function: Remedy) -> Remedy:
        REMEDIES.update(dict.fromkeys(names, function))
        return function

    return register


def of(cause: str, config: Mapping[str, Any], reading: Reading, phase: str, node: str = "") -> str:
    """The remedy, one line; where a node is to blame, how to avoid it comes first."""
    template = causes()[cause].remedy
    if template is None:
        remedy = REMEDIES[cause](Knobs(config), reading, phase)
    else:
        fields = {"subject": reading.subject, "logs": Knobs(config).logs()}
        remedy = _PLACE.sub(lambda place: fields[place[1]] or place[2] or "", template)
    if node and causes()[cause].blames_node:
        return f"hydra.launcher.exclude={node}; {remedy}"
    return remedy


#: {name} or {name|what stands there where nothing is known}, in a template of causes.yaml.
_PLACE = re.compile(r"\{(subject|logs)(?:\|([^{}]*))?\}")


def either(*choices: str) -> str:
    """The first ones that apply, best first."""
    return "; or ".join([c for c in choices if c][:3])
