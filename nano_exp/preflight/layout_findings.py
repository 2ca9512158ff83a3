"""The rules of layouts (`nano_exp.layout.rules`) as rules of preflight: a finding for each problem."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.layout import case, rules, rules_model
from nano_exp.layout.case import Problem
from nano_exp.preflight import vllm
from nano_exp.preflight.registry import Check, Mistake, Rule, add, rule
from nano_exp.preflight.view import View


def _as_mistake(problem: Problem) -> Mistake:
    return Mistake(problem.keys, problem.why, problem.fix, severity=problem.severity)


def _check(one: case.Rule) -> Check:
    return lambda c: map(_as_mistake, one.check(c.case)) if c.case is not None else ()


for _one in rules.RULES.values():
    add(Rule(_one.name, _one.summary, "error", _one.number, _one.versions, topic="layout", check=_check(_one)))


@rule()
def heads_and_engines(c: View) -> Iterator[Mistake]:
    """vLLM's tensor parallel ranks share heads, groups and columns equally."""
    a = c.architecture
    if not c.vllm or c.vtp is None or a is None:
        return
    # vLLM copies key and value heads where there are fewer than ranks.
    parts = [(a.heads, "attention heads"), (a.intermediate, "columns of the MLP")]
    parts += [(a.groups, "Mamba groups"), (a.mamba_heads, "Mamba heads")] if a.hybrid else []
    yield from map(_as_mistake, rules_model.unequal(a.name, vllm.TP, c.vtp, lambda _: parts, "ranks of an engine"))
