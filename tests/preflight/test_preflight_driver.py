"""The driver's rules (1-5 and 9-13): each with a config that it refuses and the cure that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from preflight_case import NINE, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said

GEN = "policy.generation"
ASYNC = (
    "grpo.async_grpo.enabled=true",
    f"{GEN}.vllm_cfg.async_engine=true",
    "loss_fn.use_importance_sampling_correction=true",
    f"{GEN}.colocated.enabled=false",
)
FP8 = (f"{GEN}.vllm_cfg.precision=fp8", "loss_fn.use_importance_sampling_correction=true")
KV = (*FP8, f"{GEN}.vllm_cfg.kv_cache_dtype=fp8")
SAVE_BY = "checkpointing.checkpoint_must_save_by"
SEVERAL = (
    "data.use_multiple_dataloader=true",
    "++data.custom_dataloader=examples.custom_dataloader.custom_dataloader.example_custom_dataloader",
)
CASES = [
    Case("batch_multiplier", TWELVE, ("grpo.batch_multiplier=2",), ("grpo.batch_multiplier=1",)),
    Case("batch_multiplier", TWELVE, ("grpo.batch_multiplier=2",), ("grpo.use_dynamic_sampling=true",)),
    Case("batch_multiplier", TWELVE, ("grpo.batch_multiplier=2",), ("grpo.batch_multiplier=1",), version="v0.5.0"),
    Case(
        "prompts_per_dataloader",
        TWELVE,
        (*SEVERAL, "++data.num_prompts_per_dataloader=12"),
        ("data.num_prompts_per_dataloader=8",),
    ),
    Case(
        "prompts_per_dataloader",
        TWELVE,
        SEVERAL,
        ("data.num_prompts_per_dataloader=16",),
    ),
    Case(
        "prompts_per_dataloader",
        TWELVE,
        (SEVERAL[0], "++data.num_prompts_per_dataloader=16"),
        SEVERAL[1:],
    ),
    Case(
        "validation_data",
        TWELVE,
        ("data.train.split_validation_size=0",),
        ("++data.train.split_validation_size=0.05",),
    ),
    Case("validation_data", NINE, ("data.validation=null",), ("grpo.val_period=0", "grpo.val_at_start=false"), False),
    Case(
        "validation_data",
        NINE,
        ("data.validation=null",),
        ("data.validation_jsonl_fpath=/data/validation.jsonl",),
        typed=False,
        version="v0.5.0",
    ),
    Case(
        "force_on_policy_batch",
        TWELVE,
        ("++loss_fn.force_on_policy_ratio=true", "policy.train_global_batch_size=256"),
        ("policy.train_global_batch_size=512",),
    ),
    Case(
        "penalty_without_reference",
        TWELVE,
        ("grpo.skip_reference_policy_logprobs_calculation=true", "loss_fn.reference_policy_kl_penalty=0.01"),
        ("loss_fn.reference_policy_kl_penalty=0",),
    ),
    Case("fp8_correction", TWELVE, FP8[:1], ("loss_fn.use_importance_sampling_correction=true",)),
    Case("fp8_kv_cache", TWELVE, KV[2:], (f"{GEN}.vllm_cfg.precision=fp8",)),
    Case("fp8_kv_cache", TWELVE_2, KV, (f"{GEN}.vllm_cfg.kv_cache_dtype=auto",)),
    Case("fp8_kv_cache", THIRTY_2, KV, ("policy.megatron_cfg.pipeline_model_parallel_size=1",)),
    Case(
        "fp8_kv_cache",
        TWELVE,
        (*KV, f"{GEN}.vllm_cfg.async_engine=true"),
        (f"{GEN}.vllm_cfg.async_engine=false",),
    ),
    *(
        Case("gym_needs_server", NINE, (f"{GEN}.{key}=false",), (f"++{GEN}.{key}=true",), severity="warning")
        for key in ("vllm_cfg.async_engine", "vllm_cfg.expose_http_server")
    ),
    Case(
        "gym_needs_server",
        NINE,
        (f"{GEN}.backend=megatron", f"++{GEN}.mcore_generation_config.expose_http_server=true"),
        (f"++{GEN}.mcore_generation_config.async_engine=true",),
    ),
    Case("gym_needs_server", NINE, (f"{GEN}.backend=megatron",), (f"{GEN}.backend=vllm",), version="v0.6.0"),
    *(
        Case("async_grpo", TWELVE, (*ASYNC, bad), (cure,))
        for bad, cure in (
            (f"{GEN}.vllm_cfg.async_engine=false", f"{GEN}.vllm_cfg.async_engine=true"),
            ("loss_fn.use_importance_sampling_correction=false", "loss_fn.use_importance_sampling_correction=true"),
            (f"{GEN}.colocated.enabled=true", f"{GEN}.colocated.enabled=false"),
            ("grpo.use_dynamic_sampling=true", "grpo.use_dynamic_sampling=false"),
            ("grpo.reward_scaling.enabled=true", "grpo.reward_scaling.enabled=false"),
            ("grpo.reward_shaping.enabled=true", "grpo.reward_shaping.enabled=false"),
            ("data.use_multiple_dataloader=true", "grpo.async_grpo.enabled=false"),
        )
    ),
    Case("checkpoint_metric", TWELVE, ("checkpointing.metric_name=val_reward",), ("checkpointing.metric_name=null",)),
    Case(
        "checkpoint_metric",
        TWELVE,
        ("grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false"),
        ("grpo.val_period=10",),
        typed=False,
        severity="warning",
    ),
    *(
        Case("checkpoint_metric", TWELVE, (f"checkpointing.metric_name=val:{name}",), (f"checkpointing.{cure}",))
        for name, cure in (("reward", "metric_name=val:accuracy"), ("acuracy", "metric_name=null"))
    ),
    Case(
        "checkpoint_metric",
        TWELVE,
        ("checkpointing.metric_name=val:reward",),
        ("checkpointing.metric_name=val:accuracy",),
        version="v0.5.0",
    ),
    Case("checkpoint_times", TWELVE, ("checkpointing.save_period=0",), ("checkpointing.save_period=10",)),
    Case(
        "checkpoint_times",
        TWELVE,
        ("checkpointing.save_period=0", "checkpointing.enabled=false"),
        ("checkpointing.save_period=10",),
        version="v0.5.0",
    ),
    *(
        Case("checkpoint_times", TWELVE, (f"{SAVE_BY}={bad}",), (f"{SAVE_BY}={cure}",))
        for bad, cure in (
            ("'03:45:00'", "'00:03:45:00'"),
            ("4h", "'00:03:45:00'"),
            ("13500", "null"),
            ("'::1:1'", "null"),
        )
    ),
    Case("validation_batches", TWELVE, ("grpo.max_val_samples=64",), ("grpo.val_batch_size=64",)),
    Case("validation_batches", TWELVE, ("grpo.val_batch_size=512",), ("grpo.max_val_samples=512",), version="v0.5.0"),
    Case("validation_batches", TWELVE, ("grpo.max_val_samples=0",), ("grpo.val_period=0",)),
    Case("metric_between_validations", TWELVE, ("checkpointing.save_period=4",), ("checkpointing.save_period=10",)),
    *(
        Case("checkpointing_keys", TWELVE, (f"~checkpointing.{name}",), (f"++checkpointing.{name}={value}",))
        for name, value in (("keep_top_k", 3), ("save_optimizer", "true"), ("checkpoint_must_save_by", "null"))
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_driver_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_several_data_loaders_are_known_from_v0_6_on() -> None:
    bad = (*SEVERAL, "++data.num_prompts_per_dataloader=12")
    assert said("prompts_per_dataloader", TWELVE, bad, "v0.6.0")
    assert not said("prompts_per_dataloader", TWELVE, bad, "v0.5.0")


def test_save_optimizer_is_read_from_v0_6_on() -> None:
    assert not said("checkpointing_keys", TWELVE, ("~checkpointing.save_optimizer",), "v0.5.0")


def test_a_list_of_training_sets_may_bring_the_validation_part() -> None:
    sets = 'data.train=[{"dataset_name": "a"}, {"dataset_name": "b", "split_validation_size": 0.1}]'
    assert not said("validation_data", TWELVE, (sets,))


def test_the_published_nine_saves_between_validations() -> None:
    """The one warning that a published row earns: saves every 6 steps, validates every 10."""
    assert [f.severity for f in said("metric_between_validations", NINE)] == ["warning"]


def test_no_metric_and_a_training_metric_need_no_validation() -> None:
    off = ("grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false")
    for name in ("null", "train:reward"):
        assert not said("checkpoint_metric", TWELVE, (*off, f"checkpointing.metric_name={name}"))


def test_checkpoints_without_a_validation_are_kept_by_age_whichever_way_is_better() -> None:
    """remove_old_checkpoints sorts equal values so that higher steps come first, in both directions."""
    off = ("grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false")
    for better in ("true", "false"):
        found = said("checkpoint_metric", TWELVE, (*off, f"checkpointing.higher_is_better={better}"))
        assert [f.severity for f in found] == ["warning"]


def test_gyms_environments_measure_what_they_like() -> None:
    assert not said("checkpoint_metric", NINE, ("checkpointing.metric_name=val:workplace_assistant/reward",))
    assert not said("checkpoint_metric", TWELVE, ("checkpointing.metric_name=val:avg_length",))


def test_a_metric_of_the_old_form_is_led_to_one_that_exists() -> None:
    (found,) = said("checkpoint_metric", TWELVE, ("checkpointing.metric_name=val_reward",))
    assert "val:accuracy" in found.fix
    (found,) = said("checkpoint_metric", NINE, ("checkpointing.metric_name=val_reward",))
    assert "val:reward" in found.fix


def test_times_that_nemo_rl_reads() -> None:
    for value in ("00:03:45:00", "1:2:3:4", "00:100:00:00"):
        assert not said("checkpoint_times", TWELVE, (f"{SAVE_BY}='{value}'",))
    assert not said("checkpoint_times", TWELVE, ("checkpointing.save_period=-5",))
    assert not said("checkpoint_times", TWELVE, ("checkpointing.save_period=0", "grpo.max_num_steps=1"))


def test_nothing_is_said_of_samples_where_nothing_validates_or_gym_counts_them() -> None:
    off = ("grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false")
    assert not said("validation_batches", TWELVE, (*off, "grpo.max_val_samples=64"))
    assert not said("validation_batches", NINE, ("grpo.val_batch_size=256", "grpo.max_val_samples=1"))
    assert not said("validation_batches", TWELVE, ("grpo.max_val_samples=300",))


@pytest.mark.parametrize("rule", ["async_grpo", "gym_needs_server"])
@pytest.mark.parametrize("backend", ["megatron", "dynamo"])
def test_from_v0_8_on_some_backends_are_always_asynchronous(rule: str, backend: str) -> None:
    bad = (*ASYNC, f"{GEN}.backend={backend}", "loss_fn.use_importance_sampling_correction=true")
    assert not said(rule, NINE, bad, "v0.8.0")
    if backend == "megatron":
        assert said(rule, NINE, bad, "v0.7.0")


@pytest.mark.parametrize(
    ("row", "more", "severity", "fix"),
    [
        (TWELVE, ("grpo.max_num_steps=14844",), "error", "grpo.max_num_steps=14843"),
        (TWELVE, ("grpo.max_num_steps=14843",), None, ""),
        (TWELVE, ("grpo.max_num_steps=20", "++data.train.dataset_name=Mine"), "warning", "the prompts divided by 64"),
        (NINE, ("grpo.max_num_steps=18", "data.train.data_path={data}"), "error", "grpo.max_num_steps=17"),
        (NINE, ("grpo.max_num_steps=17", "data.train.data_path={data}"), None, ""),
        (NINE, ("grpo.max_num_steps=18", "data.train.data_path={data}", "++data.train.repeat=2"), None, ""),
        (NINE, ("grpo.max_num_steps=18", "data.train.data_path=/not/here.jsonl"), "warning", "grpo.max_num_steps=N"),
    ],
)  # fmt: skip
def test_data_that_end_before_an_asynchronous_run_does(
    tmp_path: Path, row: tuple[str, ...], more: tuple[str, ...], severity: str | None, fix: str
) -> None:
    (tmp_path / "train.jsonl").write_text('{"a": 1}\n' * 1129 + "\n")
    size = "grpo.num_prompts_per_step=64"
    overrides = [one.format(data=tmp_path / "train.jsonl") for one in (*ASYNC, size, *more)]
    found = said("async_data_suffice", row, overrides)
    assert [one.severity for one in found] == ([severity] if severity else [])
    assert all(fix in one.fix for one in found)
    assert said("async_data_suffice", row, overrides, "v0.8.0") == [], "it ends with an error there"
    assert said("async_data_suffice", row, overrides[1:]) == [], "synchronous GRPO ends after its epochs"
