"""Host memory of a node: what moves there, what is offloaded, and what a fraction of it is worth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from planner_case import CONSTANTS, H100, laid, model, over, read

from nano_exp.layout import parameters
from nano_exp.layout.workload import Job
from nano_exp.planner import host_memory
from nano_exp.planner.phase_memory import phases
from nano_exp.planner.ranges import GIB


def terms(job: Job) -> dict[str, float]:
    """Expected GiB of each term."""
    return {term.name: term.size.expected / GIB for term in host_memory.node(job, math.inf).terms}


def test_30b_offloaded_on_one_node_of_four_gpus_does_not_fit_half_a_terabyte() -> None:
    """A public case: on four A100 of 80 GB the workers die while they initialise; the GPUs have room."""
    job = read(
        "model=nano_30b",
        "cluster=1n8g",
        "cluster.gpus_per_node=4",
        "policy.dtensor_cfg.expert_parallel_size=1",
        "policy.dtensor_cfg.cpu_offload=true",
        "policy.dtensor_cfg.tensor_parallel_size=4",
    )
    phase = host_memory.node(job, 512 * GIB)
    assert phase.klass == "no"
    count = parameters.total(model("nano_30b")).total
    assert terms(job)["training state"] > 16 * count / GIB, "TP divides little of it: each rank holds nearly all"
    assert host_memory.node(job, 6144 * GIB).klass == "fits"


@pytest.mark.parametrize("row", [("model=nano_9b", "cluster=1n8g"), ("model=nano_12b", "cluster=2n8g")])
def test_published_recipes_fit_the_nodes_that_they_were_made_on(row: tuple[str, ...]) -> None:
    """A DGX H100 has 2 TB."""
    assert host_memory.node(read(*row), 2000 * GIB).klass == "fits"


def test_without_a_colocated_engine_nothing_sleeps_on_the_host() -> None:
    job = read("model=nano_12b", "cluster=1n8g")
    apart = over(replace(job, generation=replace(job.generation, colocated=False, world=4)), world=4)
    assert terms(job)["vLLM's weights, asleep"] > 0
    assert "vLLM's weights, asleep" not in terms(apart)
    assert terms(apart).get("training state", 0.0) < terms(job)["training state"]


def test_a_fraction_of_the_optimizers_offload_counts_on_both_sides() -> None:
    base = laid(read("model=nano_12b", "cluster=1n8g"), offload=True)
    on_gpu, on_host = [], []
    for fraction in (0.0, 0.5, 1.0):
        job = laid(base, fraction=fraction)
        (train,) = [phase for phase in phases(job, H100, CONSTANTS) if phase.name == "train"]
        state = [term.size.expected for term in train.terms if term.name == "optimizer state"]
        on_gpu.append(sum(state))
        on_host.append(terms(job)["training state"])
    assert on_gpu[0] > on_gpu[1] > on_gpu[2] == 0 and on_gpu[1] == pytest.approx(on_gpu[0] / 2)
    assert on_host[0] < on_host[1] < on_host[2]
    none = laid(base, offload=False)
    assert phases(laid(base, fraction=0.0), H100, CONSTANTS) == phases(none, H100, CONSTANTS)


def test_the_fraction_is_read_from_the_config() -> None:
    keys = "policy.megatron_cfg.optimizer"
    typed = (f"{keys}.optimizer_cpu_offload=true", f"{keys}.optimizer_offload_fraction=0.5")
    assert read("model=nano_12b", "cluster=1n8g", *typed).layout.offloaded == 0.5
    assert read("model=nano_12b", "cluster=1n8g").layout.offloaded == 0.0
