"""The embedded engine's memory by hand: what stays, what comes with a penalty, what recompute leaves.

Measured peaks are in test_gpu_tables.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cases
import memory
import tables

from nano_exp.planner import gpus
from nano_exp.planner.phase_memory import Phase, deciding
from nano_exp.planner.ranges import GIB


@cache
def base() -> dict[str, Any]:
    return cases.base_config()


def sized(changes: cases.Changes | None = None) -> dict[str, Phase]:
    run = tables.run_of({"changes": changes or {}}, base())
    return {phase.name: phase for phase in memory.phases(run, gpus.gpu("h100-80"), memory.ASSUMED)}


def terms(phase: Phase) -> dict[str, float]:
    return {term.name: term.size.expected for term in phase.terms}


def test_weights_moments_and_gradients_are_fp32() -> None:
    found = sized()
    assert terms(found["optimizer step"])["weights"] == terms(found["optimizer step"])["gradients"] == 4 * 146_672
    assert terms(found["train"])["optimizer state"] == 8 * 146_672
    assert "gradients" not in terms(found["generation"])
    assert "reference weights" not in terms(found["train"])


def test_a_penalty_brings_the_reference_and_a_third_copy_while_it_is_asked() -> None:
    found = sized({"loss_fn.reference_policy_kl_penalty": 0.01})
    assert terms(found["train"])["reference weights"] == 4 * 146_672
    assert terms(found["logprob"])["current weights, copied"] == 4 * 146_672


def test_caches_of_the_tiny_rollout_by_hand() -> None:
    # M-M*-: an attention layer of 2 x 16, 2 Mamba layers of 128 x 16, windows of 4 x (128 + 2 x 16); 128 x 32 tokens.
    caches = terms(sized()["generation"])["caches"]
    assert caches == 128 * (4 * 2 * 32 * 32 + 2 * 4 * (128 * 16 + 4 * (128 + 32)))


def test_recompute_keeps_less() -> None:
    whole, again = sized(), sized(cases.RECOMPUTE)
    assert terms(again["train"])["activations"] < terms(whole["train"])["activations"]
    assert whole["train"].size.expected < GIB


def test_where_training_does_not_fit_smaller_micro_batches_or_recompute_help() -> None:
    def fullest(length: int, micro: int, more: cases.Changes) -> Phase:
        own = cases.SIZES["1b"] | cases.BFLOAT16 | cases.sequences(length) | cases.batch(8, 16, micro)
        return deciding(list(sized(own | more).values()))

    large, long = fullest(2048, 16, {}), fullest(16384, 1, {})
    assert (large.klass, large.name) == (long.klass, long.name) == ("no", "train")
    assert fullest(2048, 2, {}).klass == "fits"
    assert fullest(16384, 1, cases.RECOMPUTE).klass == "fits"
