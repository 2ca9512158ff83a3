"""Whether the config fits its GPUs: the planner's word, on the GPU that is there."""

from __future__ import annotations

from typing import Any

import pytest
from preflight_case import NINE, THIRTY, TWELVE, Case, assert_case, said

from nano_exp.preflight.answers import Answers, Nodes
from nano_exp.preflight.facts import Facts

LONG = ("policy.max_total_sequence_length=32768", "policy.generation.vllm_cfg.max_model_len=32768")
TP1 = "policy.megatron_cfg.tensor_model_parallel_size=1"
CASES = [
    Case(
        "memory_fits",
        NINE,
        (*LONG, "policy.megatron_cfg.tensor_model_parallel_size=1"),
        ("site.gpu=b200",),
        typed=False,
    ),
    Case("memory_fits", THIRTY, (), ("site.gpu=b200",), typed=False, severity="warning"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_does_not_fit_is_refused_and_what_is_tight_is_told(case: Case) -> None:
    assert_case(case)


def facts(*kinds: str, **parameters: Any) -> Facts:
    groups = tuple(Nodes("batch", True, True, None, None, 2, 64, ((kind, 8),), "idle") for kind in kinds)
    return Facts(environ={}, parameters=parameters, answers=Answers(nodes=groups))


def test_the_partitions_own_kind_of_gpu_is_judged_where_there_is_one() -> None:
    (found,) = said("memory_fits", TWELVE, facts=facts("l40s"))
    assert "for l40s-48, " in found.cause
    assert not said("memory_fits", TWELVE, facts=facts("h100"))
    assert not said("memory_fits", TWELVE, facts=facts("h100", "l40s")), "either may come: gpu_memory says that"
    assert said("memory_fits", TWELVE, facts=facts("h100", "l40s", gres="gpu:l40s:8"))


def test_a_gpu_that_is_not_known_is_told() -> None:
    (found,) = said("memory_fits", TWELVE, ("site.gpu=x9000",))
    assert found.severity == "warning"
    assert "x9000" in found.found


OFFLOADED = (
    "cluster.gpus_per_node=4",
    "policy.dtensor_cfg.expert_parallel_size=1",
    "policy.dtensor_cfg.cpu_offload=true",
)


@pytest.mark.parametrize(
    ("mib", "settings", "severity"),
    [
        (512 * 1024, (), "error"),
        (2048 * 1024, (), ""),
        (2048 * 1024, ("site.memory_gb=400",), "error"),
        (2048 * 1024, ("site.allocation=share", "site.memory_gb_per_gpu=100"), "error"),
        (1, (), ""),
    ],
)
def test_host_memory_is_that_of_the_node_or_of_the_share(mib: int, settings: tuple[str, ...], severity: str) -> None:
    group = Nodes("batch", True, True, None, None, 2, 64, (("a100", 4),), "idle", mib=mib)
    seen = Facts(environ={}, answers=Answers(nodes=(group,)))
    found = said("host_memory_fits", THIRTY, (*OFFLOADED, *settings), facts=seen)
    assert [one.severity for one in found] == [severity] * bool(severity)
    assert all("training state" in one.cause and "GiB of host memory" in one.cause for one in found)
