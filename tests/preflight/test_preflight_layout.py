"""The model's shape against parallelism."""

from __future__ import annotations

import pytest
from preflight_case import NINE, ROWS, THIRTY, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said, words

M, D, V = "policy.megatron_cfg", "policy.dtensor_cfg", "policy.generation.vllm_cfg"
TP, PP, EP = f"{M}.tensor_model_parallel_size", f"{M}.pipeline_model_parallel_size", f"{M}.expert_model_parallel_size"
ETP = f"{M}.expert_tensor_parallel_size"
SP, CP = f"{M}.sequence_parallel", f"{M}.context_parallel_size"
CASES = [
    Case("heads_and_tensor_parallel", TWELVE, (f"{TP}=16",), (f"{TP}=8",)),
    Case("heads_and_tensor_parallel", THIRTY_2, (f"{TP}=4",), (f"{TP}=2",), version="v0.5.0"),
    Case("heads_and_tensor_parallel", THIRTY_2, (f"{TP}=3",), (f"{TP}=1",)),
    Case("layers_and_pipeline", TWELVE, (f"{PP}=4",), (f"{PP}=2",)),
    Case("layers_and_pipeline", NINE, (f"{PP}=3",), (f"{PP}=2",)),
    Case("layers_and_pipeline", TWELVE, (f"{PP}=4",), (f"{M}.num_layers_in_first_pipeline_stage=14",), typed=False),
    Case("experts_and_expert_parallel", TWELVE, (f"{EP}=2",), (f"{EP}=1",)),
    Case("experts_and_expert_parallel", TWELVE_2, (f"{D}.expert_parallel_size=8",), (f"{D}.expert_parallel_size=1",)),
    Case("experts_and_expert_parallel", THIRTY_2, (f"{EP}=3",), (f"{EP}=2",)),
    Case("experts_and_expert_parallel", THIRTY_2, (f"{EP}=16",), (f"{EP}=8",)),
    Case("experts_need_sequence_parallel", THIRTY_2, (f"{SP}=false",), (f"{SP}=true",)),
    Case("heads_and_engines", NINE, (f"{V}.tensor_parallel_size=16",), (f"{V}.tensor_parallel_size=8",)),
    Case(
        "experts_on_dtensor",
        THIRTY,
        (f"{D}.tensor_parallel_size=2",),
        (f"{D}.tensor_parallel_size=1",),
        version="v0.5.0",
    ),
    Case(
        "experts_on_dtensor",
        THIRTY,
        (f"{D}.tensor_parallel_size=2", f"{D}.expert_parallel_size=8"),
        (f"{D}.tensor_parallel_size=1",),
    ),
    Case(
        "experts_on_dtensor",
        THIRTY,
        (f"{D}.automodel_kwargs.force_hf=true",),
        (f"{D}.automodel_kwargs.force_hf=false",),
    ),
    Case(
        "experts_on_dtensor",
        THIRTY,
        (f"{D}.context_parallel_size=2",),
        (f"{D}.context_parallel_size=1",),
        version="v0.5.0",
    ),
    Case(
        "experts_and_expert_parallel",
        THIRTY_2,
        (f"{EP}=1", f"{M}.expert_tensor_parallel_size=3"),
        (f"{M}.expert_tensor_parallel_size=1",),
    ),
    Case("sequence_and_tensor_parallel", TWELVE, (f"{TP}=1", f"{SP}=true"), (f"{SP}=false",)),
    Case("sequence_and_tensor_parallel", TWELVE, (f"{TP}=1", f"{SP}=true"), (f"{TP}=2",)),
    Case("mamba_and_context_parallel", TWELVE_2, (f"{D}.context_parallel_size=2",), (f"{D}.context_parallel_size=1",)),
    Case(
        "mamba_and_context_parallel",
        THIRTY,
        (f"{D}.context_parallel_size=2",),
        (f"{D}.context_parallel_size=1",),
        version="v0.6.0",
    ),
    Case("mamba_and_context_parallel", THIRTY, (f"{D}.context_parallel_size=3",), (f"{D}.context_parallel_size=1",)),
    Case("mamba_and_context_parallel", THIRTY_2, (f"{CP}=3",), (f"{CP}=1",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_automodels_own_mamba_layers_have_context_parallel_from_v0_7_on() -> None:
    assert not said("mamba_and_context_parallel", THIRTY, (f"{D}.context_parallel_size=2",))
    assert not said("experts_on_dtensor", THIRTY, (f"{D}.context_parallel_size=2",))


def test_a_transformer_has_half_as_many_layers_as_blocks() -> None:
    dense = ("model.model_type=llama", "model.num_hidden_layers=35")
    assert said("layers_and_pipeline", TWELVE, (*dense, f"{PP}=2"))
    assert not said("layers_and_pipeline", TWELVE, (*dense, f"{PP}=5"))


def test_vllm_copies_key_and_value_heads_where_they_are_few() -> None:
    assert not said("heads_and_engines", THIRTY, (f"{V}.tensor_parallel_size=4",))


def test_what_does_not_divide_is_named_with_its_number() -> None:
    assert "2 key and value heads" in words(said("heads_and_tensor_parallel", THIRTY_2, (f"{TP}=4",), "v0.5.0"))
    assert not said("heads_and_tensor_parallel", THIRTY_2, (f"{TP}=4",)), "a multiple of them, from v0.6.0 on"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].partition("_")[2] + row[1])
@pytest.mark.parametrize("rule", sorted({case.rule for case in CASES}))
def test_a_model_without_facts_is_not_judged(rule: str, row: tuple[str, ...]) -> None:
    bare = [f"model.{name}=null" for name in ("model_type", "n_routed_experts", "num_hidden_layers", "n_groups")]
    bare += [f"model.{name}=null" for name in ("num_attention_heads", "num_key_value_heads", "mamba_num_heads")]
    bare += ["policy.model_name=no/body", "model.intermediate_size=null", "model.hybrid_override_pattern=null"]
    sizes = (f"{TP}=16", f"{PP}=4", f"{EP}=3", f"{V}.tensor_parallel_size=16", f"{D}.context_parallel_size=2")
    assert not said(rule, row, (*bare, *sizes))
