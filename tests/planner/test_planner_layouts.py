"""Rules of layouts, each with a layout that keeps and one that breaks it; what is written is what is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planner_case import config, model, read

from nano_exp.layout import rules as layouts
from nano_exp.layout.rules import DYNAMIC, FSDP2, FULL, MEGATRON, PACKED, Layout, Shape

SHAPE = Shape(16, 8, 512, 512)


def rules(layout: Layout, name: str = "nano_9b", shape: Shape = SHAPE) -> list[str]:
    return [problem.rule for problem in layouts.problems(layout, model(name), shape)]


@pytest.mark.parametrize(
    ("rule", "good", "bad", "name"),
    [
        ("tensor_divides", {"tensor": 8}, {"tensor": 16}, "nano_9b"),  # 8 groups
        ("sequence_parallel_matches", {"tensor": 2, "sequence_parallel": True}, {"sequence_parallel": True}, "nano_9b"),
        ("sequence_parallel_matches", {"tensor": 2, "sequence_parallel": True}, {"tensor": 2}, "nano_30b"),  # experts
        ("context_divides", {"context": 2, "batching": PACKED}, {"context": 2}, "nano_9b"),
        ("pipeline_divides", {"pipeline": 2}, {"pipeline": 4}, "nano_12b"),  # 62 layers
        ("experts_divide", {"expert": 8}, {"expert": 3}, "nano_30b"),
        ("experts_divide", {"expert": 8}, {"backend": FSDP2, "expert": 8, "force_hf": True}, "nano_30b"),
        ("world_divides", {"tensor": 8, "pipeline": 2}, {"tensor": 8, "pipeline": 4}, "nano_9b"),
        ("batch_divides", {"micro_batch": 4}, {"micro_batch": 3}, "nano_9b"),
        ("micro_batches_match", {"tensor": 4}, {"tensor": 4, "logprob_batch": 2}, "nano_9b"),
        ("batching_matches", {"batching": DYNAMIC}, {"batching": DYNAMIC, "pipeline": 2}, "nano_9b"),
    ],
)
def test_a_rule_passes_what_keeps_it_and_names_what_breaks_it(
    rule: str, good: dict[str, Any], bad: dict[str, Any], name: str
) -> None:
    assert rule not in rules(Layout(**{"backend": MEGATRON, **good}), name)
    assert rule in rules(Layout(**{"backend": MEGATRON, **bad}), name)


def test_offload_of_dtensor_needs_more_than_one_gpu() -> None:
    layout = Layout(FSDP2, offload=True)
    assert rules(layout) == []
    assert rules(layout, shape=Shape(1, 1, 512, 512)) == ["offload_possible"]


def test_experts_over_more_ranks_than_there_are() -> None:
    assert "world_divides" in rules(Layout(MEGATRON, pipeline=2, expert=16), "nano_30b")


def test_key_value_heads_may_be_fewer_than_tensor_ranks_from_v0_6_on() -> None:
    layout = Layout(MEGATRON, tensor=4, sequence_parallel=True)  # 30B has 2 key-value heads
    assert layouts.tensor_divides(model("nano_30b"), layout, (0, 7)) == ""
    assert layouts.tensor_divides(model("nano_30b"), layout, (0, 5)) == "2 key-value heads do not divide by 4"


def test_the_rollout_divides_by_the_global_batch() -> None:
    assert "batch_divides" in rules(Layout(MEGATRON), shape=Shape(8, 8, 500, 512))


@pytest.mark.parametrize(
    "where",
    [(m, c) for m in ("nano_9b", "nano_12b", "nano_30b") for c in ("1n8g", "2n8g")],
)
def test_every_published_layout_is_valid(where: tuple[str, str]) -> None:
    job = read(f"model={where[0]}", f"cluster={where[1]}")
    assert layouts.problems(job.layout, job.architecture, job.shape) == []


def test_layouts_are_read_from_resolved_configs() -> None:
    nine = layouts.of_config(config("model=nano_9b", "cluster=1n8g"))
    assert (nine.backend, nine.tensor, nine.recompute, nine.train_tokens) == (MEGATRON, 2, FULL, 8192)
    thirty = layouts.of_config(config("model=nano_30b", "cluster=2n8g"))
    sizes = (thirty.tensor, thirty.pipeline, thirty.context, thirty.expert, thirty.sequence_parallel, thirty.batching)
    assert sizes == (2, 2, 2, 8, True, PACKED)
    twelve = layouts.of_config(config("model=nano_12b", "cluster=2n8g"))
    assert (twelve.backend, twelve.offload, twelve.batching, twelve.train_tokens) == (FSDP2, True, DYNAMIC, 2048)


#: One layout of each kind, as the planner proposes them.
WRITTEN = [
    ("nano_9b", Layout(MEGATRON, tensor=4, pipeline=2, recompute=FULL)),
    ("nano_12b", Layout(MEGATRON, tensor=2, offload=True, micro_batch=2, logprob_batch=2)),
    ("nano_12b", Layout(FSDP2, batching=DYNAMIC, force_hf=True)),
    ("nano_12b", Layout(FSDP2, batching=DYNAMIC, force_hf=True, recompute=FULL, offload=True)),
    ("nano_30b", Layout(MEGATRON, tensor=2, expert=16, sequence_parallel=True)),
    ("nano_30b", Layout(MEGATRON, 2, 2, 2, 8, sequence_parallel=True, batching=PACKED)),
    ("nano_30b", Layout(FSDP2, expert=4, offload=True, recompute=FULL)),
]


@pytest.mark.parametrize(("name", "layout"), WRITTEN)
def test_overrides_compose_to_the_layout_that_they_were_written_from(name: str, layout: Layout) -> None:
    length = read(f"model={name}", "cluster=2n8g").max_length
    tokens = layout.micro_batch * length
    layout = replace(layout, train_tokens=tokens, logprob_tokens=tokens)
    words = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in layouts.overrides(layout).items()]
    assert layouts.of_config(config(f"model={name}", "cluster=2n8g", *words)) == layout


def test_packed_sequences_divide_by_what_context_and_sequence_parallel_need() -> None:
    published = config("model=nano_30b", "cluster=2n8g")["policy"]["make_sequence_length_divisible_by"]
    assert layouts.divisor(read("model=nano_30b", "cluster=2n8g").layout) == published == 8
