"""DTensor's rules (36-38)."""

from __future__ import annotations

import pytest
from preflight_case import THIRTY, TWELVE, TWELVE_2, Case, assert_case, said

D = "policy.dtensor_cfg"
V1 = f"{D}._v2=false"
CASES = [
    Case("save_format_needs_v2", TWELVE_2, (f"{D}._v2=false",), ("checkpointing.model_save_format=null",)),
    Case("save_format_needs_v2", THIRTY, (f"~{D}._v2",), (f"{D}._v2=true",)),
    Case(
        "dtensor_packing_and_context",
        TWELVE_2,
        (
            "policy.sequence_packing.enabled=true",
            "policy.dynamic_batching.enabled=false",
            f"{D}.context_parallel_size=2",
        ),
        ("policy.sequence_packing.enabled=false",),
    ),
    Case(
        "dtensor_context_and_sequence",
        TWELVE_2,
        (f"{D}.context_parallel_size=2", f"{D}.tensor_parallel_size=2", f"{D}.sequence_parallel=true"),
        (f"{D}.sequence_parallel=false",),
    ),
    Case(
        "offload_on_one_gpu",
        TWELVE_2,
        ("cluster.num_nodes=1", "cluster.gpus_per_node=1"),
        (f"{D}.cpu_offload=false",),
    ),
    Case(
        "lora_kernels",
        TWELVE_2,
        (f"{D}.lora_cfg.enabled=true", f"{D}.tensor_parallel_size=2"),
        (f"{D}.lora_cfg.use_triton=false",),
    ),
    Case(
        "dtensor_yarn",
        TWELVE_2,
        ("policy.hf_config_overrides.rope_scaling.rope_type=yarn",),
        ("policy.hf_config_overrides.rope_scaling.rope_type=linear",),
        typed=False,
    ),
    Case("replicated_shards", TWELVE_2, (f"{D}.dp_replicate_size=3",), (f"{D}.dp_replicate_size=2",)),
    *(
        Case(
            "hybrid_sequence_parallel",
            TWELVE_2,
            (*v1, f"{D}.sequence_parallel=true"),
            (f"{D}.sequence_parallel=false",),
        )
        for v1 in ((V1,), ())
    ),
    Case("hybrid_on_dtensor_v1", THIRTY, (V1, f"{D}.custom_parallel_plan=a.plan"), (f"{D}.custom_parallel_plan=null",)),
    *(
        Case(
            "heads_on_dtensor",
            TWELVE_2,
            (*v1, "model.model_type=llama", f"{D}.tensor_parallel_size=16"),
            (f"{D}.tensor_parallel_size=8",),
        )
        for v1 in ((V1,), ())
    ),
    Case("heads_on_dtensor", TWELVE_2, (f"{D}.tensor_parallel_size=3",), (f"{D}.tensor_parallel_size=1",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_dtensor_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_what_automodels_own_modules_do_without_they_are_not_refused() -> None:
    """The 30B's on one node: it has no tensor parallel ranks that could share a sequence."""
    assert not said("hybrid_sequence_parallel", THIRTY, (f"{D}.sequence_parallel=true",))
    assert not said("hybrid_on_dtensor_v1", THIRTY, (f"{D}.custom_parallel_plan=a.plan",))


def test_nemotron_h_shares_no_heads_on_dtensor() -> None:
    assert not said("heads_on_dtensor", TWELVE_2, (f"{D}.tensor_parallel_size=16",))


def test_a_format_is_not_looked_at_where_nothing_is_saved() -> None:
    assert not said("save_format_needs_v2", TWELVE_2, (f"{D}._v2=false", "checkpointing.enabled=false"))


def test_megatron_is_not_asked_for_dtensors_settings() -> None:
    for case in CASES:
        if case.rule != "save_format_needs_v2":  # NeMo RL looks at the same key before Megatron saves
            assert not said(case.rule, TWELVE, case.bad)
