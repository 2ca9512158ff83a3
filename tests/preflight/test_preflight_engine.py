"""What the engines refuse, and the tiny model on a cluster's GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import frozen

from nano_exp.preflight import RULES
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View


@pytest.mark.parametrize(
    ("typed", "refused"),
    [
        (("cluster=1n8g",), True),
        (("cluster=1n1g", "grpo.max_num_steps=2"), True),
        (("slurm.where=slurm",), True),
        (("model=nano_tiny", "cluster=1n8g"), False),
        ((), False),
        (("grpo.seed=3",), False),
    ],
)
def test_the_tiny_model_takes_slurms_gpus_only_when_named(typed: tuple[str, ...], refused: bool) -> None:
    made = frozen(Path("/launch"), *typed)
    found = findings(View(made.config, made.overrides, Facts(environ={})), [RULES["model_named"]])
    assert bool(found) == refused
    for one in found:
        assert one.fix.startswith("one of these: model=nano_12b, model=nano_30b, model=nano_9b;")
        assert one.severity == "error"
