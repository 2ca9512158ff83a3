"""Keys that are unknown, of another type, missing, or without effect."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, config, said, words

from nano_exp.nemo_rl import known_keys
from nano_exp.preflight import RULES
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.view import View

M, D = "policy.megatron_cfg", "policy.dtensor_cfg"
CASES = [
    Case("value_type", TWELVE, ("grpo.num_prompts_per_step=eight",), ("grpo.num_prompts_per_step=8",)),
    Case("value_type", TWELVE, ("grpo.num_prompts_per_step=8.5",), ("grpo.num_prompts_per_step=8",)),
    Case("value_type", TWELVE, ("grpo.num_prompts_per_step=true",), ("grpo.num_prompts_per_step=8",)),
    Case("value_type", TWELVE, ("checkpointing.enabled=1",), ("checkpointing.enabled=true",)),
    Case("value_type", TWELVE, ("policy.model_name=null",), ("policy.model_name=a/b",)),
    Case("value_type", TWELVE, (f"{M}.optimizer=3",), (f"{M}.optimizer={{}}",)),
    Case("value_type", TWELVE, ("policy.generation.stop_token_ids=2",), ("policy.generation.stop_token_ids=[2]",)),
    Case("required_keys", NINE, (f"~{M}.moe_per_layer_logging",), (f"++{M}.moe_per_layer_logging=false",)),
    Case("required_keys", TWELVE, ("~grpo.max_num_steps",), ("++grpo.max_num_steps=3",)),
    Case("no_effect", TWELVE, (f"{D}.cpu_offload=true",), (f"{M}.enabled=false", f"{D}.enabled=true"), typed=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_key_rule_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_an_unknown_key_of_a_file_is_an_error_with_the_nearest() -> None:
    seen = View(config(TWELVE, ("grpo.num_prompt_per_step=8",)), TWELVE, Facts(environ={}))
    (found,) = RULES["unknown_key"].findings(seen)
    assert (found.severity, found.keys) == ("error", (("grpo.num_prompt_per_step", "8"),))
    assert found.fix.startswith("grpo.num_prompts_per_step=")


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_an_unknown_key_that_was_asked_for_is_a_warning(prefix: str) -> None:
    (found,) = said("unknown_key", TWELVE, (f"{prefix}grpo.something_new=8",))
    assert (found.severity, found.fix) == ("warning", "leave it out")


@pytest.mark.parametrize(
    ("typed", "fix"),
    [
        ("++grpo.max_num_step=3", "grpo.max_num_steps=3"),
        ("+grpo.num_prompt_per_step=8", "grpo.num_prompts_per_step=8"),
        ("++learning_rate=1.0e-6", "optimizer.lr=1e-06"),
        ("++grpo.lr=1.0e-6", "optimizer.lr=1e-06"),
        ("++steps=7", "grpo.max_num_steps=7"),
        ("++policy.hf_config_overrides.router_aux_loss_coeff=0.1", "++policy.hf_config_overrides.router_aux_loss_coef"),
        ("++policy.generation.vllm_kwargs.max_num_seq=64", "policy.generation.vllm_kwargs.max_num_seqs=64"),
    ],
)
def test_an_added_key_that_is_near_to_a_known_one_is_refused(typed: str, fix: str) -> None:
    """`++` says that a key is meant as it is, and not that it has no slip."""
    found = [one for one in said("unknown_key", TWELVE, (typed,)) if one.severity == "error"]
    assert [one.fix.startswith(fix) for one in found] == [True], found


@pytest.mark.parametrize(
    ("typed", "row", "version", "meant"),
    [
        ("++data.dataset_name=squad", TWELVE, "v0.7.0", "data.train.dataset_name=squad"),
        ("++data.prompt_file=p.txt", TWELVE, "v0.7.0", "data.default.prompt_file=p.txt"),
        ("++policy.generation.vllm_cfg.max_num_seqs=64", TWELVE, "v0.7.0", "vllm_kwargs.max_num_seqs=64"),
        ("++grpo.penalize_invalid_tool_call=true", NINE, "v0.7.0", "leave it out"),
        ("++grpo.num_val_generations_per_prompt=4", ("nemo_rl=v0_6", *TWELVE), "v0.6.0", "leave it out"),
    ],
)
def test_a_key_of_recipes_that_grpo_does_not_read_is_refused_when_typed(
    typed: str, row: tuple[str, ...], version: str, meant: str
) -> None:
    """Typed it would leave the run as it is; in a recipe of NVIDIA's it does no harm."""
    (found,) = said("unknown_key", row, (typed,), version)
    assert found.severity == "error" and "GRPO does not read it" in found.cause
    assert meant in found.fix
    seen = View(config(row, (typed,), version), row, Facts(environ={}))
    assert not list(RULES["unknown_key"].findings(seen)), "from a file"


def test_the_right_name_in_another_section_is_what_was_meant() -> None:
    (found,) = said("unknown_key", TWELVE, ("++policy.num_generations_per_prompt=8",))
    assert "grpo.num_generations_per_prompt" in found.fix


@pytest.mark.parametrize(
    "text",
    [
        "++env.mine.anything=1",
        "++policy.generation.vllm_kwargs.max_num_batched_tokens=8192",
        "++policy.optimizer.kwargs.foreach=false",
        "++policy.hf_config_overrides.rope_theta=1",
        "++policy.megatron_cfg.moe_permute_fusion=true",
        "++policy.tokenizer.chat_template_kwargs.enable_thinking=false",
    ],
)
def test_free_sections_and_the_recipes_own_keys_are_known(text: str) -> None:
    assert not said("unknown_key", TWELVE_2, (text,))


def test_a_number_that_is_a_text_is_told_so() -> None:
    (found,) = said("value_type", TWELVE, ("policy.megatron_cfg.optimizer.lr='1e-6'",))
    assert "looks like a number" in found.cause


@pytest.mark.parametrize(
    "text",
    [
        "policy.generation.temperature=1",
        f"{D}.custom_parallel_plan=null",
        "policy.generation.vllm_cfg.kv_cache_dtype=fp8",
        "data.train=[{dataset_name: a}]",
        "checkpointing.metric_name=null",
    ],
)
def test_every_declared_alternative_is_a_type(text: str) -> None:
    assert not said("value_type", TWELVE, (text,))


def test_an_option_that_is_none_of_those_declared() -> None:
    (found,) = said("value_type", TWELVE, ("policy.generation.vllm_cfg.kv_cache_dtype=int4",))
    assert "fp8_e4m3" in found.cause


def test_before_v0_7_types_are_advice_on_what_was_typed() -> None:
    """NeMo RL checks them from v0.7.0 on. Without the keys of a version there is nothing to say."""
    (found,) = said("value_type", ("nemo_rl=v0_6", *TWELVE), ("grpo.num_prompts_per_step=eight",), "v0.6.0")
    assert found.severity == "warning"
    assert not said("value_type", ("nemo_rl=v0_6", *NINE), version="v0.6.0"), (
        "its own recipe has nulls it does not declare"
    )
    assert known_keys.load("v0.1.0") is None
    assert not said("value_type", TWELVE, ("grpo.num_prompts_per_step=eight",), "v0.1.0")


@pytest.mark.parametrize(
    ("row", "typed"),
    [
        (NINE, f"{D}.lora_cfg.enabled=false"),
        (TWELVE, "policy.sequence_packing={enabled: false}"),
        (TWELVE_2, f"{M}.optimizer.clip_grad=null"),
        (TWELVE_2, f"~{M}.optimizer"),
        (TWELVE, f"{D}.cpu_offload=null"),
    ],
    ids=str,
)
def test_a_section_that_is_off_is_not_judged(row: tuple[str, ...], typed: str) -> None:
    """Its types ask for `enabled: false` and nothing else."""
    assert not any(said(rule, row, (typed,)) for rule in ("required_keys", "value_type"))
    assert not said("no_effect", row, (typed,)) or not typed.endswith(".enabled=false")


def test_the_same_section_is_judged_where_it_is_on() -> None:
    assert said("required_keys", TWELVE_2, (f"++{D}.lora_cfg={{enabled: true}}",))
    assert said("value_type", TWELVE, (f"{M}.optimizer.clip_grad=null",))


def test_an_empty_section_lacks_what_it_must_have() -> None:
    assert said("required_keys", TWELVE, (f"{M}.scheduler={{}}",))


def test_a_missing_optional_section_asks_for_nothing() -> None:
    assert not said("required_keys", TWELVE, ("~policy.draft", "~logger.mlflow"))


# --- without effect --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "typed", "why"),
    [
        (TWELVE, f"++{D}.activation_checkpointing=true", "Megatron trains"),
        (TWELVE, "++policy.optimizer.kwargs.lr=1e-6", "policy.megatron_cfg.optimizer"),
        (TWELVE, "++policy.scheduler.name=a", "policy.megatron_cfg.scheduler"),
        (TWELVE_2, f"{M}.optimizer.lr=1e-6", "DTensor trains"),
        (TWELVE, "policy.sequence_packing.train_mb_tokens=1", "policy.sequence_packing.enabled is not true"),
        (THIRTY_2, "policy.dynamic_batching.train_mb_tokens=1", "policy.dynamic_batching.enabled is not true"),
        (TWELVE, "grpo.async_grpo.max_trajectory_age_steps=2", "grpo.async_grpo.enabled is not true"),
        (TWELVE, "policy.generation.colocated.resources.num_nodes=1", "colocated"),
    ],
)
def test_a_typed_key_without_effect_is_told(row: tuple[str, ...], typed: str, why: str) -> None:
    found = said("no_effect", row, (typed,))
    assert [f.severity for f in found] == ["warning"]
    assert why in words(found)


@pytest.mark.parametrize(
    ("row", "typed"),
    [
        (TWELVE, f"{M}.optimizer.lr=1e-6"),
        (TWELVE, f"{D}.enabled=false"),
        (TWELVE, "policy.optimizer=null"),
        (TWELVE_2, f"{M}.scheduler.lr_warmup_iters=20"),  # the DTensor layouts take the warm-up's length from it
        (TWELVE_2, "++policy.optimizer.kwargs.lr=1e-6"),
        (THIRTY_2, "policy.sequence_packing.train_mb_tokens=9000"),
        (TWELVE, "policy.sequence_packing.enabled=false"),
        (TWELVE, "optimizer.lr=1e-6"),
    ],
)
def test_a_typed_key_with_effect_is_not(row: tuple[str, ...], typed: str) -> None:
    assert not said("no_effect", row, (typed,))


def test_what_a_recipe_has_without_effect_is_not_told() -> None:
    assert not said("no_effect", THIRTY_2)
