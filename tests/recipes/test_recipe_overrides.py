"""What a user changes on top of a recipe: NVIDIA's own overrides, the knobs, derived keys, layouts and data."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from recipe_tree import differences, flat, nemo_rl, whole

from nano_exp.compose import arithmetic, resolvers

NINE = ("model=nano_9b", "cluster=1n8g")
TWELVE = ("model=nano_12b", "cluster=1n8g")
TWELVE_DTENSOR = ("model=nano_12b", "cluster=2n8g")
THIRTY_DTENSOR = ("model=nano_30b", "cluster=1n8g")
THIRTY = ("model=nano_30b", "cluster=2n8g")
EVERY = (NINE, ("model=nano_9b", "cluster=2n8g"), TWELVE, TWELVE_DTENSOR, THIRTY_DTENSOR, THIRTY)


def changed(base: tuple[str, ...], *overrides: str) -> dict[str, Any]:
    """The keys of NeMo RL that overrides change, with their new values."""
    return {key: new for key, (_, new) in differences(nemo_rl(*base), nemo_rl(*base, *overrides)).items()}


# --- overrides as NVIDIA's documentation writes them ---

DOCUMENTED = [
    ("logger.log_dir", "results/first", "results/first"),
    ("logger.wandb.name", "first", "first"),
    ("checkpointing.checkpoint_dir", "results/first", "results/first"),
    ("grpo.max_num_steps", "3", 3),
    ("policy.generation.vllm_cfg.tool_parser_plugin", "/models/parser.py", "/models/parser.py"),
    ("policy.dtensor_cfg.cpu_offload", "true", True),
    ("data.train.data_path", "/data/train.jsonl", "/data/train.jsonl"),
    ("data.validation.data_path", "/data/validation.jsonl", "/data/validation.jsonl"),
]


@pytest.mark.parametrize("prefix", ["++", ""])
@pytest.mark.parametrize(("key", "text", "value"), DOCUMENTED)
def test_documented_override_sets_its_key_and_no_other(prefix: str, key: str, text: str, value: Any) -> None:
    assert changed(NINE, f"{prefix}{key}={text}") == {key: value}


def test_all_documented_overrides_together() -> None:
    found = changed(NINE, *(f"++{key}={text}" for key, text, _ in DOCUMENTED))
    assert found == {key: value for key, _, value in DOCUMENTED}


@pytest.mark.parametrize("base", [TWELVE, THIRTY])
def test_activation_checkpointing_of_megatron(base: tuple[str, ...]) -> None:
    key = "policy.megatron_cfg.activation_checkpointing"
    assert changed(base, f"++{key}=true") == {key: True}
    assert flat(nemo_rl(*NINE))[key] is True


def test_num_nodes_by_hand_equals_the_cluster_choice() -> None:
    assert differences(nemo_rl(*NINE, "++cluster.num_nodes=2"), nemo_rl("model=nano_9b", "cluster=2n8g")) == {}


@pytest.mark.parametrize("base", [TWELVE, TWELVE_DTENSOR])
def test_logprob_batch_follows_the_micro_batch_where_upstream_ties_it(base: tuple[str, ...]) -> None:
    found = changed(base, "++policy.train_micro_batch_size=1")
    assert found["policy.train_micro_batch_size"] == found["policy.logprob_batch_size"] == 1
    assert found["policy.dynamic_batching.logprob_mb_tokens"] == 512


@pytest.mark.parametrize("base", [NINE, THIRTY])
def test_logprob_batch_stays_where_upstream_has_a_number(base: tuple[str, ...]) -> None:
    assert "policy.logprob_batch_size" not in changed(base, "++policy.train_micro_batch_size=2")


def test_a_mistyped_key_is_refused() -> None:
    with pytest.raises(ConfigCompositionException, match="num_generation_per_prompt"):
        whole(*NINE, "grpo.num_generation_per_prompt=8")


# --- one knob, any backend ---

MEGATRON = "policy.megatron_cfg"
KNOBS = ("optimizer.lr=2e-6", "optimizer.min_lr=1e-7", "optimizer.weight_decay=0.1", "optimizer.betas=[0.8,0.95]")


@pytest.mark.parametrize("base", EVERY)
def test_each_knob_reaches_megatron(base: tuple[str, ...]) -> None:
    found = changed(base, *KNOBS, "optimizer.eps=1e-6")
    assert {key: value for key, value in found.items() if key.startswith(MEGATRON)} == {
        f"{MEGATRON}.optimizer.lr": 2e-6,
        f"{MEGATRON}.optimizer.min_lr": 1e-7,
        f"{MEGATRON}.optimizer.weight_decay": 0.1,
        f"{MEGATRON}.optimizer.adam_beta1": 0.8,
        f"{MEGATRON}.optimizer.adam_beta2": 0.95,
        f"{MEGATRON}.optimizer.adam_eps": 1e-6,
        f"{MEGATRON}.scheduler.lr_warmup_init": 1e-7,
        f"{MEGATRON}.scheduler.start_weight_decay": 0.1,
        f"{MEGATRON}.scheduler.end_weight_decay": 0.1,
    }


@pytest.mark.parametrize(
    "base", [TWELVE_DTENSOR, THIRTY_DTENSOR, (*NINE, "parallelism=fsdp2"), (*TWELVE, "parallelism=fsdp2_offload")]
)
def test_each_knob_reaches_dtensor(base: tuple[str, ...]) -> None:
    policy = nemo_rl(*base, *KNOBS, "optimizer.eps=1e-6")["policy"]
    kwargs = {"lr": 2e-6, "weight_decay": 0.1, "betas": [0.8, 0.95], "eps": 1e-6}
    assert policy["optimizer"] == {"name": "torch.optim.AdamW", "kwargs": kwargs}
    assert policy["scheduler"][0]["kwargs"]["start_factor"] == 0.05  # min_lr / lr: both backends warm up from min_lr


@pytest.mark.parametrize("base", EVERY)
@pytest.mark.parametrize(("lr", "min_lr"), [("1e-6", 1e-7), ("3e-7", 3e-8), ("1e-5", 1e-6), ("7e-6", 7e-7)])
def test_min_lr_is_a_tenth_of_lr_unless_it_is_set(base: tuple[str, ...], lr: str, min_lr: float) -> None:
    """Megatron refuses a warm-up that starts above lr, which upstream's fixed 5e-7 would be in a sweep below it."""
    policy = nemo_rl(*base, f"optimizer.lr={lr}")["policy"]
    assert policy["megatron_cfg"]["optimizer"]["min_lr"] == min_lr
    assert policy["megatron_cfg"]["scheduler"]["lr_warmup_init"] == min_lr
    if policy["optimizer"] is not None:
        assert policy["scheduler"][0]["kwargs"]["start_factor"] == 0.1


@pytest.mark.parametrize("prefix", ["++", ""])
def test_a_literal_override_of_one_backend_wins(prefix: str) -> None:
    key = "policy.megatron_cfg.optimizer.lr"
    assert changed(NINE, f"{prefix}{key}=1e-6") == {key: 1e-6}
    key = "policy.optimizer.kwargs.lr"
    assert changed(TWELVE_DTENSOR, f"{prefix}{key}=1e-6") == {key: 1e-6}


# --- derived keys ---


@pytest.mark.parametrize("base", EVERY)
@pytest.mark.parametrize("generations", [4, 32])
def test_generations_move_what_is_derived_from_them(base: tuple[str, ...], generations: int) -> None:
    config = nemo_rl(*base, f"grpo.num_generations_per_prompt={generations}")
    rollout = config["grpo"]["num_prompts_per_step"] * generations
    assert config["policy"]["train_global_batch_size"] == rollout
    cap = config["policy"]["generation"]["vllm_kwargs"].get("max_num_seqs")
    assert cap == (rollout if "model=nano_12b" in base else None)


def test_sequence_length_moves_generation_and_packing() -> None:
    found = changed(TWELVE, "policy.max_total_sequence_length=1024")
    for key in ("max_new_tokens", "vllm_cfg.max_model_len", "mcore_generation_config.max_model_len"):
        assert found[f"policy.generation.{key}"] == 1024
    assert found["data.max_input_seq_length"] == found["grpo.reward_shaping.max_response_length"] == 1024
    assert found["policy.sequence_packing.train_mb_tokens"] == 4096


# --- layouts ---

OWN_LAYOUT = [
    (NINE, "megatron_tp2"),
    (TWELVE, "megatron_tp8"),
    (TWELVE_DTENSOR, "fsdp2_offload"),
    (THIRTY_DTENSOR, "fsdp2_ep8"),
    (THIRTY, "megatron_tp2_pp2_cp2_ep8"),
]
LAYOUTS = ("megatron_tp2", "megatron_tp8", "megatron_tp2_pp2_cp2_ep8", "fsdp2", "fsdp2_offload", "fsdp2_ep8")


@pytest.mark.parametrize(("base", "layout"), OWN_LAYOUT)
def test_the_layout_that_a_recipe_has_changes_nothing(base: tuple[str, ...], layout: str) -> None:
    assert changed(base, f"parallelism={layout}") == {}
    assert changed(base, "parallelism=published") == {}


@pytest.mark.parametrize("base", EVERY)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_switches_the_backend_completely(base: tuple[str, ...], layout: str) -> None:
    policy, dtensor = nemo_rl(*base, f"parallelism={layout}")["policy"], not layout.startswith("megatron")
    assert policy["dtensor_cfg"]["enabled"] is dtensor
    assert policy["megatron_cfg"]["enabled"] is not dtensor
    # The published Megatron recipe of the 30B keeps the other backend's optimizer, unread; so does its layout.
    assert (policy["optimizer"] is not None) is (dtensor or layout == "megatron_tp2_pp2_cp2_ep8")
    assert not (policy["dynamic_batching"]["enabled"] and policy["sequence_packing"]["enabled"])
    assert (policy["megatron_cfg"]["context_parallel_size"] > 1) <= policy["sequence_packing"]["enabled"] or dtensor
    if dtensor:
        assert list(policy["dtensor_cfg"]["automodel_kwargs"]) == ["backend" if layout == "fsdp2_ep8" else "force_hf"]
        assert policy["dtensor_cfg"].get("expert_parallel_size") == (8 if layout == "fsdp2_ep8" else None)
        assert policy["make_sequence_length_divisible_by"] == policy["dtensor_cfg"]["tensor_parallel_size"] == 1
    else:
        assert policy["dtensor_cfg"]["cpu_offload"] is False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_means_the_same_on_every_recipe(layout: str) -> None:
    """Nothing that a recipe set for its own layout outlives the switch."""
    sizes = [f"{kind}_size" for kind in ("tensor_model_parallel", "pipeline_model_parallel", "context_parallel")]
    sizes += ["expert_model_parallel_size", "expert_tensor_parallel_size"]
    megatron = [*sizes, "sequence_parallel", "activation_checkpointing", "bias_activation_fusion"]
    found = []
    for base in EVERY:
        policy = nemo_rl(*base, f"parallelism={layout}")["policy"]
        if layout.startswith("megatron"):
            active = {key: policy["megatron_cfg"][key] for key in megatron}
        else:
            active = policy["dtensor_cfg"]
        batching = {key: policy[key]["enabled"] for key in ("dynamic_batching", "sequence_packing")}
        found.append((active, batching, policy["make_sequence_length_divisible_by"]))
    assert all(keys == found[0] for keys in found)


def test_keys_of_a_layout_can_still_be_overridden() -> None:
    key = "policy.dtensor_cfg.automodel_kwargs.force_hf"
    for prefix in ("", "++"):
        assert flat(nemo_rl(*NINE, "parallelism=fsdp2", f"{prefix}{key}=false"))[key] is False
    assert (
        flat(nemo_rl(*NINE, "parallelism=megatron_tp8", f"{MEGATRON}.tensor_model_parallel_size=4"))[
            f"{MEGATRON}.tensor_model_parallel_size"
        ]
        == 4
    )


@pytest.mark.parametrize(
    ("base", "generation"), [(NINE, "vllm"), (NINE, "vllm_async"), (TWELVE, "vllm"), (THIRTY, "vllm_tp4")]
)
def test_the_generation_that_a_recipe_has_changes_nothing(base: tuple[str, ...], generation: str) -> None:
    assert changed(base, f"generation={generation}") == {}


def test_generation_choices_change_vllm_alone() -> None:
    assert changed(TWELVE, "generation=vllm_tp2") == {"policy.generation.vllm_cfg.tensor_parallel_size": 2}
    assert changed(TWELVE, "generation=vllm_async") == {"policy.generation.vllm_cfg.async_engine": True}


# --- data ---


@pytest.mark.parametrize("base", EVERY)
def test_math_leaves_nothing_of_the_gym(base: tuple[str, ...]) -> None:
    config = nemo_rl(*base, "data=math")
    leftovers = ("gym", "tool_parser", "auto_tools", "vllm_cfg.expose_http_server", "skip_tokenizer_init")
    assert [key for key in flat(config) if any(word in key for word in leftovers)] == []
    assert list(config["env"]) == ["math"]
    assert config["data"]["train"]["dataset_name"] == "OpenMathInstruct-2"
    assert config["data"]["max_input_seq_length"] == config["policy"]["max_total_sequence_length"]
    assert config["grpo"]["max_val_samples"] == config["grpo"]["val_batch_size"] == 256
    assert config["policy"]["generation"]["vllm_cfg"]["async_engine"] is False


@pytest.mark.parametrize("base", EVERY)
def test_workplace_assistant_is_whole_on_every_model(base: tuple[str, ...]) -> None:
    config = whole(*base, "data=workplace_assistant")
    assert config["env"]["should_use_nemo_gym"] is True
    assert "math" not in config["env"]
    assert config["grpo"]["max_val_samples"] is None and config["grpo"]["val_batch_size"] is None
    assert config["policy"]["max_total_sequence_length"] == 8192
    generation = config["policy"]["generation"]
    assert generation["max_new_tokens"] == generation["vllm_cfg"]["max_model_len"] == 8192
    assert generation["vllm_cfg"]["async_engine"] is generation["vllm_cfg"]["expose_http_server"] is True
    parser = generation["vllm_cfg"]["http_server_serving_chat_kwargs"]["tool_parser"]
    assert parser == config["model"]["tool_parser"]["name"]
    assert config["policy"]["train_micro_batch_size"] == config["policy"]["logprob_batch_size"] == 1


@pytest.mark.parametrize("base", EVERY)
def test_the_data_that_a_recipe_has_changes_nothing(base: tuple[str, ...]) -> None:
    own = "workplace_assistant" if "model=nano_9b" in base else "math"
    assert changed(base, f"data={own}") == {}


# --- resolvers ---


def test_resolvers_are_nemo_rls_and_register_twice() -> None:
    from omegaconf import OmegaConf

    resolvers.register()
    resolvers.register()
    texts = {"mul": "${mul:3, 4}", "div": "${div:3, 4}", "max": "${max:3, 4.5}", "add": "${add:3, 4}"}
    found = OmegaConf.to_container(OmegaConf.create(texts), resolve=True)
    assert found == {"mul": 12, "div": 0.75, "max": 4.5, "add": 7}
    assert isinstance(found, dict) and isinstance(found["mul"], int)


def test_ratio_writes_what_a_person_would() -> None:
    assert arithmetic.ratio(5e-6, 10) == 5e-7 != 5e-6 / 10
    assert arithmetic.ratio(5e-7, 5e-6) == 0.1 != 5e-7 / 5e-6
