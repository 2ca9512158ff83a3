"""How the GPUs are shared, and the CPUs beside them (rules 6-8 and 39)."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said, view

from nano_exp.layout import layouts
from nano_exp.layout.world import of_config as world_of

COLOCATED = "policy.generation.colocated"
APART = (f"{COLOCATED}.enabled=false",)
REWARD = ("data.default.env_name=reward_model", "env.reward_model.resources.num_nodes=1")
SHARE = "site.allocation=share"
CASES = [
    Case(
        "training_gpus",
        TWELVE,
        (*REWARD, "env.reward_model.resources.gpus_per_node=8"),
        ("env.reward_model.resources.gpus_per_node=4",),
    ),
    Case(
        "training_gpus",
        TWELVE_2,
        (*REWARD, "env.reward_model.resources.gpus_per_node=8", "env.reward_model.resources.num_nodes=2"),
        ("cluster.num_nodes=3",),
    ),
    Case("one_node_split", TWELVE, APART, (f"{COLOCATED}.resources.gpus_per_node=4",)),
    Case(
        "one_node_split",
        TWELVE,
        (*APART, f"{COLOCATED}.resources.gpus_per_node=4", f"{COLOCATED}.resources.num_nodes=2"),
        (f"{COLOCATED}.resources.num_nodes=null",),
    ),
    Case(
        "one_node_split",
        TWELVE,
        (*APART, f"{COLOCATED}.resources.gpus_per_node=8"),
        (f"{COLOCATED}.resources.gpus_per_node=4",),
    ),
    Case(
        "several_nodes_split",
        TWELVE_2,
        APART,
        (f"{COLOCATED}.resources.num_nodes=1", f"{COLOCATED}.resources.gpus_per_node=8"),
    ),
    Case(
        "several_nodes_split",
        TWELVE_2,
        (*APART, f"{COLOCATED}.resources.num_nodes=1", f"{COLOCATED}.resources.gpus_per_node=4"),
        (f"{COLOCATED}.resources.gpus_per_node=8",),
    ),
    Case(
        "several_nodes_split",
        TWELVE_2,
        (*APART, f"{COLOCATED}.resources.num_nodes=2", f"{COLOCATED}.resources.gpus_per_node=8"),
        (f"{COLOCATED}.resources.num_nodes=1",),
    ),
    Case("cpus_for_ray", TWELVE, (SHARE, "slurm.cpus_per_node=15"), ("slurm.cpus_per_node=16",)),
    Case("cpus_for_ray", TWELVE, (SHARE, "site.cpus_per_gpu=1"), ("site.cpus_per_gpu=2",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_cluster_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


@pytest.mark.parametrize(
    ("row", "overrides", "world", "generating", "dp"),
    [
        (NINE, (), 8, 8, 4),
        (TWELVE, (), 8, 8, 1),
        (TWELVE_2, (), 16, 16, 16),
        (THIRTY_2, (), 16, 16, 2),
        (TWELVE_2, (*APART, f"{COLOCATED}.resources.num_nodes=1", f"{COLOCATED}.resources.gpus_per_node=8"), 8, 8, 8),
        (NINE, (*APART, f"{COLOCATED}.resources.gpus_per_node=2"), 6, 2, 3),
        (NINE, (*REWARD, "env.reward_model.resources.gpus_per_node=2"), 6, 6, 3),
        (TWELVE_2, (*REWARD, "env.reward_model.resources.gpus_per_node=8"), 8, 8, 8),
        (NINE, APART, None, None, None),
        (NINE, ("policy.megatron_cfg.tensor_model_parallel_size=3",), 8, 8, None),
    ],
)
def test_who_trains_and_who_generates(
    row: tuple[str, ...], overrides: tuple[str, ...], world: int | None, generating: int | None, dp: int | None
) -> None:
    seen = world_of(view(row, overrides).config)
    assert (seen.training, seen.generating) == (world, generating)
    case = view(row, overrides).case
    if world is not None and dp is not None:
        assert case is not None and layouts.data_parallel(case.layout, world) == dp


def test_generation_apart_needs_one_cpu_a_gpu() -> None:
    apart = (*APART, f"{COLOCATED}.resources.gpus_per_node=4")
    assert not said("cpus_for_ray", TWELVE, (*apart, SHARE, "slurm.cpus_per_node=8"))
    assert said("cpus_for_ray", TWELVE, (*apart, SHARE, "slurm.cpus_per_node=7"))
    assert not said("cpus_for_ray", TWELVE, ("slurm.where=local", SHARE, "slurm.cpus_per_node=1"))
    assert not said("cpus_for_ray", TWELVE, ("slurm.cpus_per_node=1",)), "a whole node has all of its CPUs"
