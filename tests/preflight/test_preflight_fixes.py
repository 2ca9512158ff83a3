"""Fixes are true when typed: each that is shown is composed here again, by Hydra, and judged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import core_case
import pytest
from core_case import config_loader, frozen
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from preflight_case import NINE, NINE_2, ROWS, TWELVE

from nano_exp import cli
from nano_exp.compose import freeze
from nano_exp.errors import UserError
from nano_exp.preflight import Report, examine, fixes
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.fixes import Judged, Way, identity, replaced, typed_with, ways
from nano_exp.preflight.registry import RULES

FOLDER = Path("/launch")
FACTS = Facts(environ={})


def checked(*overrides: str) -> Report:
    wanted = [frozen(FOLDER, *overrides)]
    return fixes.true_fixes(examine(wanted, FACTS), wanted, FACTS, FOLDER)


def fixes_of(rule: str, *overrides: str) -> list[str]:
    return [group.finding.fix for group in checked(*overrides).groups if group.finding.rule == rule]


@pytest.mark.parametrize(
    ("fix", "found"),
    [
        ("a.b=1 (as published), or another number of GPUs", [("a.b=1",), ()]),
        ("a.b=1 ++c.d=[1,2]; leave a.b out", [("a.b=1", "++c.d=[1,2]"), ()]),
        ("'run.tags=[foo, bar]'", [("run.tags=[foo, bar]",)]),
        ("++site.env.X='9.0 10.0'", [("++site.env.X=9.0 10.0",)]),
        ("~data.x, or parallelism=fsdp2", [("~data.x",), ("parallelism=fsdp2",)]),
        ("a.b=<a number>, or a.b=..., or a.b=N, or a.b={...}, or a.b=/path/to/it", [()] * 5),
        ("hydra.launcher.gres=gpu:h100:8", [("hydra.launcher.gres=gpu:h100:8",)]),
        ("a.b=1 or c.d=2", [("a.b=1",), ("c.d=2",)]),
        ("a.b=1 or a multiple, or c.d=2", [("a.b=1",), ("c.d=2",)]),
        ("a.b=1 (c.d=2 follows)", [("a.b=1",)]),
    ],
)
def test_what_of_a_fix_is_typed(fix: str, found: list[tuple[str, ...]]) -> None:
    assert [way.overrides for way in ways(fix)] == found


def test_an_alternative_that_only_leads_to_another_refusal_is_not_shown() -> None:
    """1032 is a multiple of the ranks, and no divisor of the rollout: it would be sent back to 1024."""
    found = fixes_of("batches_divide_ranks", *NINE_2, "cluster.num_nodes=3")
    assert found and all("1032" not in fix for fix in found)
    assert any("grpo.num_prompts_per_step=66" in fix for fix in found)


@pytest.mark.parametrize(
    ("rule", "typed", "fix"),
    [
        ("known_names", ("policy.precision=fp16",), "policy.precision=float16 policy.megatron_cfg.optimizer.fp16=true"),
        ("whole_global_batches", ("policy.train_global_batch_size=100",), "policy.train_global_batch_size=512"),
        ("checkpoint_times", ("checkpointing.save_period=0",), "checkpointing.save_period="),
    ],
)
def test_what_mends_the_errors_that_a_fix_brings_is_typed_with_it(rule: str, typed: tuple[str, ...], fix: str) -> None:
    assert any(text.startswith(fix) for text in fixes_of(rule, *TWELVE, *typed))


def test_a_key_is_typed_as_it_was() -> None:
    """The 9B recipe has no such key: without ++ it would not compose."""
    (fix,) = fixes_of("mamba_cache_blocks", *NINE, "++policy.generation.vllm_kwargs.max_num_seqs=4096")
    assert fix == "++policy.generation.vllm_kwargs.max_num_seqs=1024"


def test_a_key_that_is_not_read_is_replaced_and_not_joined() -> None:
    (fix,) = fixes_of("unknown_key", *TWELVE, "++data.dataset_name=squad")
    assert fix == "data.train.dataset_name=squad instead (NeMo RL reads it), or leave it out"


def test_where_nothing_helps_the_keys_are_named() -> None:
    (fix,) = fixes_of("one_node_split", *TWELVE, "policy.generation.colocated.enabled=false")
    assert not any(way.overrides for way in ways(fix))
    assert "policy.generation.colocated.resources.gpus_per_node" in fix


def test_check_prints_the_fix_that_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *NINE_2, "cluster.num_nodes=3", "ignore=[place]"]) == 2
    said = capsys.readouterr().out
    assert "grpo.num_prompts_per_step=66" in said and "1032" not in said


#: Values that one tries, of which many do not go together.
TRIED: dict[str, list[Any]] = {
    "cluster.num_nodes": [1, 2, 3, 5],
    "grpo.num_prompts_per_step": [3, 7, 33, 64],
    "grpo.num_generations_per_prompt": [1, 5, 16, 24],
    "policy.train_global_batch_size": [16, 100, 512, 1000],
    "policy.train_micro_batch_size": [3, 4],
    "policy.logprob_batch_size": [3, 8],
    "policy.megatron_cfg.tensor_model_parallel_size": [2, 3, 8, 16],
    "policy.megatron_cfg.pipeline_model_parallel_size": [2, 3],
    "policy.megatron_cfg.context_parallel_size": [2],
    "policy.dtensor_cfg.tensor_parallel_size": [2, 3],
    "++policy.dtensor_cfg._v2": ["true", "false"],
    "policy.make_sequence_length_divisible_by": [1, 3],
    "policy.max_total_sequence_length": [500, 16384],
    "policy.sequence_packing.enabled": ["true", "false"],
    "policy.dynamic_batching.enabled": ["true", "false"],
    "policy.precision": ["bf16", "float32", "fp16"],
    "policy.generation.vllm_cfg.tensor_parallel_size": [2, 3, 16],
    "policy.generation.vllm_cfg.pipeline_parallel_size": [2],
    "policy.generation.vllm_cfg.kv_cache_dtype": ["fp8"],
    "++policy.generation.vllm_kwargs.max_num_seqs": [4, 4096],
    "policy.generation.colocated.enabled": ["false"],
    "policy.generation.top_p": [0, 0.9],
    "loss_fn.force_on_policy_ratio": ["true"],
    "++loss_fn.sequence_level_importance_ratios": ["true"],
    "++loss_fn.truncated_importance_sampling_type": ["tis", "icepop", "ice-pop"],
    "grpo.use_dynamic_sampling": ["true"],
    "grpo.val_period": [0, 7],
    "++grpo.async_grpo.enabled": ["true"],
    "checkpointing.metric_name": ["reward", "val:reward", "train:reward"],
    "checkpointing.save_period": [0, 7],
    "optimizer.min_lr": [1],
    "++data.dataset_name": ["squad"],
    "++logger.wandb.project": ["a/b"],
    "run.tags": ["foo"],
}
CHOICES = st.sampled_from([(key, value) for key, values in TRIED.items() for value in values])


def judged(overrides: list[str]) -> Judged:
    """What preflight says of a point that Hydra composes from nothing."""
    (point,) = core_case.compose_points(config_loader(), [overrides])
    return Judged(tuple(group.finding for group in examine([freeze.freeze(point, FOLDER)], FACTS).groups))


#: `NANO_EXP_EXAMPLES=1000` for a night.
EXAMPLES = int(os.environ.get("NANO_EXP_EXAMPLES", "5"))


# Each example composes a dozen configs: one that fails is small enough as it is, and is not shrunk.
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(row=st.sampled_from(ROWS), chosen=st.lists(CHOICES, min_size=1, max_size=3, unique_by=lambda pair: pair[0]))
def test_every_fix_that_is_shown_mends_its_finding_and_brings_no_error(
    row: tuple[str, ...], chosen: list[tuple[str, Any]]
) -> None:
    typed = [*row, *(f"{key}={value}" for key, value in chosen)]
    try:
        report = checked(*typed)
    except UserError:
        assume(False)
    before = Judged(tuple(group.finding for group in report.groups))
    for group in report.groups:
        for way in ways(group.finding.fix):
            if way.overrides and not RULES[group.finding.rule].place:
                after = judged(typed_with(typed, way.overrides, replaced(group.finding)))
                assert identity(group.finding) not in after.all, (typed, group.finding, way)
                assert not after.errors - before.errors, (typed, group.finding, way)


def test_a_fix_takes_the_place_of_what_was_typed() -> None:
    assert typed_with(["a.b=1", "++c=2"], ["d=3"], ["c"]) == ["a.b=1", "d=3"]
    assert typed_with(["a.b=1", "++c.d=2", "e=3"], ["++a.b=4", "~c.d"]) == ["e=3", "++a.b=4", "~c.d"]
    assert Way("a=1", ("a=1",)) in ways("a=1, or b=2")
