"""vLLM's side, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_case import CONSTANTS, H100, model, over, read

from nano_exp.planner import gpus, inference
from nano_exp.planner.phase_memory import phases
from nano_exp.planner.ranges import GIB

MIB = 2**20


@pytest.mark.parametrize(("name", "bytes_"), [("nano_9b", 16_384), ("nano_12b", 24_576), ("nano_30b", 6_144)])
def test_kv_bytes_a_token(name: str, bytes_: int) -> None:
    g = replace(read(f"model={name}", "cluster=1n8g").generation, tensor=1)
    assert inference.kv_per_token(model(name), g) == bytes_


def test_two_key_value_heads_over_four_ranks_are_replicated() -> None:
    g = read("model=nano_30b", "cluster=1n8g").generation
    assert g.tensor == 4
    assert inference.kv_per_token(model("nano_30b"), g) == 6_144 / 2


@pytest.mark.parametrize(("name", "mib"), [("nano_9b", 136.9), ("nano_12b", 142.0), ("nano_30b", 46.8)])
def test_mamba_state_of_a_sequence_with_fp32_ssm(name: str, mib: float) -> None:
    a = model(name)
    g = replace(read(f"model={name}", "cluster=1n8g").generation, tensor=1, state_bytes=4)
    assert a.count("M") * inference.state_per_layer(a, g) / MIB == pytest.approx(mib, abs=0.06)


def test_attention_blocks_are_enlarged_to_a_mamba_page() -> None:
    # vLLM issue 24280: Nano 9B v2 with bf16 state makes attention blocks of 672 tokens; the formula, rounded up to 16.
    a = model("nano_9b")
    g = replace(read("model=nano_9b", "cluster=1n8g").generation, state_bytes=2)
    assert inference.pages(a, g).tokens == 672


def test_groups_of_layers_share_one_pool() -> None:
    # 12B: groups of 6 layers, 1 of attention and ceil(28 / 6) = 5 of Mamba.
    pool = inference.pages(model("nano_12b"), read("model=nano_12b", "cluster=1n8g").generation)
    assert pool.groups == 6
    assert pool.bytes / MIB == pytest.approx(6 * 142.0 / 28, rel=0.02)


def test_weights_of_one_engine() -> None:
    g = read("model=nano_12b", "cluster=1n8g").generation
    assert inference.weights(model("nano_12b"), g) == 2 * 12_310_001_152
    moe = read("model=nano_30b", "cluster=1n8g").generation
    assert inference.weights(model("nano_30b"), moe) == pytest.approx(2 * 31_577_937_344 / 4, rel=0.001)


def test_vllm_starts_with_a_block_for_every_sequence_that_it_may_run() -> None:
    job = read("model=nano_12b", "cluster=1n8g")
    pool = inference.pages(job.architecture, job.generation)
    assert inference.needed_cache(job, H100).expected == 512 * pool.bytes
    eager = replace(job, generation=replace(job.generation, graphs=False))  # no graphs are captured: one sequence
    assert inference.needed_cache(eager, H100).expected < 10 * pool.bytes
    older = over(job, version=(0, 6))
    assert inference.needed_cache(older, H100).expected < 10 * pool.bytes


def test_1024_sequences_of_12b_do_not_surely_fit_its_share() -> None:
    job = read("model=nano_12b", "cluster=1n8g")
    unset = replace(job, generation=replace(job.generation, max_sequences=None))
    share = next(p for p in phases(unset, H100, CONSTANTS) if p.name == "vllm share")
    assert share.klass == "tight"  # the recipe sets 512 because of it
    named = replace(job, generation=replace(job.generation, max_sequences=1024))
    assert next(p for p in phases(named, H100, CONSTANTS) if p.name == "vllm share").klass == "no"


def test_the_default_number_of_sequences_depends_on_the_gpu() -> None:
    assert [inference.default_sequences(gpus.gpu(name)) for name in ("h100-80", "a100-80", "l40s-48")] == [
        1024,
        256,
        256,
    ]


def test_a_model_without_mamba_has_pages_of_16_tokens() -> None:
    dense = replace(model("nano_9b"), layers="*-" * 4, mamba_heads=0)
    g = read("model=nano_9b", "cluster=1n8g").generation
    assert inference.pages(dense, g) == (4 * 2 * 2 * 8 * 128 * 16, 16, 1)


def test_generation_takes_its_share_whatever_is_in_it() -> None:
    job = read("model=nano_9b", "cluster=1n8g")
    generation = next(p for p in phases(job, H100, CONSTANTS) if p.name == "generation")
    assert generation.terms[0].size.expected / GIB == pytest.approx(0.8 * 79.1)
