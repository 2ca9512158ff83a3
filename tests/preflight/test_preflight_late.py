"""What NeMo RL would find out after the first rollout (rules 26-30), each told before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preflight_case import NINE, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said, view

GBS, MBS, LBS = "policy.train_global_batch_size", "policy.train_micro_batch_size", "policy.logprob_batch_size"
PROMPTS, GENERATIONS = "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"
PAD = "policy.make_sequence_length_divisible_by"
PACK, DYNAMIC = "policy.sequence_packing", "policy.dynamic_batching"
SAMPLING, BATCHES = "grpo.use_dynamic_sampling=true", "grpo.dynamic_sampling_max_gen_batches"
CASES = [
    Case("whole_global_batches", TWELVE, (f"{GBS}=100",), (f"{GBS}=512",)),
    Case("whole_global_batches", NINE, (f"{PROMPTS}=33",), (f"{GBS}=528",)),
    Case("batches_divide_ranks", NINE, (f"{GBS}=1022",), (f"{GBS}=1024",)),
    Case("batches_divide_ranks", NINE, (f"{PROMPTS}=3", f"{GENERATIONS}=5"), (f"{PROMPTS}=4",)),
    Case("batches_divide_ranks", TWELVE_2, (f"{PROMPTS}=3", f"{GENERATIONS}=5"), (f"{GENERATIONS}=16",)),
    Case("whole_micro_batches", TWELVE, (f"{MBS}=3",), (f"{MBS}=2",)),
    Case("whole_micro_batches", NINE, (f"{LBS}=3",), (f"{LBS}=2",)),
    Case(
        "filtered_sampling_and_tensor_parallel",
        NINE,
        ("policy.generation.top_p=0.9",),
        (f"{PAD}=2",),
    ),
    Case(
        "filtered_sampling_and_tensor_parallel",
        TWELVE_2,
        ("policy.generation.top_k=50", "policy.dtensor_cfg.tensor_parallel_size=2"),
        (f"{PAD}=2",),
        severity="warning",  # dynamic batching rounds lengths up to 64
    ),
    Case(
        "filtered_sampling_and_tensor_parallel",
        TWELVE_2,
        (
            "policy.generation.top_k=50",
            "policy.dtensor_cfg.tensor_parallel_size=2",
            f"{DYNAMIC}.sequence_length_round=1",
        ),
        (f"{PAD}=2",),
    ),
    Case("packing_alignment", THIRTY_2, (f"{PAD}=4",), (f"{PAD}=8",)),
    Case(
        "packing_alignment",
        TWELVE,
        (f"{PACK}.enabled=true", f"{PAD}=3", "policy.megatron_cfg.sequence_parallel=true"),
        (f"{PAD}=8",),
    ),
    Case("packing_room", THIRTY_2, (f"{PACK}.train_mb_tokens=4096",), (f"{PACK}.train_mb_tokens=8192",)),
    Case(
        "packing_room",
        THIRTY_2,
        ("policy.max_total_sequence_length=8193",),
        (f"{PACK}.train_mb_tokens=8200", f"{PACK}.logprob_mb_tokens=8200"),
    ),
    *(
        Case("packing_room", TWELVE, (f"{DYNAMIC}.enabled=true", f"{DYNAMIC}.{name}=256"), (f"{DYNAMIC}.{name}=512",))
        for name in ("train_mb_tokens", "logprob_mb_tokens")
    ),
    Case(
        "packing_room",
        TWELVE,
        (f"{DYNAMIC}.enabled=true", f"{DYNAMIC}.train_mb_tokens=256"),
        (f"{DYNAMIC}.train_mb_tokens=512",),
        version="v0.5.0",
    ),
    Case("dynamic_sampling_batches", TWELVE, (SAMPLING, f"{BATCHES}=0"), (f"{BATCHES}=10",)),
    Case("dynamic_sampling_batches", TWELVE, (SAMPLING, f"{BATCHES}=-1"), (f"{BATCHES}=10",), version="v0.5.0"),
    Case("dynamic_sampling_batches", TWELVE, (SAMPLING, f"~{BATCHES}"), (f"++{BATCHES}=10",)),
    *(
        Case("penalties_need_gym", TWELVE, (f"grpo.{name}=-1.0",), (f"grpo.{name}=null",))
        for name in ("invalid_tool_call_advantage", "malformed_thinking_advantage")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_late_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_packing_and_dynamic_batching_make_their_own_micro_batches() -> None:
    for kind in ("sequence_packing", "dynamic_batching"):
        assert not said("whole_micro_batches", TWELVE, (f"{MBS}=3", f"policy.{kind}.enabled=true"))


def test_filtering_in_training_came_with_v0_6() -> None:
    assert not said("filtered_sampling_and_tensor_parallel", NINE, ("policy.generation.top_p=0.9",), "v0.5.0")


def test_a_dynamic_sequence_is_padded_no_wider_than_its_batch() -> None:
    """`max_seqlen_this_shard_indice = min(padded_seqlen, unpadded_seqlen)`."""
    on = (f"{DYNAMIC}.enabled=true", f"{DYNAMIC}.sequence_length_round=64", "policy.max_total_sequence_length=500")
    room = (f"{DYNAMIC}.train_mb_tokens=500", f"{DYNAMIC}.logprob_mb_tokens=500")
    assert not said("packing_room", TWELVE, (*on, *room, f"{PAD}=1"))
    assert said("packing_room", TWELVE, (*on, *room, f"{PAD}=8"))


def test_room_is_not_asked_of_log_probabilities_that_are_skipped() -> None:
    bad = (f"{DYNAMIC}.enabled=true", f"{DYNAMIC}.logprob_mb_tokens=256")
    skipped = ("loss_fn.force_on_policy_ratio=true", "grpo.skip_reference_policy_logprobs_calculation=true")
    assert said("packing_room", TWELVE, (*bad, skipped[0]))
    assert not said("packing_room", TWELVE, (*bad, *skipped))


def test_dynamic_sampling_that_is_off_and_penalties_with_gym_are_left_alone() -> None:
    assert not said("dynamic_sampling_batches", TWELVE, (f"{BATCHES}=0",))
    assert not said("penalties_need_gym", NINE, ("grpo.invalid_tool_call_advantage=-1.0",))
    assert not said("penalties_need_gym", TWELVE, ("grpo.invalid_tool_call_advantage=-1.0",), "v0.6.0")


SIZES = st.integers(min_value=1, max_value=48)


@settings(max_examples=200, deadline=None)
@given(
    prompts=SIZES, generations=SIZES, gbs=st.integers(1, 600), mbs=SIZES, lbs=SIZES, tp=st.sampled_from([1, 2, 4, 8])
)
def test_the_batch_rules_are_silent_exactly_when_upstreams_assertions_hold(
    prompts: int, generations: int, gbs: int, mbs: int, lbs: int, tp: int
) -> None:
    """shard_by_batch_size and make_microbatch_iterator (distributed/batched_data_dict.py) in their own words."""
    values: dict[str, Any] = {PROMPTS: prompts, GENERATIONS: generations, GBS: gbs, MBS: mbs, LBS: lbs}
    overrides = [f"{key}={value}" for key, value in values.items()]
    overrides.append(f"policy.megatron_cfg.tensor_model_parallel_size={tp}")
    seen = view(NINE, overrides)
    dp, rollout = 8 // tp, prompts * generations
    holds = rollout % gbs == 0 and gbs % dp == 0 and rollout % dp == 0
    holds = holds and (gbs // dp) % mbs == 0 and (rollout // dp) % lbs == 0
    rules = ("whole_global_batches", "batches_divide_ranks", "whole_micro_batches")
    from nano_exp.preflight import RULES

    found = [f for rule in rules for f in RULES[rule].findings(seen)]
    assert (not found) == holds
