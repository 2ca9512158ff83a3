"""Megatron's rules (31-35)."""

from __future__ import annotations

import pytest
from preflight_case import THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said

M = "policy.megatron_cfg"
YARN = "policy.hf_config_overrides.rope_scaling"
FIELDS = ("factor", "rope_theta", "original_max_position_embeddings", "truncate", "beta_fast", "beta_slow", "mscale")
CASES = [
    Case(
        "context_parallel_packs",
        THIRTY_2,
        ("policy.sequence_packing.enabled=false",),
        ("policy.sequence_packing.enabled=true",),
    ),
    Case(
        "context_parallel_packs",
        THIRTY_2,
        (f"{M}.use_linear_ce_fusion_loss=true",),
        (f"{M}.use_linear_ce_fusion_loss=false",),
    ),
    Case(
        "whole_optimizer_offload",
        TWELVE,
        (f"{M}.optimizer.optimizer_cpu_offload=true",),
        (f"{M}.optimizer.optimizer_offload_fraction=1.0",),
    ),
    Case("chunked_log_probabilities", TWELVE, ("policy.logprob_chunk_size=1024",), (f"{M}.defer_fp32_logits=true",)),
    Case("optimizer_precision", TWELVE, (f"{M}.optimizer.bf16=false",), (f"{M}.optimizer.bf16=true",)),
    Case("optimizer_precision", TWELVE, ("policy.precision=float16",), (f"{M}.optimizer.fp16=true",)),
    Case("optimizer_precision", TWELVE, ("policy.precision=float32",), (f"{M}.optimizer.bf16=false",)),
    Case(
        "recompute_granularity",
        TWELVE,
        (f"{M}.activation_checkpointing=true", f"{M}.recompute_granularity=some"),
        (f"{M}.recompute_granularity=full",),
    ),
    Case(
        "megatron_reward_model",
        TWELVE,
        ("policy.reward_model_cfg.enabled=true",),
        ("policy.reward_model_cfg.enabled=false",),
    ),
    Case(
        "yarn_fields",
        TWELVE,
        (f"{YARN}.rope_type=yarn", *(f"{YARN}.{name}=1" for name in FIELDS)),
        (f"{YARN}.mscale_all_dim=1",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_megatron_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_dtensor_is_not_asked_for_megatrons_settings() -> None:
    for rule, bad in (
        ("chunked_log_probabilities", "policy.logprob_chunk_size=1024"),
        ("whole_optimizer_offload", f"{M}.optimizer.optimizer_cpu_offload=true"),
        ("optimizer_precision", "policy.precision=float32"),
        ("yarn_fields", f"{YARN}.rope_type=yarn"),
    ):
        assert not said(rule, TWELVE_2, (bad,))


def test_each_version_has_its_own() -> None:
    assert not said("recompute_granularity", TWELVE, CASES[7].bad, "v0.6.0")
    assert not said("yarn_fields", TWELVE, (f"{YARN}.rope_type=yarn",), "v0.5.0")
    assert said("context_parallel_packs", THIRTY_2, CASES[0].bad, "v0.5.0")
