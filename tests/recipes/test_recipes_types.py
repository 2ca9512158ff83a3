from __future__ import annotations

from pathlib import Path

import checkout_case
import pytest

from nano_exp.errors import UserError
from nano_exp.recipes import typed_dicts


def test_every_key_below_the_master_config_is_read_without_importing(tmp_path: Path) -> None:
    keys = typed_dicts.read(checkout_case.make(tmp_path))
    assert sorted(k for k in keys if "." not in k) == ["bytes", "checkpointing", "data", "env", "grpo", "policy"]
    assert keys["grpo.seed"] == {
        "type": ["int"],
        "required": True,
        "nullable": True,
        "open": False,
        "declared_in": ["GRPOConfig"],
    }
    assert keys["grpo.reward.mode"]["type"] == ["enum('a'|'b')"]
    assert keys["grpo.reward.mode"]["default"] == "a" and not keys["grpo.reward.mode"]["required"]
    assert keys["grpo.reward.weights"]["default"] == [] and keys["bytes"]["default"] == 2097152
    assert keys["grpo.reward.above"]["nullable"] and "grpo.reward.above.mode" not in keys  # a type that holds itself
    assert keys["env"]["open"] and keys["env"]["type"] == ["dict[str,any]"]


def test_alternatives_lists_and_inherited_types(tmp_path: Path) -> None:
    keys = typed_dicts.read(checkout_case.make(tmp_path))
    assert keys["policy.megatron_cfg.enabled"]["type"] == ["enum(False)", "enum(True)"]
    assert keys["policy.megatron_cfg.size"]["declared_in"] == ["On (one alternative)"]
    assert keys["data.train"]["type"] == ["list[One]", "mapping"]
    assert keys["data.train[].name"]["required"] is False
    assert keys["checkpointing.enabled"]["required"] is True
    assert keys["checkpointing.peft"] | {"declared_in": []} == {
        "type": ["any"],
        "required": False,
        "nullable": True,
        "open": True,
        "declared_in": [],
    }


def test_a_generation_backends_own_keys_are_marked(tmp_path: Path) -> None:
    keys = typed_dicts.read(checkout_case.make(tmp_path))
    assert keys["policy.generation.vllm_cfg.max_model_len"]["backend_only"] == ["VllmConfig"]
    assert "backend_only" not in keys["policy.generation.backend"]
    assert keys["policy.generation.backend"]["declared_in"] == ["GenerationConfig", "VllmConfig"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("class Other: ...\n", "no class MasterConfig"), ("class MasterConfig(:\n", "cannot be read")],
)
def test_source_that_is_not_as_expected_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        typed_dicts.read(checkout_case.make(tmp_path, grpo=text))


def test_a_folder_without_the_types_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no module nemo_rl\.algorithms\.grpo"):
        typed_dicts.read(tmp_path)
