"""The published recipes, key by key: no key missing, none extra, no value or type changed but for differences.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_tree import MISSING, differences, nemo_rl, whole

from nano_exp.errors import UserError

HERE = Path(__file__).parent
ALLOWED = yaml.safe_load((HERE / "differences.yaml").read_text())
ROWS = {
    "nano_9b_1n8g": "examples/nemo_gym/grpo_workplace_assistant_nemotron_nano_v2_9b.yaml",
    "nano_9b_2n8g": "examples/nemo_gym/grpo_workplace_assistant_nemotron_nano_v2_9b.yaml",
    "nano_12b_1n8g": "examples/configs/recipes/llm/grpo-nano-v2-12b-1n8g-megatron.yaml",
    "nano_12b_2n8g": "examples/configs/recipes/llm/grpo-nano-v2-12b-2n8g-fsdp2tp1.yaml",
    "nano_30b_1n8g": "examples/configs/recipes/llm/grpo-nanov3-30BA3B-2n8g-fsdp2.yaml",
    "nano_30b_2n8g": "examples/configs/recipes/llm/grpo-nanov3-30BA3B-2n8g-megatron-pack-cp.yaml",
}


def expected(row: str) -> Any:
    return json.loads((HERE / "expected" / "v0.7.0" / f"{row}.json").read_text())


def choose(row: str) -> tuple[str, str]:
    model, cluster = row.rsplit("_", 1)
    return f"model={model}", f"cluster={cluster}"


@pytest.mark.parametrize("row", ROWS)
def test_recipe_equals_the_published_one_key_by_key(row: str) -> None:
    found = differences(expected(row), nemo_rl(*choose(row)))
    allowed = [entry for entry in ALLOWED if entry["rows"] == "all" or row in entry["rows"]]
    assert sorted(found) == sorted(entry["key"] for entry in allowed)
    for entry in allowed:
        upstream, ours = found[entry["key"]]
        assert ours == entry["ours"]
        assert (upstream == MISSING) == entry.get("missing_upstream", False), entry["key"]


def test_every_allowed_difference_has_a_reason_and_a_row() -> None:
    keys = [entry["key"] for entry in ALLOWED]
    assert len(keys) == len(set(keys))
    for entry in ALLOWED:
        assert len(entry["why"]) > 20
        assert entry["rows"] == "all" or set(entry["rows"]) <= set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_recipe_names_its_upstream_file_version_and_model(row: str) -> None:
    config = whole(*choose(row))
    assert config["nemo_rl"]["recipe"] == ROWS[row]
    assert config["nemo_rl"]["version"] == "v0.7.0"
    assert len(config["nemo_rl"]["commit"]) == 40
    assert config["model"]["name"] == row.rsplit("_", 1)[0]
    assert config["policy"]["tokenizer"]["name"] == config["model"]["hf_id"]
    assert config["engine"]["name"] == "nemo_rl"


def test_a_combination_without_a_recipe_has_none_and_is_refused() -> None:
    from nano_exp import compose

    with compose.loader() as loader, pytest.raises(UserError, match=r"nano_9b.*local"):
        compose.compose(loader, ["model=nano_9b", "cluster=local"])


@pytest.mark.parametrize("order", [1, -1])
def test_swept_model_and_cluster_give_each_point_its_own_recipe(order: int) -> None:
    """A sweep's points carry their overrides in the order typed; each gets what it would get alone."""
    for row in ROWS:
        point = choose(row)[::order]
        assert differences(nemo_rl(*point), nemo_rl(*choose(row))) == {}
        assert whole(*point)["nemo_rl"]["recipe"] == ROWS[row]


def test_the_layers_of_each_model_are_counted_and_its_pattern_is_of_known_letters() -> None:
    for model in ("nano_9b", "nano_12b", "nano_30b"):
        facts = whole(f"model={model}", "cluster=1n8g")["model"]
        assert len(facts["hybrid_override_pattern"]) == facts["num_hidden_layers"]
        assert set(facts["hybrid_override_pattern"]) <= set("M*-E")
