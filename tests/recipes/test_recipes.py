"""The published recipes, key by key: no key missing, none extra, no value or type changed but for differences.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import core_case
import pytest
import yaml
from recipe_tree import MISSING, differences, flat, nemo_rl, whole

from nano_exp.compose import compose, conf_tree, nearest
from nano_exp.dotted import at, set_dotted
from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions

HERE = Path(__file__).parent
ALLOWED = yaml.safe_load((HERE / "differences.yaml").read_text())
ROWS = {
    "nano_9b_1n8g": "examples/nemo_gym/grpo_workplace_assistant_nemotron_nano_v2_9b.yaml",
    "nano_9b_2n8g": "examples/nemo_gym/grpo_workplace_assistant_nemotron_nano_v2_9b.yaml",
    "nano_12b_1n8g": "examples/configs/recipes/llm/grpo-nano-v2-12b-1n8g-megatron.yaml",
    "nano_12b_2n8g": "examples/configs/recipes/llm/grpo-nano-v2-12b-2n8g-fsdp2tp1.yaml",
    "nano_12b_1n4g": "examples/configs/recipes/llm/grpo-nano-v2-12b-1n4g-megatron.yaml",
    "nano_12b_2n4g": "examples/configs/recipes/llm/grpo-nano-v2-12b-2n4g-fsdp2tp1.yaml",
    "nano_30b_1n8g": "examples/configs/recipes/llm/grpo-nanov3-30BA3B-2n8g-fsdp2.yaml",
    "nano_30b_2n8g": "examples/configs/recipes/llm/grpo-nanov3-30BA3B-2n8g-megatron-pack-cp.yaml",
    "nano_30b_32n8g": "examples/nemo_gym/grpo_nanov3.yaml",
}

#: Published recipes of these models that no (model, cluster) chooses: recipe=<name>.
NAMED = {
    name: f"examples/configs/recipes/llm/{name}.yaml"
    for name in ("grpo-nanov3-30BA3B-2n8g-fsdp2-lora", "grpo-nanov3-30BA3B-2n8g-megatron-lora")
}
#: Version -> its option of nemo_rl=.
OPTIONS = {"v0.5.0": "v0_5", "v0.6.0": "v0_6", "v0.7.0": "v0_7", "main": "main"}
VERSIONS = tuple(OPTIONS)
#: Every published recipe at every version that has it.
CASES = [(v, row) for v in VERSIONS for row in (*ROWS, *NAMED) if (HERE / "expected" / v / f"{row}.json").is_file()]


def expected(version: str, row: str) -> Any:
    """What upstream composes; a file may be another one `as` it is `but` for some dotted keys, `without` others."""
    own = json.loads((HERE / "expected" / version / f"{row}.json").read_text())
    if "as" not in own:
        return own
    there, _, other = own["as"].rpartition("/")
    found = expected(there or version, other)
    for key in own.get("without", ()):
        section, _, name = key.rpartition(".")
        del at(found, section.split("."))[name]
    for key, value in own["but"].items():
        set_dotted(found, key, value)
    return found


def choose(row: str, version: str = "v0.7.0") -> tuple[str, ...]:
    default = () if version == "v0.7.0" else (f"nemo_rl={OPTIONS[version]}",)
    if row in NAMED:
        return f"recipe={row}", *default
    model, cluster = row.rsplit("_", 1)
    return f"model={model}", f"cluster={cluster}", *default


def allowed(version: str, row: str) -> list[Any]:
    rows = [entry for entry in ALLOWED if entry["rows"] == "all" or row in entry["rows"]]
    return [entry for entry in rows if entry.get("versions", "all") == "all" or version in entry["versions"]]


def test_the_versions_have_the_recipes_that_they_were_published_with() -> None:
    found = {v: [row for version, row in CASES if version == v] for v in VERSIONS}
    assert found["main"] == found["v0.7.0"] == [*ROWS, *NAMED]
    assert sorted({*found["v0.7.0"]} - {*found["v0.6.0"]}) == ["nano_30b_2n8g"]
    assert sorted({*found["v0.6.0"]} - {*found["v0.5.0"]}) == [*NAMED, "nano_30b_1n8g", "nano_30b_32n8g"]
    for version, rows in found.items():
        pairs = [f"{m}_{c}" for m, c in nearest.recipes(OPTIONS[version]) if m != "nano_tiny"]
        assert sorted(pairs) == sorted(row for row in rows if row in ROWS)


@pytest.mark.parametrize(("version", "row"), CASES)
def test_recipe_equals_the_published_one_key_by_key(version: str, row: str) -> None:
    found = differences(expected(version, row), nemo_rl(*choose(row, version)))
    entries = allowed(version, row)
    assert sorted(found) == sorted(entry["key"] for entry in entries)
    for entry in entries:
        upstream, ours = found[entry["key"]]
        assert ours == entry["ours"]
        assert (upstream == MISSING) == entry.get("missing_upstream", False), entry["key"]


def test_every_allowed_difference_has_a_reason_and_a_row() -> None:
    for version, row in CASES:
        keys = [entry["key"] for entry in allowed(version, row)]
        assert len(keys) == len(set(keys))
    for entry in ALLOWED:
        assert len(entry["why"]) > 20
        assert entry["rows"] == "all" or set(entry["rows"]) <= {*ROWS, *NAMED}
        assert entry.get("versions", "all") == "all" or set(entry["versions"]) <= set(VERSIONS)


@pytest.mark.parametrize(("version", "row"), CASES)
def test_recipe_names_its_upstream_file_version_and_model(version: str, row: str) -> None:
    config = whole(*choose(row, version))
    assert config["nemo_rl"]["recipe"] == (ROWS | NAMED)[row]
    assert config["nemo_rl"]["version"] == ("v0.6.0+7ea279abfbeb" if version == "main" else version)
    assert len(config["nemo_rl"]["commit"]) == 40
    math = "examples/run_grpo_math.py" if version == "v0.5.0" else "examples/run_grpo.py"
    assert config["nemo_rl"]["scripts"] == {"gym": "examples/nemo_gym/run_grpo_nemo_gym.py", "grpo": math}
    assert config["model"]["name"] == ("nano_30b" if row in NAMED else row.rsplit("_", 1)[0])
    assert config["policy"]["tokenizer"]["name"] == config["model"]["hf_id"]
    assert config["engine"]["name"] == "nemo_rl"


@pytest.mark.parametrize(("version", "row"), CASES)
def test_every_key_of_a_recipe_is_known_at_its_version(version: str, row: str) -> None:
    known = versions.known(versions.version_of(OPTIONS[version]))
    assert known is not None
    strange = [key for key in flat(nemo_rl(*choose(row, version))) if key not in {*known.keys, *known.recipe_keys}]
    assert strange == []


@pytest.mark.parametrize("version", VERSIONS)
def test_another_data_set_has_the_keys_of_the_version(version: str) -> None:
    """On the other model's recipe it is what it is on its own."""
    nine, twelve = choose("nano_9b_1n8g", version), choose("nano_12b_1n8g", version)
    for swapped, own in (((*twelve, "data=workplace_assistant"), nine), ((*nine, "data=math"), twelve)):
        a, b = nemo_rl(*swapped), nemo_rl(*own)
        assert differences(a["env"], b["env"]) == {}
        follows = "max_input_seq_length"  # of the model's own length
        assert {k for k in differences(a["data"], b["data"]) if k != follows} == set()
    assert ("train_jsonl_fpath" in nemo_rl(*nine)["data"]) is (version == "v0.5.0")


@pytest.mark.parametrize("version", ["v0.5.0", "v0.6.0"])
def test_a_layout_leaves_no_trace_of_the_recipes_own_at_an_older_version(version: str) -> None:
    policy = nemo_rl(*choose("nano_9b_1n8g", version), "parallelism=fsdp2")["policy"]
    assert policy["dtensor_cfg"]["enabled"] and not policy["megatron_cfg"]["enabled"]
    assert policy["dtensor_cfg"]["tensor_parallel_size"] == 1
    policy = nemo_rl(*choose("nano_12b_2n8g", version), "parallelism=megatron_tp8")["policy"]
    assert policy["megatron_cfg"]["enabled"] and not policy["dtensor_cfg"]["enabled"]
    assert policy["optimizer"] is None and policy["dynamic_batching"]["enabled"] is False


@pytest.mark.parametrize("version", VERSIONS)
def test_the_knobs_reach_both_backends_at_every_version(version: str) -> None:
    for row in ("nano_9b_1n8g", "nano_12b_2n8g"):
        policy = nemo_rl(*choose(row, version), "optimizer.lr=2e-6")["policy"]
        assert policy["megatron_cfg"]["optimizer"]["lr"] == 2e-6
        assert policy["megatron_cfg"]["scheduler"]["lr_warmup_init"] == 2e-7
        if policy["optimizer"]:
            assert policy["optimizer"]["kwargs"]["lr"] == 2e-6


def test_an_unknown_version_is_answered_with_the_known_ones() -> None:
    with conf_tree.loader() as loader, pytest.raises(UserError, match="v0_8") as caught:
        core_case.compose_points(loader, [["model=nano_9b", "cluster=1n8g", "nemo_rl=v0_8"]])
    assert "it has: main, v0_5, v0_6, v0_7" in caught.value.why
    assert caught.value.fix == "one of these: nemo_rl=main, nemo_rl=v0_5, nemo_rl=v0_6, nemo_rl=v0_7"


def test_a_model_that_a_version_lacks_is_refused_with_the_versions_that_have_it() -> None:
    with conf_tree.loader() as loader, pytest.raises(UserError, match=r"nano_30b.*v0_5") as caught:
        compose.compose(loader, ["model=nano_30b", "cluster=2n8g", "nemo_rl=v0_5"])
    assert caught.value.fix == "nemo_rl=v0_6 or nemo_rl=v0_7 or nemo_rl=main"


def test_a_combination_without_a_recipe_has_none_and_is_refused() -> None:
    with conf_tree.loader() as loader, pytest.raises(UserError, match=r"nano_9b.*local"):
        compose.compose(loader, ["model=nano_9b", "cluster=local"])


@pytest.mark.parametrize("order", [1, -1])
def test_swept_model_and_cluster_give_each_point_its_own_recipe(order: int) -> None:
    """A sweep's points carry their overrides in the order typed; each gets what it would get alone."""
    for row in (row for version, row in CASES if version == "v0.7.0" and row in ROWS):
        point = choose(row)[::order]
        assert differences(nemo_rl(*point), nemo_rl(*choose(row))) == {}
        assert whole(*point)["nemo_rl"]["recipe"] == ROWS[row]


def test_the_layers_of_each_model_are_counted_and_its_pattern_is_of_known_letters() -> None:
    for model in ("nano_9b", "nano_12b", "nano_30b"):
        facts = whole(f"model={model}", "cluster=1n8g")["model"]
        assert len(facts["hybrid_override_pattern"]) == facts["num_hidden_layers"]
        assert set(facts["hybrid_override_pattern"]) <= set("M*-E")
