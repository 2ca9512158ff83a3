"""The embedded engine's memory by hand: what stays, what comes with a penalty, what recompute leaves.

Measured peaks are in test_planner_measured.py.
"""

from __future__ import annotations

from planner_case import CONSTANTS, H100, config

from nano_exp.planner import job
from nano_exp.planner.phases import Phase, phases
from nano_exp.planner.ranges import GIB


def sized(*overrides: str) -> dict[str, Phase]:
    read = job.of_config(config("cluster=1n1g", *overrides))
    return {phase.name: phase for phase in phases(read, H100, CONSTANTS)}


def terms(phase: Phase) -> dict[str, float]:
    return {term.name: term.size.expected for term in phase.terms}


def test_weights_moments_and_gradients_are_fp32() -> None:
    found = sized()
    assert terms(found["optimizer step"])["weights"] == terms(found["optimizer step"])["gradients"] == 4 * 146_672
    assert terms(found["train"])["optimizer state"] == 8 * 146_672
    assert "gradients" not in terms(found["generation"])
    assert "reference weights" not in terms(found["train"])


def test_a_penalty_brings_the_reference_and_a_third_copy_while_it_is_asked() -> None:
    found = sized("loss_fn.reference_policy_kl_penalty=0.01")
    assert terms(found["train"])["reference weights"] == 4 * 146_672
    assert terms(found["logprob"])["current weights, copied"] == 4 * 146_672


def test_caches_of_the_tiny_rollout_by_hand() -> None:
    # M-M*-: an attention layer of 2 x 16, 2 Mamba layers of 128 x 16, windows of 4 x (128 + 2 x 16); 128 x 32 tokens.
    caches = terms(sized()["generation"])["caches"]
    assert caches == 128 * (4 * 2 * 32 * 32 + 2 * 4 * (128 * 16 + 4 * (128 + 32)))


def test_recompute_keeps_less() -> None:
    whole, again = sized(), sized("++policy.dtensor_cfg.activation_checkpointing=true")
    assert terms(again["train"])["activations"] < terms(whole["train"])["activations"]
    assert whole["train"].size.expected < GIB
