"""What the published recipe itself is warned of takes a line; what a user changed is told whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import frozen
from preflight_case import NINE, TWELVE

from nano_exp import preflight
from nano_exp.preflight import baseline, wording
from nano_exp.preflight.facts import Facts

RULE = "metric_between_validations"


def said(folder: Path, *points: tuple[str, ...]) -> list[str]:
    """What a launch of these points prints of the rule."""
    wanted = [frozen(folder, *overrides) for overrides in points]
    facts = Facts()
    report = preflight.examine(wanted, facts)
    shown = wording.warnings(report, baseline.of(wanted, report, facts))
    return [line for line in shown.splitlines() if RULE in line or "grpo.val_period=" in line]


@pytest.mark.parametrize("more", [(), ("optimizer.lr=1e-6",), ("site.partition=gpu", "run.name=x")])
def test_a_finding_of_the_recipe_as_published_is_one_line(tmp_path: Path, more: tuple[str, ...]) -> None:
    [line] = said(tmp_path, (*NINE, *more), (*NINE, *more, "grpo.seed=7"), TWELVE)
    assert line.startswith("as published: ")
    assert RULE in line


def test_the_same_rule_with_other_values_is_told_whole(tmp_path: Path) -> None:
    lines = said(tmp_path, (*NINE, "grpo.val_period=7"))
    assert lines[0].startswith("warning: ")
    assert f"rule: {RULE}" in lines[-1]
