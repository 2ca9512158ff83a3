"""Activations and logits, against arithmetic by hand and published examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_case import CONSTANTS, laid, model, over, read

from nano_exp.layout.layouts import FSDP2, FULL, MEGATRON, SELECTIVE, Layout
from nano_exp.planner import activations
from nano_exp.planner.ranges import GIB

V0_6, V0_7 = (0, 6), (0, 7)


def megabytes(name: str, layout: Layout, version: tuple[int, int] = V0_7) -> float:
    a = model(name)
    kept = activations.kept_per_token(a, a.layers, layout, version, 8, True)
    return (kept.even + kept.routed) / 1e6


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("nano_9b", Layout(MEGATRON), 5.55),
        ("nano_12b", Layout(MEGATRON), 6.70),
        ("nano_30b", Layout(MEGATRON), 3.83),
        ("nano_9b", Layout(MEGATRON, tensor=8), 1.57),
        ("nano_12b", Layout(MEGATRON, tensor=8), 1.95),
        ("nano_9b", Layout(MEGATRON, tensor=8, sequence_parallel=True), 0.69),
        ("nano_12b", Layout(MEGATRON, tensor=8, sequence_parallel=True), 0.84),
    ],
)
def test_megabytes_a_token_of_the_whole_model(name: str, layout: Layout, expected: float) -> None:
    assert megabytes(name, layout) == pytest.approx(expected, abs=0.006)


def test_each_kind_of_block_by_hand() -> None:
    a, b = model("nano_9b"), model("nano_30b")
    plain = Layout(MEGATRON)
    # H 4480, d 10240, G 1024, 128 Mamba heads; q 5120, kv 1024; F 15680.
    assert activations.block(a, "M", plain).even == 4 * 4480 + 10 * 10240 + 4 * 1024 + 2 * 128
    assert activations.block(a, "*", plain).even == 4 * 4480 + 4 * 5120 + 4 * 1024
    assert activations.block(a, "-", plain).even == 4 * 4480 + 4 * 15680
    moe = activations.block(b, "E", plain)
    assert moe.even == 4 * 2688 + 8 * 128 + 4 * 3712
    assert (moe.routed, moe.unfused) == (2 * 6 * 2688 + 4 * 6 * 1856, 2 * 6 * 1856)


def test_tensor_parallel_divides_widths_and_sequence_parallel_the_rest() -> None:
    a = model("nano_9b")
    assert activations.block(a, "-", Layout(MEGATRON, tensor=4)).even == 4 * 4480 + 15680
    assert activations.block(a, "-", Layout(MEGATRON, tensor=4, sequence_parallel=True)).even == 4480 + 15680


def test_full_recompute_keeps_a_blocks_input_where_the_version_honours_it() -> None:
    layout = Layout(MEGATRON, recompute=FULL)
    assert megabytes("nano_9b", layout) == pytest.approx(56 * 2 * 4480 / 1e6)
    assert megabytes("nano_9b", layout, V0_6) == pytest.approx(5.55, abs=0.006)  # the hybrid stack ignored it


def test_dtensor_recomputes_mamba_and_mlp_of_hugging_faces_nemotron_h_but_not_attention() -> None:
    a = model("nano_12b")
    forced = Layout(FSDP2, recompute=FULL, force_hf=True)
    assert [activations.recomputes(a, kind, forced, V0_7) for kind in "M-*"] == [True, True, False]
    own = Layout(FSDP2, recompute=FULL)
    assert all(activations.recomputes(a, kind, own, V0_7) for kind in "M-*")


def test_selective_recompute_saves_what_its_modules_say() -> None:
    a = model("nano_30b")
    moe = Layout(MEGATRON, recompute=SELECTIVE, modules=("moe",))
    kept = activations.kept_per_token(a, "E", moe, V0_7, 8, True)
    assert (kept.even, kept.routed) == (4 * 2688, 0)
    act = Layout(MEGATRON, recompute=SELECTIVE, modules=("moe_act",))
    assert activations.saved_by_selective(a, "E", act, V0_7).routed == 2 * 6 * 1856
    core = Layout(MEGATRON, recompute=SELECTIVE, modules=("core_attn",))
    assert activations.saved_by_selective(a, "*", core, V0_7).even == 0  # flash attention keeps no scores
    assert activations.saved_by_selective(a, "E", moe, V0_6).even == 0  # no selective recompute of hybrids then


def test_the_first_pipeline_stage_holds_the_most_micro_batches() -> None:
    assert [activations.in_flight(stage, 4, 32) for stage in range(4)] == [4, 3, 2, 1]
    assert activations.in_flight(0, 4, 2) == 2


def test_context_parallel_divides_tokens() -> None:
    job = read("model=nano_30b", "cluster=2n8g")
    assert activations.tokens(job) == 8192 / 2


def test_logits_of_the_failing_allocation_of_a_published_report() -> None:
    # A fp32 tensor of 4 x 4096 x 151936 is the 9.27 GiB that a 30B recipe failed to allocate (NVIDIA-NeMo/RL#3005).
    reported = 4 * 4 * 4096 * 151936 / GIB
    assert reported == pytest.approx(9.27, abs=0.01)
    a = replace(model("nano_9b"), vocab=151936)
    assert activations.logits_count(a, 4 * 4096, Layout(MEGATRON)) * 4 / GIB == pytest.approx(9.27, abs=0.01)


def test_logits_of_automodels_published_measurement() -> None:
    # Llama 3.2 1B, 16,384 tokens, vocabulary 128256: 33.06 GB with and 7.30 GB without logits in full (AM
    # gradient-checkpointing guide): 25.8 GB for 2.1e9 logits, 12.3 bytes each.
    count = activations.logits_count(replace(model("nano_9b"), vocab=128256), 16384, Layout(FSDP2))
    low, high = CONSTANTS.logit_bytes_megatron.low * count / 1e9, CONSTANTS.logit_bytes_fsdp2.high * count / 1e9
    assert low < 33.06 - 7.30 < high


def test_training_logits_per_backend_and_in_chunks() -> None:
    job = read("model=nano_9b", "cluster=1n8g")
    count = 8192 * 131072 / 2
    assert activations.training_logits(job, CONSTANTS).expected == 12 * count
    assert activations.inference_logits(job, CONSTANTS).expected == 12 * count
    chunked = replace(job, chunk=1024, defer_fp32=True)
    chunk = 16 * 1024 * 131072 / 2
    assert activations.training_logits(chunked, CONSTANTS).expected == 4 * count + chunk
    assert activations.inference_logits(chunked, CONSTANTS).expected == 2 * count + chunk
    older = over(chunked, version=V0_6)  # the option was for inference alone
    assert activations.training_logits(older, CONSTANTS).expected == 12 * count
    assert activations.training_logits(over(job, fused_loss=True), CONSTANTS).expected == 0


def test_dtensors_logits_are_fp32_and_whole() -> None:
    job = read("model=nano_12b", "cluster=2n8g")
    assert activations.training_logits(job, CONSTANTS).expected == 12 * 2048 * 131072


def test_a_routers_imbalance_scales_the_routed_part_alone() -> None:
    job = laid(read("model=nano_30b", "cluster=2n8g"), pipeline=1)
    a = job.architecture
    made = activations.training(job, CONSTANTS, a.layers, 0)
    kept = activations.kept_per_token(a, a.layers, job.layout, V0_7, 8, False)
    assert made.expected == pytest.approx((kept.even + 1.2 * kept.routed) * 4096)
    assert made.high == pytest.approx((kept.even + 1.6 * (kept.routed + kept.unfused)) * 1.25 * 4096)
