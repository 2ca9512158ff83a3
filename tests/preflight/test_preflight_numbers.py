"""Numbers that are none."""

from __future__ import annotations

import pytest
from preflight_case import NINE, TWELVE, TWELVE_2, Case, assert_case, config, said

from nano_exp.preflight import RULES
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.number_values import AT_LEAST_ONE
from nano_exp.preflight.view import View


@pytest.mark.parametrize("key", AT_LEAST_ONE)
def test_what_a_run_has_at_least_one_of_is_not_zero(key: str) -> None:
    for value in ("0", "-3"):
        (found,) = said("at_least_one", TWELVE, (f"{key}={value}",))
        assert found.severity == "error" and found.fix == f"{key}=1"
    assert not said("at_least_one", TWELVE, (f"{key}=1",))


def test_a_model_has_a_name() -> None:
    assert said("at_least_one", TWELVE, ("policy.model_name=''",))


M, D = "policy.megatron_cfg.optimizer", "policy.optimizer.kwargs"
CASES = [
    Case("finite_numbers", TWELVE, (f"{M}.lr=.nan",), (f"{M}.lr=1.0e-6",)),
    Case("finite_numbers", NINE, ("loss_fn.ratio_clip_min=.inf",), ("loss_fn.ratio_clip_min=0.2",)),
    Case("finite_numbers", TWELVE_2, ("policy.generation.temperature=-.inf",), ("policy.generation.temperature=1.0",)),
    *(Case("optimizer_ranges", TWELVE, (f"{M}.lr={bad}",), (f"{M}.lr=1.0e-5",), typed=False) for bad in ("0", "-1")),
    *(Case("optimizer_ranges", TWELVE_2, (f"{D}.lr={bad}",), (f"{D}.lr=1.0e-6",), typed=False) for bad in ("0", "-1")),
    Case("optimizer_ranges", TWELVE, (f"{M}.min_lr=1",), (f"{M}.min_lr=1.0e-7",), typed=False),
    Case("optimizer_ranges", TWELVE, (f"{M}.weight_decay=-0.1",), (f"{M}.weight_decay=0",), typed=False),
    Case("optimizer_ranges", TWELVE, (f"{M}.adam_beta2=1",), (f"{M}.adam_beta2=0.99",)),
    Case("optimizer_ranges", TWELVE, (f"{M}.adam_eps=0",), (f"{M}.adam_eps=1.0e-8",), typed=False),
    Case("optimizer_ranges", TWELVE_2, (f"{D}.betas=[0.9, 1]",), (f"{D}.betas=[0.9, 0.99]",), typed=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_about_numbers_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_the_number_that_was_typed_is_named_and_not_what_is_derived_from_it() -> None:
    (found,) = said("finite_numbers", TWELVE, ("optimizer.lr=.nan", "optimizer.min_lr=.nan", f"{M}.lr=.nan"))[:1]
    assert (found.found, found.fix) == ("optimizer.lr=nan", "optimizer.lr=<a number>")
    typed = View(config(TWELVE, (f"{M}.lr=-1", f"{M}.min_lr=-0.1")), ["optimizer.lr=-1"], Facts(environ={}))
    (only,) = RULES["optimizer_ranges"].findings(typed)
    assert only.fix.startswith("optimizer.lr=")
