"""Parameter counts against the published totals and against what transformers counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planner_case import MODELS, facts, model

from nano_exp.layout import architecture, parameters

HYBRID = {
    "hybrid_override_pattern": "MEM*-ME*",
    "vocab_size": 1000,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "ssm_state_size": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 12,
    "n_groups": 2,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "chunk_size": 32,
    "n_routed_experts": 5,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 72,
    "mlp_hidden_act": "relu2",
    "tie_word_embeddings": False,
}
DENSE = {
    "vocab_size": 1200,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_published_models_have_exactly_their_published_parameters(name: str) -> None:
    assert parameters.total(model(name)).total == facts(name)["total_parameters"]


def test_30b_has_29_374_808_064_in_routed_experts_and_3_58e9_active() -> None:
    whole = parameters.total(model("nano_30b"))
    assert (whole.experts, whole.dense) == (29_374_808_064, 2_203_129_280)
    assert parameters.active(model("nano_30b")) == 2_203_129_280 + 29_374_808_064 * 6 // 128


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("nemotron_h", {}),
        ("nemotron_h", {"mlp_bias": True, "use_bias": True, "use_conv_bias": False}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": False, "head_dim": 24, "attention_bias": True}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"tie_word_embeddings": False, "head_dim": 16}),
    ],
)
def test_other_models_have_what_transformers_counts(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    import torch
    import transformers

    values = {**(HYBRID if kind == "nemotron_h" else DENSE), **changes}
    config = transformers.AutoConfig.for_model(kind, **values)
    with torch.device("meta"):
        counted = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**values, "model_type": kind}))
    assert parameters.total(architecture.from_file(file)).total == counted
    config.save_pretrained(tmp_path)  # as transformers writes it: other keys, block names instead of a pattern
    assert parameters.total(architecture.from_file(tmp_path)).total == counted


def test_pipeline_stages_hold_every_parameter_once() -> None:
    a = model("nano_30b")
    cut = parameters.stages(a, 2)
    assert [len(blocks) for blocks in cut] == [26, 26]
    held = [parameters.of_stage(a, cut[0], True, False), parameters.of_stage(a, cut[1], False, True)]
    assert held[0].total + held[1].total == parameters.total(a).total


def test_stages_may_be_uneven_at_the_ends_only() -> None:
    ten = replace(model("nano_9b"), layers="M" * 10)
    assert [len(s) for s in parameters.stages(ten, 3, first=2)] == [2, 4, 4]
    assert [len(s) for s in parameters.stages(ten, 3, first=2, last=5)] == [2, 3, 5]
    with pytest.raises(ValueError, match="10 layers over 3"):
        parameters.stages(ten, 3)


def test_stages_of_a_transformer_are_cut_between_its_layers() -> None:
    four = replace(model("nano_9b"), layers="*-" * 4)
    assert parameters.stages(four, 2) == ("*-*-", "*-*-")
    assert parameters.stages(four, 2, first=1) == ("*-", "*-*-*-")
