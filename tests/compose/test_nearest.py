"""A shape is a choice: every model on any number of nodes, from its nearest published recipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core_case import launch, point
from hydra.core.config_loader import ConfigLoader

from nano_exp.advice import mistakes
from nano_exp.compose import compose, conf_tree, family
from nano_exp.errors import UserError

#: (version, model, shape) -> the published recipe that it starts from
NEAREST = {
    ("v0_7", "nano_9b", "4n8g"): "nano_9b_2n8g",
    ("v0_7", "nano_12b", "8n8g"): "nano_12b_2n8g",
    ("v0_7", "nano_12b", "1n1g"): "nano_12b_1n4g",
    ("v0_7", "nano_30b", "4n8g"): "nano_30b_2n8g",
    ("v0_6", "nano_30b", "2n8g"): "nano_30b_1n8g",
    ("v0_5", "nano_12b", "4n8g"): "nano_12b_2n8g",
    ("main", "nano_30b", "8n8g"): "nano_30b_2n8g",
}
OWN = """\
# @package _global_
model: {name: mine, hf_id: me/mine, recipes_of: nano_30b, tool_parser: {name: null, plugin: null}}
"""


def plain(cfg: Any) -> dict[str, Any]:
    """What the engine reads, interpolations as text: some values follow the number of nodes."""
    return {k: v for k, v in conf_tree.raw(cfg).items() if k not in ("model", "run", "cluster")}


@pytest.mark.parametrize(("asked", "source"), NEAREST.items(), ids=map("-".join, NEAREST))
def test_a_shape_without_a_recipe_is_the_nearest_one_with_other_nodes(asked: tuple[str, ...], source: str) -> None:
    version, model, shape = asked
    found, published = (
        point(f"model={model}", f"cluster={cluster}", f"nemo_rl={version}") for cluster in (shape, source[-4:])
    )
    assert plain(found.cfg) == plain(published.cfg)
    assert (found.cfg.cluster.num_nodes, found.cfg.cluster.gpus_per_node) == (int(shape[0]), int(shape[2]))
    assert found.notes == (f"recipe: {model}'s of {source[-4:]}, with num_nodes and gpus_per_node of {shape}",)
    assert published.notes == ()


@pytest.fixture
def own_conf(tmp_path: Path) -> Iterator[ConfigLoader]:
    """conf/ with three files of a user's: a shape, a model, and a model that names no other one."""
    conf = shutil.copytree(conf_tree.CONF_DIR, tmp_path / "conf")
    (conf / "cluster" / "3n4g.yaml").write_text("num_nodes: 3\ngpus_per_node: 4\n")
    (conf / "model" / "mine.yaml").write_text(OWN)
    (conf / "model" / "bare.yaml").write_text(OWN.replace("recipes_of: nano_30b, ", ""))
    with conf_tree.loader(conf) as config_loader:
        yield config_loader


def test_one_file_of_two_numbers_is_a_shape(own_conf: ConfigLoader) -> None:
    found = compose.compose_point(own_conf, ["model=nano_12b", "cluster=3n4g"])
    assert (found.cfg.cluster.num_nodes, found.cfg.cluster.gpus_per_node) == (3, 4)
    assert found.cfg.nemo_rl.recipe.endswith("grpo-nano-v2-12b-2n4g-fsdp2tp1.yaml")


def test_one_file_is_a_model_which_trains_its_own_weights(own_conf: ConfigLoader) -> None:
    for shape, source in (("1n8g", "1n8g"), ("4n8g", "2n8g")):
        found = compose.compose_point(own_conf, ["model=mine", f"cluster={shape}"])
        theirs = compose.compose_point(own_conf, ["model=nano_30b", f"cluster={source}"])
        mine, published = plain(found.cfg), plain(theirs.cfg)
        assert found.cfg.policy.model_name == found.cfg.policy.tokenizer.name == "me/mine"
        for config in (mine, published):
            del config["policy"]["model_name"], config["policy"]["tokenizer"]["name"]
        assert mine == published
        assert found.notes[0].startswith(f"recipe: nano_30b's of {source}, with the weights of mine")


def test_models_and_shapes_can_be_swept_and_every_point_says_its_recipe(own_conf: ConfigLoader) -> None:
    words = [
        [f"model={model}", f"cluster={shape}", f"optimizer.lr={lr}"]
        for model in ("mine", "nano_9b")
        for shape in ("2n8g", "8n8g")
        for lr in ("1e-6", "2e-6")
    ]
    points = family.compose_points(own_conf, words)
    assert sum(isinstance(one, family.Sibling) for one in points) == 4
    assert [one.notes for one in points] == [compose.compose_point(own_conf, typed).notes for typed in words]
    assert [bool(one.notes) for one in points] == [True] * 4 + [False] * 2 + [True] * 2


def test_a_model_that_names_no_other_one_is_answered_in_words(own_conf: ConfigLoader) -> None:
    words = ["model=bare", "cluster=1n8g"]
    with pytest.raises(UserError, match="model=bare and no data=") as without_data, mistakes.explained(own_conf):
        compose.compose_point(own_conf, words)
    with pytest.raises(UserError, match="has no recipe") as without_recipe:
        compose.compose_point(own_conf, [*words, "data=math"])
    for caught in (without_data, without_recipe):
        assert caught.value.fix.startswith("`recipes_of: nano_9b`")


def test_a_launch_says_it_in_one_line_and_a_layout_that_does_not_divide_is_refused_with_a_fix(tmp_path: Path) -> None:
    done = launch(tmp_path, "model=nano_12b", "cluster=4n8g", "dry_run=true", "ignore=[place]")
    assert done.stdout.count("recipe: nano_12b's of 2n8g, with num_nodes and gpus_per_node of 4n8g\n") == 1
    words = ("model=nano_12b", "cluster=1n1g", "dry_run=true", "ignore=[place]")
    refused = launch(tmp_path, *words)
    assert refused.returncode == 2
    assert "rule: layout_divides_gpus" in refused.stderr
    assert "fix: policy.megatron_cfg.tensor_model_parallel_size=1," in refused.stderr


def test_hydras_own_flags_compose_the_same() -> None:
    with conf_tree.loader() as config_loader:
        assert {"4n8g", "8n8g"} <= set(config_loader.get_group_options("cluster"))


def test_cfg_shows_the_nearest_recipe(tmp_path: Path) -> None:
    done = launch(tmp_path, "model=nano_30b", "cluster=8n8g", "--cfg", "job", "--package", "nemo_rl")
    assert "grpo-nanov3-30BA3B-2n8g-megatron-pack-cp.yaml" in done.stdout


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["model=nano_30b", "cluster=4n8g", "nemo_rl=v0_5"], "nemo_rl=v0_6 or nemo_rl=v0_7"),
        (["cluster=4n8g"], "one of these: model=nano_12b cluster=4n8g"),
    ],
)
def test_what_has_no_recipe_even_so_names_what_has(words: list[str], fix: str) -> None:
    with pytest.raises(UserError) as caught:
        point(*words)
    assert caught.value.fix.startswith(fix)


def test_a_shape_that_there_is_no_file_of_is_told_the_file() -> None:
    with conf_tree.loader() as config_loader:
        said = mistakes.explain(ValueError("x"), config_loader, ["model=nano_9b", "cluster=16n4g"])
    assert "16n4g.yaml with `num_nodes: 16` and `gpus_per_node: 4`" in said.why
