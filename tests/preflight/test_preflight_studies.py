"""Rules about studies: a rule of stop= that is not measured, rungs that a run does not reach."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import frozen

from nano_exp.preflight import RULES
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View

NINE, TWELVE = ("model=nano_9b", "cluster=1n8g"), ("model=nano_12b", "cluster=1n8g")
TINY: tuple[str, ...] = ()
UNVALIDATED = ("grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false")
STEPS = ("grpo.max_num_steps=100",)


def said(rule: str, *words: str) -> list[str]:
    view = View(frozen(Path("/launch"), *words).config, words)
    return [f"{one.found}: {one.cause}: {one.fix}" for one in findings(view, [RULES[rule]])]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((*NINE, "stop=grpo"), "not measurable: train/kl_penalty is 0 throughout"),
        ((*TWELVE, "stop.mixed_below=1", "nemo_rl=v0_5"), "is logged from v0.6.0 on"),
        (
            ("stop.behind=3", "grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false"),
            "nothing validates",
        ),
    ],
)
def test_a_rule_without_its_metric_is_said(words: tuple[str, ...], part: str) -> None:
    assert part in said("stop_is_measured", *words)[0]


def test_what_is_measured_is_not_said() -> None:
    assert not said("stop_is_measured", *TINY)
    assert not said("stop_is_measured", "stop=grpo", "loss_fn.reference_policy_kl_penalty=0.01")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("stop.entropy_below=9.5",), "stop.entropy_below=null"),
        (("stop.entropy_above=0.01",), "stop.entropy_above=null"),
        (("stop.entropy_below=3", "stop.entropy_above=2"), "stop.entropy_below=null"),
    ],
)
def test_bounds_of_entropy_that_end_every_run_are_refused(words: tuple[str, ...], fix: str) -> None:
    (found,) = said("entropy_has_room", "stop=grpo", *words)
    assert "every run would be ended" in found and found.endswith(fix)
    assert not said("entropy_has_room", "stop=grpo", *words, fix)
    assert not said("entropy_has_room", "stop=grpo")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (
            (*NINE, "halving.rungs=[5,20]"),
            "the run ends at step 17, so nobody would go on from there: halving.rungs=[5]",
        ),
        (("halving.rungs=[20,120]",), "the run ends at step 120"),
        (("halving.rungs=[20]", "halving.metric=train/loss"), "halving.higher_is_better=false"),
        (("halving.rungs=[40,20]",), "halving.rungs=[20,40]"),
        (("halving.rungs=[20]", "checkpointing.enabled=false"), "a paused run goes on from its checkpoint"),
        (("halving.rungs=[20]", "halving.metric=acuracy"), "are written train/NAME, validation/NAME"),
        (("halving.rungs=[20]", "halving.metric=accuracy"), "halving.metric=validation/accuracy"),
        (("halving.rungs=[20]", "halving.metric=train/rewrad"), "not log it: halving.metric=train/reward"),
        (("halving.rungs=[20]", *UNVALIDATED), "nothing validates, so no run has it: grpo.val_period=10"),
        ((*TWELVE, *STEPS, "halving.rungs=[20]", "halving.metric=validation/f1"), "halving.metric=validation/accuracy"),
        (
            (*TWELVE, *STEPS, "halving.rungs=[20]", "policy.megatron_cfg.scheduler.weight_decay_incr_style=linear"),
            "weight_decay_incr_style=constant",
        ),
        (
            (*NINE, "halving.rungs=[5]", "policy.megatron_cfg.scheduler.lr_decay_iters=null"),
            "lr_decay_iters=17",
        ),
    ],
)
def test_rungs_that_cannot_be_are_refused(words: tuple[str, ...], part: str) -> None:
    assert any(part in one for one in said("rungs_are_reached", *words)), said("rungs_are_reached", *words)


def test_rungs_that_can_be_are_not() -> None:
    assert not said("rungs_are_reached", "halving.rungs=[20,60]")
    assert not said("rungs_are_reached", *NINE, "halving.rungs=[5,10]")
    assert not said("rungs_are_reached", *NINE, "halving.rungs=[5]", "halving.metric=validation/of_an_environment")
    assert not said("rungs_are_reached", *TWELVE, *STEPS, "halving.rungs=[20]", "halving.metric=train/of_its_own")
    assert not said("rungs_are_reached", *TWELVE, *STEPS, "halving.rungs=[20]")
