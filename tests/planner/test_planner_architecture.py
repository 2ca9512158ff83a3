"""config.json files that cannot be used are refused in three parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planner_case import facts, model

from nano_exp.errors import UserError
from nano_exp.layout import architecture

GOOD = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def written(folder: Path, text: str) -> Path:
    file = folder / "config.json"
    file.write_text(text)
    return file


def test_a_config_that_is_not_there_or_not_json_or_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        architecture.from_file(tmp_path / "nothing" / "config.json")
    for text, said in (("{", "is not JSON"), ("[1]", "holds a list")):
        with pytest.raises(UserError, match=said) as caught:
            architecture.from_file(written(tmp_path, text))
        assert caught.value.why
        assert caught.value.fix


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mixtral"}, "model_type='mixtral'"),
        ({"model_type": None}, "model_type=None"),
        ({"hidden_size": "64"}, "hidden_size='64'"),
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"vocab_size": None}, "vocab_size=None"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'"),
    ],
)
def test_a_value_that_cannot_be_names_its_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=r"config\.json") as caught:
        architecture.from_file(written(tmp_path, json.dumps({**GOOD, **changes})))
    assert said in caught.value.found


def test_a_pattern_must_name_known_blocks_and_have_as_many_as_it_says() -> None:
    base = facts("nano_9b")
    for change, said in (
        ({"hybrid_override_pattern": "M-X"}, "hybrid_override_pattern"),
        ({"num_hidden_layers": 3}, "num_hidden_layers=3"),
        ({"moe_latent_size": 8}, "moe_latent_size=8"),
    ):
        with pytest.raises(UserError) as caught:
            architecture.parse({**base, **change}, "m", "here")
        assert said in caught.value.found


def test_a_model_without_facts_is_refused() -> None:
    with pytest.raises(UserError, match="nano_tiny has no architecture facts"):
        architecture.from_facts({"name": "nano_tiny"})


def test_layers_of_the_three_models() -> None:
    kinds = {name: [model(name).count(kind) for kind in "M*-E"] for name in ("nano_9b", "nano_12b", "nano_30b")}
    assert kinds == {"nano_9b": [27, 4, 25, 0], "nano_12b": [28, 6, 28, 0], "nano_30b": [23, 6, 0, 23]}
