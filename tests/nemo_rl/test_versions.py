from __future__ import annotations

import json
from pathlib import Path

import pytest
from core_case import point

from nano_exp.compose import resolving
from nano_exp.errors import UserError
from nano_exp.layout import workload
from nano_exp.nemo_rl import versions
from nano_exp.preflight.view import View


def test_the_keys_of_a_shipped_version_have_types() -> None:
    found = versions.known("v0.7.0")
    assert found is not None
    assert found.commit and len(found.commit) == 40
    key = found.keys["policy.generation.top_k"]
    assert (key.types, key.required, key.nullable, key.open) == (("int",), True, True, False)
    assert found.keys["policy.generation.vllm_cfg.kv_cache_dtype"].types == ("enum('auto'|'fp8'|'fp8_e4m3')",)
    assert found.keys["policy.generation.vllm_kwargs"].open
    assert found.keys["policy.generation.vllm_cfg.max_model_len"].backends == ("VllmConfig",)
    assert found.keys["loss_fn.ratio_clip_max"].default == 0.2
    assert found.keys["loss_fn.ratio_clip_c"].default is None
    assert found.keys["grpo.seed"].default is versions.NO_DEFAULT


def test_a_key_that_no_type_names_is_known_from_the_recipes() -> None:
    found = versions.known("v0.7.0")
    assert found is not None
    assert "policy.megatron_cfg.train_iters" not in found.keys
    assert {"policy.megatron_cfg", "policy.megatron_cfg.train_iters"} <= found.recipe_keys


def test_a_version_that_was_never_imported_has_none() -> None:
    assert versions.known("v9.9.9") is None


def test_the_option_of_a_version() -> None:
    assert versions.option("v0.7.0") == "v0_7"
    assert versions.option("0.10.1") == "v0_10"


@pytest.mark.parametrize("text", ["{", json.dumps({"version": "v0.1.0", "keys": {}}), "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "v0_1").mkdir()
    (tmp_path / "v0_1" / "keys.json").write_text(text)
    with pytest.raises(UserError, match=r"v0_1/keys\.json cannot be read"):
        versions.known("v0.1.0", tmp_path)


@pytest.mark.parametrize("branch", ["v0.6.0+7ea279ab1234", "main"])
def test_a_branch_is_newer_than_all_for_rules_and_planner_alike(branch: str) -> None:
    made = point("model=nano_12b", "cluster=1n8g")
    config = {**resolving.resolve(made.cfg), "nemo_rl": {"version": branch}}
    assert View(config).version == workload.of_config(config).version == versions.NEWEST > versions.order("v99.9.9")
