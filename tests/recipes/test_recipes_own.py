"""recipe=path: a recipe file in the place of a published one, with everything else meaning what it means elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkout_case
import core_case
import pytest
import yaml
from recipe_tree import differences
from recipe_tree import nemo_rl as published

from nano_exp.compose import conf_tree, freeze, recipe_file, resolvers, resolving
from nano_exp.errors import UserError
from nano_exp.nemo_rl import upstream
from nano_exp.store import run_config

HERE = Path(__file__).parent
TWELVE = "examples/configs/recipes/llm/grpo-nano-v2-12b-1n8g-megatron.yaml"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return checkout_case.make(tmp_path / "RL")


@pytest.fixture
def whole_recipe(tmp_path: Path) -> Path:
    """The 12B's published recipe as one file."""
    values = json.loads((HERE / "expected" / "v0.7.0" / "nano_12b_1n8g.json").read_text())
    path = tmp_path / "twelve.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def config(*words: object) -> dict[str, Any]:
    with conf_tree.loader() as loader:
        [point] = core_case.compose_points(loader, [[str(word) for word in words]])
    return resolving.resolve(point.cfg)


def refusal(*words: object) -> UserError:
    with conf_tree.loader() as loader, pytest.raises(UserError) as caught:
        core_case.compose_points(loader, [[str(word) for word in words]])
    return caught.value


def test_what_nemo_rl_gets_is_the_file_but_for_the_runs_own_folders(checkout: Path) -> None:
    found = config(f"recipe={checkout / TWELVE}")
    resolvers.register()
    wanted = upstream.resolved(upstream.load(checkout / TWELVE).config)
    changed = differences(wanted, run_config.engine_config(found))
    assert {key: value for key, (_, value) in changed.items()} == {
        "checkpointing.checkpoint_dir": None,
        "logger.log_dir": None,
        "logger.wandb.name": None,
    }
    assert found["run"]["name"] == "grpo-nano-v2-12b-1n8g-megatron"
    assert found["model"]["name"] == "nano_12b"  # by its weights
    assert found["nemo_rl"]["recipe"] == str(checkout / TWELVE)
    assert [Path(p).name for p in found["nemo_rl"]["recipe_files"]] == [Path(TWELVE).name, "grpo_math_1B.yaml"]


def test_the_same_values_are_the_same_run_whichever_way_they_come(whole_recipe: Path, tmp_path: Path) -> None:
    with conf_tree.loader() as loader:
        words = [["model=nano_12b", "cluster=1n8g"], [f"recipe={whole_recipe}"]]
        digests = {freeze.freeze(point, tmp_path).digest for point in core_case.compose_points(loader, words)}
    assert len(digests) == 1


def test_knobs_and_plain_keys_apply_after_the_file(checkout: Path) -> None:
    other = "examples/configs/recipes/llm/grpo-nano-v2-12b-2n8g-fsdp2tp1.yaml"
    found = config(f"recipe={checkout / other}")
    assert found["optimizer"]["lr"] == found["policy"]["megatron_cfg"]["optimizer"]["lr"] == 1e-6
    words = ["optimizer.lr=4e-6", "grpo.num_generations_per_prompt=4", "++policy.new=1"]
    found = config(f"recipe={checkout / TWELVE}", *words)
    megatron = found["policy"]["megatron_cfg"]
    assert megatron["optimizer"]["lr"] == 4e-6 and megatron["scheduler"]["lr_warmup_init"] == 4e-7
    assert found["policy"]["train_global_batch_size"] == 16 and found["policy"]["new"] == 1


def test_the_nodes_are_the_files_unless_a_cluster_is_typed(checkout: Path) -> None:
    assert config(f"recipe={checkout / TWELVE}")["cluster"] == {"gpus_per_node": 8, "num_nodes": 1}
    assert config(f"recipe={checkout / TWELVE}", "cluster=2n8g")["cluster"] == {"gpus_per_node": 8, "num_nodes": 2}
    assert config(f"recipe={checkout / TWELVE}")["slurm"]["where"] == "slurm"


def test_a_typed_model_is_the_one_that_trains(checkout: Path) -> None:
    base = checkout / "examples/configs/grpo_math_1B.yaml"
    found = config(f"recipe={base}")
    assert found["model"] == {"name": "other", "hf_id": "a/model", "tool_parser": {"name": None, "plugin": None}}
    assert found["policy"]["model_name"] == "a/model"
    found = config(f"recipe={base}", "model=nano_9b", "cluster=1n8g")
    assert found["model"]["name"] == "nano_9b" and found["engine"]["name"] == "nemo_rl"
    assert found["policy"]["model_name"] == found["policy"]["tokenizer"]["name"] == "nvidia/NVIDIA-Nemotron-Nano-9B-v2"


def test_typed_data_replaces_the_files_own(checkout: Path) -> None:
    found = config(f"recipe={checkout / TWELVE}", "data=workplace_assistant")
    assert found["env"]["should_use_nemo_gym"] and "math" not in found["env"]
    assert "name" not in found["data"]["train"]


def test_a_layout_on_top_means_what_it_means_on_the_published_recipe(whole_recipe: Path) -> None:
    for layout in ("fsdp2", "megatron_tp2"):
        found = run_config.engine_config(config(f"recipe={whole_recipe}", f"parallelism={layout}"))
        assert differences(published("model=nano_12b", "cluster=1n8g", f"parallelism={layout}"), found) == {}


def test_a_layout_is_refused_where_the_file_lacks_what_it_changes(checkout: Path) -> None:
    said = refusal(f"recipe={checkout / TWELVE}", "parallelism=fsdp2")
    assert "policy.dynamic_batching, policy.sequence_packing" in said.why


def test_paths_are_of_the_launch_folder_or_of_the_checkout(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"defaults: {TWELVE}\ngrpo: {{max_num_steps: 5}}\n")
    site = f"site.checkout={checkout}"
    assert config("recipe=mine.yaml", site)["grpo"]["max_num_steps"] == 5
    assert config(f"recipe={TWELVE}", site)["grpo"]["max_num_steps"] == 7
    said = refusal("recipe=mine.yaml", "grpo.seed=3")
    assert f"{TWELVE} (named by the defaults of {tmp_path / 'mine.yaml'})" in said.found
    assert "site.checkout=" in said.fix


def test_a_file_that_changes_is_read_again(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for steps in (5, 66):
        path.write_text(f"defaults: RL/{TWELVE}\ngrpo: {{max_num_steps: {steps}}}\n")
        assert config("recipe=mine.yaml")["grpo"]["max_num_steps"] == steps


def test_swept_recipes_are_each_their_own(checkout: Path) -> None:
    from nano_exp.compose import family

    other = checkout / "examples/configs/grpo_math_1B.yaml"
    words = [[f"recipe={f}", f"optimizer.lr={lr}"] for f in (checkout / TWELVE, other) for lr in ("1e-6", "2e-6")]
    with conf_tree.loader() as loader:
        frozen = freeze.freeze_all(family.compose_points(loader, words), checkout)
    assert [(f.name, f.config["policy"]["megatron_cfg"]["optimizer"]["lr"]) for f in frozen] == [
        ("grpo-nano-v2-12b-1n8g-megatron", 1e-6),
        ("grpo-nano-v2-12b-1n8g-megatron", 2e-6),
        ("grpo_math_1B", 1e-6),
        ("grpo_math_1B", 2e-6),
    ]


def test_two_files_of_one_content_keep_their_names(checkout: Path) -> None:
    twin = checkout / "examples/configs/twin.yaml"
    twin.write_text((checkout / "examples/configs/grpo_math_1B.yaml").read_text())
    words = [[f"recipe={twin.with_name(name)}"] for name in ("grpo_math_1B.yaml", "twin.yaml")]
    with conf_tree.loader() as loader:
        points = core_case.compose_points(loader, words)
    assert [point.cfg.run.name for point in points] == ["grpo_math_1B", "twin"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "recipe=mine.yaml"),
        ("defaults: mine.yaml\n", "go round in a circle"),
        ("a: [\n", "is not YAML"),
        ("sft: {}\npolicy: {}\n", "has no section grpo, checkpointing, logger, cluster (it has: sft, policy)"),
        (f"defaults: RL/{TWELVE}\noptimizer: {{lr: 1}}\n", "has a section optimizer"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(checkout: Path, tmp_path: Path, text: str | None, found: str) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    said = refusal("recipe=mine.yaml")
    assert found in said.found and said.why and said.fix


def test_a_mistyped_key_beside_a_recipe_is_answered_with_the_files_own(checkout: Path) -> None:
    said = refusal(f"recipe={checkout / TWELVE}", "policy.megatron_cfg.szie=4")
    assert said.fix.startswith("policy.megatron_cfg.size=4")


def test_a_mistyped_name_is_answered_with_the_named_recipes() -> None:
    said = refusal("recipe=grpo-nanov3-30BA3B-2n8g-lora")
    both = ("recipe=grpo-nanov3-30BA3B-2n8g-fsdp2-lora", "recipe=grpo-nanov3-30BA3B-2n8g-megatron-lora")
    assert said.fix.startswith(f"one of these: {', '.join(both)}")
    said = refusal("recipe=grpo-nanov3-30BA3B-2n8g-fsdp2-lora", "nemo_rl=v0_5")
    assert said.fix.startswith("nemo_rl=v0_6 recipe=")


def test_nothing_is_read_where_no_recipe_is_named(tmp_path: Path) -> None:
    recipe_file.register(["model=nano_9b", "+recipes=x.yaml"], tmp_path / "no conf")
