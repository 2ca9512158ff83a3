"""The policy's rules (14-19): backends, layouts, micro batches."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said

from nano_exp.preflight.facts import Facts

M, D = "policy.megatron_cfg", "policy.dtensor_cfg"
V1 = (f"{D}._v2=false",)
CASES = [
    Case("one_backend", TWELVE, (f"{D}.enabled=true",), (f"{M}.enabled=false",), typed=False),
    Case("one_backend", TWELVE, (f"{M}.enabled=false",), (f"{M}.enabled=true",), typed=False),
    Case(
        "arch_list",
        TWELVE,
        ("site.env.TORCH_CUDA_ARCH_LIST=null",),
        ("site.env.TORCH_CUDA_ARCH_LIST='9.0 10.0'",),
    ),
    Case("layout_divides_gpus", NINE, (f"{M}.tensor_model_parallel_size=3",), (f"{M}.tensor_model_parallel_size=2",)),
    Case(
        "layout_divides_gpus", TWELVE, ("cluster.gpus_per_node=4",), (f"{M}.tensor_model_parallel_size=4",), typed=True
    ),
    Case(
        "layout_divides_gpus",
        THIRTY_2,
        ("cluster.num_nodes=1", f"{M}.tensor_model_parallel_size=4"),
        (f"{M}.tensor_model_parallel_size=2",),
    ),
    Case("layout_divides_gpus", TWELVE_2, (f"{D}.tensor_parallel_size=5",), (f"{D}.tensor_parallel_size=4",)),
    Case("equal_micro_batches", TWELVE, ("policy.logprob_batch_size=8",), ("policy.logprob_batch_size=4",)),
    Case(
        "equal_micro_batches",
        TWELVE_2,
        (f"{D}.tensor_parallel_size=4", "policy.logprob_batch_size=8"),
        ("policy.logprob_batch_size=4",),
    ),
    Case(
        "dynamic_batching",
        THIRTY_2,
        ("policy.sequence_packing.enabled=false", "policy.dynamic_batching.enabled=true"),
        ("policy.dynamic_batching.enabled=false",),
    ),
    Case(
        "dynamic_batching",
        TWELVE,
        ("policy.sequence_packing.enabled=true", "policy.dynamic_batching.enabled=true"),
        ("policy.sequence_packing.enabled=false",),
    ),
    Case("dtensor_v1_limits", THIRTY, (*V1, f"{D}.lora_cfg.enabled=true"), (f"{D}._v2=true",)),
    Case("dtensor_v1_limits", THIRTY, (*V1, f"{D}.dp_replicate_size=2"), (f"{D}._v2=true",)),
    Case("draft_model", TWELVE_2, ("policy.draft.enabled=true",), ("policy.draft.enabled=false",)),
    Case(
        "draft_model",
        TWELVE,
        ("policy.draft.enabled=true", "policy.sequence_packing.enabled=true"),
        ("policy.sequence_packing.enabled=false",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_policy_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


BAD = ("policy.logprob_batch_size=8",)


@pytest.mark.parametrize(
    "cure",
    [
        ("++loss_fn.force_on_policy_ratio=true",),
        ("site.env.NRL_IGNORE_TP_ACCURACY_CHECK=1",),
        ("policy.megatron_cfg.tensor_model_parallel_size=2",),
    ],
)
def test_other_ways_around_unequal_micro_batches(cure: tuple[str, ...]) -> None:
    assert said("equal_micro_batches", TWELVE, BAD)
    assert not said("equal_micro_batches", TWELVE, (*BAD, *cure))


def test_a_variable_of_the_users_own_counts_unless_the_site_takes_it_away() -> None:
    facts = Facts(environ={"NRL_IGNORE_TP_ACCURACY_CHECK": "1"})
    assert not said("equal_micro_batches", TWELVE, BAD, facts=facts)
    assert said("equal_micro_batches", TWELVE, (*BAD, "site.env.NRL_IGNORE_TP_ACCURACY_CHECK=null"), facts=facts)


def test_unequal_micro_batches_are_refused_from_v0_6_on() -> None:
    assert said("equal_micro_batches", TWELVE, BAD, "v0.6.0")
    assert not said("equal_micro_batches", TWELVE, BAD, "v0.5.0")


def test_dtensor_needs_no_arch_list() -> None:
    assert not said("arch_list", TWELVE_2, ("site.env.TORCH_CUDA_ARCH_LIST=null",))
