"""Weights, gradients and optimizer state, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_case import CONSTANTS, H100, laid, read

from nano_exp.layout import parameters
from nano_exp.layout.layouts import FSDP2, MEGATRON
from nano_exp.planner import search, training
from nano_exp.planner.phase_memory import Phase, phases
from nano_exp.planner.ranges import GIB, Range


def of(found: tuple[Phase, ...], name: str) -> Phase:
    return next(phase for phase in found if phase.name == name)


def term(phase: Phase, name: str) -> float:
    """Expected GiB of a term; 0 where the phase has none of that name."""
    return sum(t.size.expected for t in phase.terms if t.name == name) / GIB


def static_bytes_per_parameter(shards: int, precision_aware: bool = True, fp32: bool = False) -> float:
    """Weights, gradients, master and moments of a bf16 parameter: 4 + 10/d for NeMo RL's defaults (derived); Megatron's
    own table has 6 + 12/d with fp32 gradients, precision-aware off [docs.nvidia.com/megatron-core, dist_optimizer]."""
    one = training.Local(1.0, 0.0, shards, 1)
    state = training.megatron_main_parameters(one, precision_aware, 2) + training.megatron_moments(one, 8)
    return training.megatron_weights(one, 2) + training.megatron_gradients(one, fp32, 2) + state


def test_a_bf16_parameter_costs_4_plus_10_over_d_with_nemo_rls_defaults() -> None:
    assert static_bytes_per_parameter(4) == 4 + 10 / 4
    assert static_bytes_per_parameter(1) == 14


def test_without_the_precision_aware_optimizer_the_master_is_fp32() -> None:
    assert static_bytes_per_parameter(4, precision_aware=False) == 4 + 12 / 4
    # Megatron's own table, bf16 weights and fp32 gradients: 6 + 12/d.
    assert static_bytes_per_parameter(8, precision_aware=False, fp32=True) == 6 + 12 / 8


def test_9b_on_8_gpus_with_tensor_parallel_2() -> None:
    # 8,888,227,328 parameters, 255,360 of them replicated: (8,887,971,968 / 2 + 255,360) on each rank, DP 4.
    job = read("model=nano_9b", "cluster=1n8g")
    local = training.megatron_local(job, 0)
    assert local.dense == 8_887_971_968 / 2 + 255_360
    assert (local.dense_shards, local.experts) == (4, 0)
    train = of(phases(job, H100, CONSTANTS), "train")
    assert term(train, "weights") == pytest.approx(local.dense * 2 / GIB)
    assert term(train, "gradients") == pytest.approx(local.dense * 2 / GIB)
    assert term(train, "optimizer state") == pytest.approx(local.dense * 10 / 4 / GIB)


def test_expert_state_is_sharded_over_expert_data_parallel_only() -> None:
    # 16 GPUs, TP 2 x PP 2 x CP 2, EP 8: EDP = 16 / (2 x 8) = 1, so expert state is not sharded; dense over DP x CP = 4.
    job = read("model=nano_30b", "cluster=2n8g")
    local = training.megatron_local(job, 0)
    assert (local.dense_shards, local.expert_shards) == (4, 1)
    # Stage 1 has 12 of the 23 MoE layers, each with 128 experts of 2 x 2688 x 1856; EP 8.
    assert job.architecture.layers[:26].count("E") == 11
    assert local.experts == 11 * 128 * 2 * 2688 * 1856 / 8


def test_expert_parallel_below_the_world_shards_expert_state() -> None:
    job = laid(read("model=nano_30b", "cluster=2n8g"), pipeline=1, context=1, expert=4)
    assert training.megatron_local(job, 0).expert_shards == 4


def test_gradients_in_fp32_add_two_bytes_and_offload_removes_the_state() -> None:
    job = read("model=nano_12b", "cluster=1n8g")
    local = training.megatron_local(job, 0)
    assert training.megatron_gradients(local, True, 2) - training.megatron_gradients(local, False, 2) == 2 * local.dense
    offloaded = of(phases(laid(job, offload=True), H100, CONSTANTS), "train")
    assert term(offloaded, "optimizer state") == 0
    assert term(offloaded, "weights") == term(of(phases(job, H100, CONSTANTS), "train"), "weights")


def test_an_optimizer_that_is_not_precision_aware_keeps_its_master_on_the_gpu_while_vllm_generates() -> None:
    job = replace(read("model=nano_9b", "cluster=1n8g"), precision_aware=False)
    local = training.megatron_local(job, 0)
    found = phases(job, H100, CONSTANTS)
    assert term(of(found, "generation"), "fp32 master weights") == pytest.approx(local.dense * 4 / 4 / GIB)
    step = of(found, "optimizer step")  # fp32 copy of the gradients' shard
    assert term(step, "temporaries of the step") == pytest.approx(local.dense * 4 / 4 / GIB)
    assert all(
        phase.name != "optimizer step" for phase in phases(read("model=nano_9b", "cluster=1n8g"), H100, CONSTANTS)
    )


def test_fsdp2_divides_16_bytes_a_parameter_by_all_ranks() -> None:
    job = laid(read("model=nano_12b", "cluster=2n8g"), offload=False)
    local = training.fsdp2_local(job)
    assert local.all == 12_310_001_152 / 16
    train = of(phases(job, H100, CONSTANTS), "train")
    sizes = [term(train, name) for name in ("weights", "gradients", "optimizer state")]
    assert sum(sizes) == pytest.approx(12_310_001_152 * 16 / 16 / GIB)


def test_fsdp2_offload_leaves_gathered_layers_on_the_gpu() -> None:
    job = read("model=nano_12b", "cluster=2n8g")
    assert job.layout.offload
    train = of(phases(job, H100, CONSTANTS), "train")
    assert term(train, "weights") == term(train, "optimizer state") == 0
    block = parameters.largest_block(job.architecture)
    root = 2 * 131072 * 5120
    assert training.fsdp2_gathered(job) == Range(2 * root + 4 * block, 2 * root + 4 * block, 2 * root + 6 * block)


def test_experts_outside_of_fsdp_are_not_offloaded() -> None:
    job = laid(read("model=nano_30b", "cluster=1n8g"), offload=True)
    local = training.fsdp2_local(job)
    assert local.experts == 29_374_808_064 / 8
    assert training.fsdp2_on_gpu(job, local) == local.experts
    assert training.fsdp2_on_gpu(laid(job, expert=4), local) == 0


def test_lora_has_no_gradients_of_the_base_weights() -> None:
    job = replace(read("model=nano_9b", "cluster=1n8g"), lora=8)
    train = of(phases(job, H100, CONSTANTS), "train")
    assert term(train, "gradients") == term(train, "optimizer state") == 0
    # 16 bytes for each of rank x (in + out) of every matrix: Mamba in and out, q k v o, MLP up and down.
    a = job.architecture
    mamba = (4480 + 2 * 10240 + 2 * 1024 + 128) + (10240 + 4480)
    attention = 2 * (4480 + 5120) + 2 * (4480 + 1024)
    dense = 8 * (27 * mamba + 4 * attention + 25 * 2 * (4480 + 15680))
    assert training.adapters(a, 8) == (dense, 0)
    assert training.adapter_state(laid(job, tensor=2)) == Range(0.0, 16 * dense / 2, 16 * dense)


def test_adapters_of_experts_are_divided_as_the_experts() -> None:
    job = replace(read("model=nano_30b", "cluster=2n8g"), lora=128)  # 23 MoE layers of 128 experts, 2688 <-> 1856
    dense, experts = training.adapters(job.architecture, 128)
    assert experts == 128 * 23 * 128 * 2 * (2688 + 1856)
    sharded = 16 * (dense + experts) / 16
    assert training.adapter_state(laid(job, backend=FSDP2, tensor=1, expert=1)) == Range(0.0, sharded, sharded)
    megatron = laid(job, backend=MEGATRON, tensor=2, pipeline=1, expert=8, expert_tensor=1)
    assert training.adapter_state(megatron) == Range(0.0, 8 * (dense + experts / 8), 16 * (dense + experts / 8))


def test_with_adapters_the_other_backend_is_no_choice() -> None:
    job = replace(read("model=nano_30b", "cluster=2n8g"), lora=8)
    found = search.every(job, H100, CONSTANTS)
    assert {one.layout.backend for one in found} == {job.layout.backend}


def test_the_published_optimizer_is_read_as_such() -> None:
    job = read("model=nano_9b", "cluster=1n8g")
    assert (job.layout.backend, job.precision_aware, job.gradients_fp32, job.moment_bytes) == (MEGATRON, True, False, 8)
    assert read("model=nano_12b", "cluster=2n8g").layout.backend == FSDP2
