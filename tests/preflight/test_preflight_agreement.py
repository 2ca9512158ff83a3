"""`nano-exp plan` and `nano-exp check` say the same of every layout: both ask the one rulebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from core_case import config_loader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preflight_case import NINE, NINE_2, ROWS, THIRTY, THIRTY_2, TWELVE, TWELVE_2, base

from nano_exp import cli
from nano_exp.compose import resolving
from nano_exp.dotted import with_values
from nano_exp.errors import UserError
from nano_exp.layout import case, layouts, rules, workload
from nano_exp.planner import gpus, search
from nano_exp.planner.auto import compose_point
from nano_exp.preflight import RULES
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.registry import Rule
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View

M, D, OPTIMIZER = "policy.megatron_cfg", "policy.dtensor_cfg", "policy.megatron_cfg.optimizer"
SIZES, SWITCH = [1, 1, 2, 3, 4, 8], [True, False]
#: Of either backend. A size is 1 more often than not, so that some layouts are valid.
LAYOUT: dict[str, list[Any]] = {
    f"{M}.tensor_model_parallel_size": SIZES,
    f"{M}.pipeline_model_parallel_size": SIZES,
    f"{M}.context_parallel_size": SIZES,
    f"{M}.expert_model_parallel_size": [*SIZES, 16],
    f"{M}.expert_tensor_parallel_size": [1, 1, 2],
    f"{M}.sequence_parallel": SWITCH,
    f"{M}.activation_checkpointing": SWITCH,
    f"{M}.num_layers_in_first_pipeline_stage": [None, 1, 14],
    f"{M}.num_layers_in_last_pipeline_stage": [None, 7],
    f"{OPTIMIZER}.optimizer_cpu_offload": SWITCH,
    f"{OPTIMIZER}.optimizer_offload_fraction": [0.0, 0.5, 1.0],
    f"{D}.tensor_parallel_size": SIZES,
    f"{D}.context_parallel_size": SIZES,
    f"{D}.expert_parallel_size": [*SIZES, 16],
    f"{D}.sequence_parallel": SWITCH,
    f"{D}.activation_checkpointing": SWITCH,
    f"{D}.cpu_offload": SWITCH,
    f"{D}.dp_replicate_size": [1, 2, 3],
    f"{D}.automodel_kwargs.force_hf": SWITCH,
    "policy.sequence_packing.enabled": SWITCH,
    "policy.dynamic_batching.enabled": SWITCH,
    "policy.make_sequence_length_divisible_by": [1, 2, 8, 12],
    "policy.train_micro_batch_size": [1, 2, 3, 4],
    "policy.logprob_batch_size": [1, 2, 3, 4],
}
#: What a layout is laid over.
SHAPE: dict[str, list[Any]] = {
    "nemo_rl.version": ["v0.5.0", "v0.6.0", "v0.7.0"],
    "cluster.num_nodes": [1, 2, 3],
    "cluster.gpus_per_node": [1, 4, 8],
    "grpo.num_prompts_per_step": [24, 32, 33, 64],
    "grpo.num_generations_per_prompt": [1, 5, 8, 16],
    "policy.train_global_batch_size": [24, 128, 512, 1000],
    "policy.generation.top_p": [0.9, 1.0],
    "policy.generation.colocated.enabled": [True, True, False],
    "loss_fn.force_on_policy_ratio": SWITCH,
    f"{M}.use_linear_ce_fusion_loss": SWITCH,
}
#: Every model with both backends.
BASES = (NINE, (*NINE_2, "parallelism=fsdp2"), TWELVE, TWELVE_2, THIRTY, THIRTY_2)


def some(of: Mapping[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    pairs = st.lists(st.sampled_from(sorted(of)), max_size=8, unique=True)
    return pairs.flatmap(lambda keys: st.fixed_dictionaries({key: st.sampled_from(of[key]) for key in keys}))


def changed(row: tuple[str, ...], *values: Mapping[str, Any]) -> dict[str, Any]:
    """A row's resolved config with other values, those of layout keys only where the backend has the section."""
    return with_values(
        base(row), {tuple(key.split(".")): value for group in values for key, value in group.items() if has(row, key)}
    )


def has(row: tuple[str, ...], key: str) -> bool:
    node: Any = base(row)
    for part in key.split(".")[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    return isinstance(node, dict)


def refusals(config: Mapping[str, Any]) -> set[str]:
    """The rules about the config by which `check` refuses it; memory, which is no question of rules, aside."""
    view = View(config, (), Facts(environ={}))
    return {found.rule for found in findings(view, judging(view)) if found.severity == "error"}


def judging(view: View) -> list[Rule]:
    return [
        rule
        for rule in RULES.values()
        if rule.engine == "nemo_rl" and not rule.place and rule.holds(view.version) and rule.name != "memory_fits"
    ]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(row=st.sampled_from(BASES), layout=some(LAYOUT), shape=some(SHAPE))
def test_check_refuses_exactly_the_layouts_that_plan_calls_not_valid(
    monkeypatch: pytest.MonkeyPatch, row: tuple[str, ...], layout: dict[str, Any], shape: dict[str, Any]
) -> None:
    monkeypatch.delenv(case.UNEQUAL, raising=False)
    config = changed(row, shape, layout)
    refused = refusals(config)
    try:
        read = workload.of_config(config)
    except UserError:
        assert refused, "plan refuses the cluster"
        return
    invalid = {problem.rule for problem in rules.problems(read.layout, read.architecture, read.shape)}
    assert invalid == refused & set(case.RULES)
    # And no other rule of preflight knows of a layout that is not valid.
    assert refused - invalid == refusals(changed(row, shape)) - set(case.RULES)


DISAGREED = {
    "sequence_and_tensor_parallel": (*TWELVE, f"{M}.sequence_parallel=true", f"{M}.tensor_model_parallel_size=1"),
    "mamba_and_context_parallel": (*TWELVE_2, f"{D}.context_parallel_size=2"),
    "mamba_and_context_parallel ": (
        *(*THIRTY_2, "++cluster.num_nodes=3", f"{M}.context_parallel_size=3", f"{M}.expert_model_parallel_size=1"),
        *("grpo.num_prompts_per_step=24", "policy.make_sequence_length_divisible_by=12"),
        *("policy.sequence_packing.train_mb_tokens=8196", "policy.sequence_packing.logprob_mb_tokens=8196"),
    ),
}


@pytest.mark.parametrize("rule", DISAGREED)
def test_check_and_plan_both_refuse_what_one_of_them_once_passed(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *DISAGREED[rule], "ignore=[place]"]) == 2
    assert f"rule: {rule.strip()}" in capsys.readouterr().out
    assert cli.main(["plan", *DISAGREED[rule], "--top", "1"]) == 0
    assert "the layout as typed is not valid: " in capsys.readouterr().out


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_check_accepts_what_plan_offers(row: tuple[str, ...]) -> None:
    device = gpus.gpu("h100-80")
    offered = search.every(workload.of_config(base(row)), device, gpus.constants(device.name))
    for option in search.shortlist(offered, 3):
        words = layouts.overrides(option.layout)
        point = compose_point(config_loader(), [*row, *search.as_words(words.items())])
        assert refusals(resolving.resolve(point.cfg)) == set(), option.layout.title()
