"""The generation engine's rules (20-25)."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY, TWELVE, TWELVE_2, Case, assert_case, said

V = "policy.generation.vllm_cfg"
CASES = [
    Case("engines_divide_gpus", TWELVE, (f"{V}.tensor_parallel_size=3",), (f"{V}.tensor_parallel_size=2",)),
    Case(
        "engines_divide_gpus",
        TWELVE_2,
        (f"{V}.pipeline_parallel_size=3", f"{V}.async_engine=true"),
        (f"{V}.tensor_parallel_size=1", f"{V}.pipeline_parallel_size=1"),
    ),
    Case("pipeline_needs_async", TWELVE, (f"{V}.pipeline_parallel_size=2",), (f"{V}.async_engine=true",)),
    Case(
        "expert_engines",
        THIRTY,
        (f"{V}.expert_parallel_size=6", f"{V}.tensor_parallel_size=4"),
        (f"{V}.expert_parallel_size=4",),
    ),
    Case(
        "expert_engines",
        THIRTY,
        (f"{V}.expert_parallel_size=8", f"{V}.tensor_parallel_size=4", f"{V}.async_engine=true"),
        (f"{V}.async_engine=false",),
    ),
    Case("sampling_range", TWELVE, ("policy.generation.top_p=0",), ("policy.generation.top_p=1.0",)),
    Case("sampling_range", TWELVE, ("policy.generation.top_p=1.5",), ("policy.generation.top_p=1.0",)),
    Case("sampling_range", TWELVE, ("policy.generation.top_k=0",), ("policy.generation.top_k=null",)),
    Case("sampling_range", TWELVE, ("policy.generation.top_k=-2",), ("policy.generation.top_k=null",)),
    Case(
        "sampling_is_unfiltered",
        TWELVE,
        ("policy.generation.top_p=0.9", "policy.generation.top_k=50"),
        ("policy.generation.top_p=1.0", "policy.generation.top_k=null"),
        version="v0.5.0",
    ),
    Case("vllm_keys", TWELVE, (f"~{V}.gpu_memory_utilization",), (f"++{V}.gpu_memory_utilization=0.6",)),
    Case("vllm_keys", TWELVE, ("~policy.generation.top_k",), ("++policy.generation.top_k=null",)),
    Case(
        "engines_inside_nodes",
        TWELVE_2,
        ("cluster.gpus_per_node=6", f"{V}.tensor_parallel_size=4"),
        (f"{V}.tensor_parallel_size=3",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_vllm_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


@pytest.mark.parametrize(
    "text", ["policy.generation.top_p=0.5", "policy.generation.top_k=1", "policy.generation.top_k=-1"]
)
def test_filtered_sampling_is_fine_from_v0_6_on(text: str) -> None:
    assert not said("sampling_range", TWELVE, (text,))
    assert not said("sampling_is_unfiltered", TWELVE, (text,), "v0.6.0")


def test_an_engine_over_several_nodes_is_only_a_warning() -> None:
    found = said("engines_inside_nodes", TWELVE_2, (f"{V}.tensor_parallel_size=16",))
    assert [f.severity for f in found] == ["warning"]


def test_another_backend_has_other_rules() -> None:
    other = ("policy.generation.backend=megatron", f"{V}.tensor_parallel_size=3", "policy.generation.top_p=0")
    for rule in ("engines_divide_gpus", "sampling_range", "vllm_keys", "engines_inside_nodes"):
        assert not said(rule, TWELVE, other)


def test_what_the_attempt_fills_in_is_not_missing() -> None:
    assert not said("vllm_keys", NINE, (f"~{V}.tool_parser_plugin", f"~{V}.skip_tokenizer_init"))
