"""Rules of layouts, each with a layout that keeps and one that breaks it; what is written is what is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planner_case import config, model, read

from nano_exp.layout import layouts
from nano_exp.layout import rules as rulebook
from nano_exp.layout.case import Shape
from nano_exp.layout.layouts import DYNAMIC, FSDP2, FULL, MEGATRON, PACKED, Layout

SHAPE = Shape(16, 8, 64, 8, 512)


def rules(layout: Layout, name: str = "nano_9b", shape: Shape = SHAPE) -> list[str]:
    return [problem.rule for problem in rulebook.problems(layout, model(name), shape)]


@pytest.mark.parametrize(
    ("rule", "good", "bad", "name"),
    [
        ("heads_and_tensor_parallel", {"tensor": 8}, {"tensor": 16}, "nano_9b"),  # 8 groups
        (
            "sequence_and_tensor_parallel",
            {"tensor": 2, "sequence_parallel": True},
            {"sequence_parallel": True},
            "nano_9b",
        ),
        ("experts_need_sequence_parallel", {"tensor": 2, "sequence_parallel": True}, {"tensor": 2}, "nano_30b"),
        ("context_parallel_packs", {"context": 2, "batching": PACKED}, {"context": 2}, "nano_9b"),
        ("layers_and_pipeline", {"pipeline": 2}, {"pipeline": 4}, "nano_12b"),  # 62 layers
        ("experts_and_expert_parallel", {"expert": 8}, {"expert": 3}, "nano_30b"),
        ("experts_and_expert_parallel", {"expert": 8}, {"pipeline": 2, "expert": 16}, "nano_30b"),  # ranks
        ("experts_on_dtensor", {"expert": 8}, {"backend": FSDP2, "expert": 8, "force_hf": True}, "nano_30b"),
        ("layout_divides_gpus", {"tensor": 8, "pipeline": 2}, {"tensor": 8, "pipeline": 4}, "nano_9b"),
        ("whole_micro_batches", {"micro_batch": 4}, {"micro_batch": 3}, "nano_9b"),
        ("equal_micro_batches", {"tensor": 4}, {"tensor": 4, "logprob_batch": 2}, "nano_9b"),
        ("dynamic_batching", {"batching": DYNAMIC}, {"batching": DYNAMIC, "pipeline": 2}, "nano_9b"),
        ("dynamic_batching", {"batching": PACKED}, {"batching": PACKED, "also_dynamic": True}, "nano_9b"),
        ("whole_optimizer_offload", {"offload": True}, {"offload": True, "fraction": 0.5}, "nano_9b"),
    ],
)
def test_a_rule_passes_what_keeps_it_and_names_what_breaks_it(
    rule: str, good: dict[str, Any], bad: dict[str, Any], name: str
) -> None:
    assert rule not in rules(Layout(**{"backend": MEGATRON, **good}), name)
    assert rule in rules(Layout(**{"backend": MEGATRON, **bad}), name)


def test_offload_of_dtensor_needs_more_than_one_gpu() -> None:
    layout = Layout(FSDP2, offload=True, force_hf=True)
    assert rules(layout) == []
    assert rules(layout, shape=SHAPE._replace(world=1)) == ["offload_on_one_gpu"]


def test_a_rule_holds_for_the_versions_that_have_it() -> None:
    layout = Layout(MEGATRON, tensor=4, logprob_batch=2)
    assert "equal_micro_batches" in rules(layout, shape=SHAPE._replace(version=(0, 6, 0)))
    assert "equal_micro_batches" not in rules(layout, shape=SHAPE._replace(version=(0, 5, 0)))


def test_key_value_heads_may_be_fewer_than_tensor_ranks_from_v0_6_on() -> None:
    layout = Layout(MEGATRON, tensor=4, sequence_parallel=True)  # 30B has 2 key-value heads
    assert rules(layout, "nano_30b") == []
    assert rules(layout, "nano_30b", SHAPE._replace(version=(0, 5, 0))) == ["heads_and_tensor_parallel"]


def test_the_rollout_divides_by_the_global_batch() -> None:
    assert "whole_global_batches" in rules(Layout(MEGATRON), shape=SHAPE._replace(prompts=60))


def test_what_a_shape_does_not_say_is_not_judged() -> None:
    nothing = Shape(None, 8, None, None, None)
    assert rules(Layout(MEGATRON, tensor=3), shape=nothing) == ["heads_and_tensor_parallel"]
    assert rulebook.problems(Layout(MEGATRON, tensor=3), None, nothing) == []


@pytest.mark.parametrize(
    "where",
    [(m, c) for m in ("nano_9b", "nano_12b", "nano_30b") for c in ("1n8g", "2n8g")],
)
def test_every_published_layout_is_valid(where: tuple[str, str]) -> None:
    job = read(f"model={where[0]}", f"cluster={where[1]}")
    assert rulebook.problems(job.layout, job.architecture, job.shape) == []


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
    assert layouts.padding(read("model=nano_30b", "cluster=2n8g").layout) == published == 8
