"""Points that are judged together get the words that each gets alone."""

from __future__ import annotations

import copy
from typing import Any

from core_case import frozen  # noqa: F401  (the path of the tests' helpers)
from hypothesis import given, settings
from hypothesis import strategies as st
from preflight_case import ROWS, base
from test_preflight_rules import NONSENSE, keys

from nano_exp.compose.freeze import Frozen
from nano_exp.dotted import set_dotted
from nano_exp.preflight import cost
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.memory import not_checked
from nano_exp.preflight.run import Verdicts, findings, rules_of
from nano_exp.preflight.view import View

VALUES = st.one_of(NONSENSE, st.sampled_from([1, 1.0, "1", 2, 4, 8, 64, 0.5, 1e-6, "vllm", "v0.6.0", -0.0]))
SWEPT = st.lists(st.deferred(lambda: st.sampled_from(keys())), min_size=1, max_size=5, unique=True)


@settings(max_examples=40, deadline=None)
@given(row=st.sampled_from(ROWS), swept=SWEPT, signs=st.sampled_from(["", "++"]), data=st.data())
def test_a_sweep_says_what_its_points_say_alone(row: tuple[str, ...], swept: list[str], signs: str, data: Any) -> None:
    points = []
    for values in data.draw(st.lists(st.tuples(*(VALUES for _ in swept)), min_size=2, max_size=5)):
        config = copy.deepcopy(base(row))
        for key, value in zip(swept, values, strict=True):
            set_dotted(config, key, copy.deepcopy(value))
        points.append(Frozen("name", "0", (*row, *(f"{signs}{key}=x" for key in swept)), config))
    facts = Facts(environ={})
    together = Verdicts(points, facts)
    for index, point in enumerate(points):
        view = View(point.config, point.overrides, facts)
        assert sorted(map(repr, together.findings(index))) == sorted(map(repr, findings(view, rules_of(view))))
        assert together.cost(index) == cost.of_one(view, {})
        assert together.not_judged(index) == not_checked([view])
