"""Rules of stop=: each with a curve that it ends and one that it lets go on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from core_case import ROOT
from hypothesis import given
from hypothesis import strategies as st
from study_case import curve

from nano_exp.study import stop_rules
from nano_exp.study.stop_rules import Curve

NAN = math.nan


def flat(high: float) -> Curve:
    return curve(
        train__reward=[0.1] * 4, train__advantages__min=[-high, 0, 0, 0], train__advantages__max=[high, 0, 0, 0]
    )


#: Rule -> limit, a curve that it ends, one that it does not. Means are over 2 steps.
CASES: dict[str, tuple[float, Curve, Curve]] = {
    "reward_collapse": (0.25, curve(train__reward=[0.4, 0.8, 0.1, 0.0]), curve(train__reward=[0.4, 0.8, 0.3, 0.2])),
    "kl_above": (1.0, curve(train__kl_penalty=[0.1, 0.9, 1.2]), curve(train__kl_penalty=[9.0, 0.1, 0.2])),
    "entropy_below": (0.1, curve(train__approx_entropy=[1, 0.1, 0.05]), curve(train__approx_entropy=[0.05, 0.1, 0.3])),
    "entropy_above": (5.0, curve(train__approx_entropy=[1, 6, 7]), curve(train__approx_entropy=[9, 1, 6])),
    "mixed_below": (
        1.0,
        curve(train__baseline_reward__pct_mixed=[50, 1, 0]),
        curve(train__baseline_reward__pct_mixed=[0, 0, 12.5]),
    ),
    "flat_steps": (3, flat(1.0), replace(flat(1.0), rows=flat(1.0).rows[:3])),
    "nonfinite_steps": (2, curve(train__loss=[1, NAN, NAN]), curve(train__loss=[NAN, 1, NAN])),
    "truncated_steps": (2, curve(train__truncation_rate=[0.5, 1, 1]), curve(train__truncation_rate=[1, 0.99, 1])),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_ends_a_lost_run_and_says_the_values(name: str) -> None:
    limit, lost, fine = CASES[name]
    stop = {"after": 1, "window": 2, name: limit}
    verdict = stop_rules.judge(with_reward(lost), stop)
    assert verdict is not None
    assert (verdict.rule, verdict.limit, verdict.step) == (name, limit, len(lost.rows))
    assert str(verdict).startswith(f"stop.{name}={limit:g} at step {len(lost.rows)}: ")
    assert stop_rules.judge(with_reward(fine), stop) is None
    assert stop_rules.judge(with_reward(lost), {**stop, name: None}) is None
    assert stop_rules.judge(with_reward(lost), {**stop, "after": 99}) is None


def with_reward(one: Curve) -> Curve:
    return replace(one, rows=[{"train/reward": 0.1, **row} for row in one.rows])


def test_behind_compares_with_all_seeds_of_another_point_at_the_same_gpu_seconds() -> None:
    def seed(*accuracy: float, took: float = 1.0) -> Curve:
        series = {"validation__accuracy": list(accuracy), "timing__train__total_step_time": [took] * len(accuracy)}
        return with_reward(curve(**series))

    good = [seed(0.3, 0.5, 0.7, 0.9), seed(0.2, 0.6, 0.8, 0.9)]
    stop = {"after": 1, "window": 2, "behind": 2}
    lost = replace(seed(0.3, 0.4, 0.6), others={"good": good})
    verdict = stop_rules.judge(lost, stop)
    assert verdict is not None
    assert "accuracy 0.6 was below 0.7, the least of another point's 2 seeds" in verdict.why
    slow = replace(seed(0.3, 0.4, 0.6, took=0.5), others={"good": good})  # at the same cost it is not behind
    assert stop_rules.judge(slow, stop) is None
    assert stop_rules.judge(replace(lost, others={"good": good[:1]}), stop) is None, "one seed is no band"
    assert stop_rules.judge(replace(lost, others={"good": [one.__class__(one.rows[:2]) for one in good]}), stop) is None


def test_every_rule_is_a_key_of_the_group_and_off_is_off() -> None:
    groups = {name: yaml.safe_load((ROOT / f"conf/stop/{name}.yaml").read_text()) for name in ("grpo", "off")}
    assert list(stop_rules.on(groups["grpo"])) == list(stop_rules.RULES)
    assert not stop_rules.on(groups["off"])
    assert groups["grpo"].keys() == groups["off"].keys()


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([stop_rules.REWARD, stop_rules.KL, *stop_rules.FINITE, stop_rules.VALIDATION]), st.floats()
        )
    )
)
def test_no_curve_breaks_a_rule(rows: list[dict[str, float]]) -> None:
    stop = yaml.safe_load(Path(ROOT / "conf/stop/grpo.yaml").read_text())
    stop_rules.judge(Curve([{"step": n, **row} for n, row in enumerate(rows)]), {**stop, "after": 0})


def test_rows_of_one_step_are_one_and_keep_what_was_not_finite() -> None:
    rows = [{"step": 2, "a": 1}, {"step": 1, "a": None, "nonfinite": ["a"]}, {"step": 1, "b": 2}]
    assert stop_rules.merged(rows) == [{"step": 1, "a": None, "b": 2, "nonfinite": ["a"]}, {"step": 2, "a": 1}]


def test_a_launch_without_the_rule_or_with_another_limit_goes_on() -> None:
    end = {"kind": "ended early", "rule": "flat_steps", "limit": 10.0}
    assert not stop_rules.lifts(end, {"flat_steps": 10})
    assert stop_rules.lifts(end, {"flat_steps": 20})
    assert stop_rules.lifts(end, {"flat_steps": None})
