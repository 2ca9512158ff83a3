"""Sequence lengths and batches against the generation engine."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY, TWELVE, Case, assert_case, said

FP32 = ("++policy.generation.vllm_kwargs.mamba_ssm_cache_dtype=float32",)
KWARGS = "policy.generation.vllm_kwargs"
SEQS, LENGTH = f"{KWARGS}.max_num_seqs", "policy.max_total_sequence_length"
MODEL = "policy.generation.vllm_cfg.max_model_len"
CASES = [
    Case("mamba_cache_blocks", TWELVE, (f"{SEQS}=1024",), (f"{SEQS}=512",)),
    Case("mamba_cache_blocks", TWELVE, (f"{SEQS}=32",), (f"{SEQS}=512",)),
    Case(
        "mamba_cache_precision",
        TWELVE,
        (f"{KWARGS}.mamba_ssm_cache_dtype=bfloat16",),
        FP32,
    ),
    Case(
        "mamba_cache_precision",
        NINE,
        (f"~{KWARGS}.mamba_ssm_cache_dtype",),
        FP32,
    ),
    Case(
        "mamba_cache_precision",
        TWELVE,
        (f"~{KWARGS}.mamba_ssm_cache_dtype",),
        FP32,
        version="v0.5.0",
        severity="warning",
    ),
    Case("engine_shorter_than_sequences", TWELVE, (f"{MODEL}=256",), (f"{MODEL}=512",)),
    Case("engine_shorter_than_sequences", TWELVE, (f"{MODEL}=1024",), (f"{LENGTH}=1024",)),
    Case("prompt_room", TWELVE, ("data.max_input_seq_length=1024",), ("data.max_input_seq_length=512",)),
    Case("answer_room", TWELVE, ("policy.generation.max_new_tokens=1024",), ("policy.generation.max_new_tokens=512",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_generation_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_fewer_running_sequences_than_an_engines_share_wait() -> None:
    """8 engines of one GPU share 512 sequences: 64 each is enough."""
    assert not said("mamba_cache_blocks", TWELVE, (f"{SEQS}=64",))
    assert said("mamba_cache_blocks", TWELVE, (f"{SEQS}=63",))


def test_the_cache_of_nano_3_may_stay_as_it_is() -> None:
    assert not said("mamba_cache_precision", THIRTY)


def test_blocks_are_counted_from_v0_7_on() -> None:
    assert not said("mamba_cache_blocks", TWELVE, (f"{SEQS}=1024",), "v0.6.0")
