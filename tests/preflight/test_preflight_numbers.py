"""Counts that are none."""

from __future__ import annotations

import pytest
from preflight_case import TWELVE, said

from nano_exp.preflight.numbers import AT_LEAST_ONE


@pytest.mark.parametrize("key", AT_LEAST_ONE)
def test_what_a_run_has_at_least_one_of_is_not_zero(key: str) -> None:
    for value in ("0", "-3"):
        (found,) = said("at_least_one", TWELVE, (f"{key}={value}",))
        assert found.severity == "error" and found.fix == f"{key}=1"
    assert not said("at_least_one", TWELVE, (f"{key}=1",))


def test_a_model_has_a_name() -> None:
    assert said("at_least_one", TWELVE, ("policy.model_name=''",))
