from __future__ import annotations

import hashlib
from pathlib import Path

import checkout_case
import pytest
from omegaconf import OmegaConf

from nano_exp.compose import resolvers
from nano_exp.errors import UserError
from nano_exp.nemo_rl import upstream


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_parents_are_merged_in_order_and_interpolations_see_the_last_word(tmp_path: Path) -> None:
    resolvers.register()
    path = write(
        tmp_path,
        child="defaults: [one.yaml, two.yaml]\na: {x: 3}\n",
        one="a: {x: 1, y: '${mul:${a.x}, 2}', z: 1e-6}\nb: [1, 2]\n",
        two="defaults: one.yaml\na: {x: 2}\nb: [3]\nc: ???\n",
    )
    found = upstream.load(path)
    assert upstream.resolved(found.config) == {"a": {"x": 3, "y": 6, "z": 1e-6}, "b": [3], "c": "???"}
    assert found.files[path] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in found.files] == ["child.yaml", "one.yaml", "two.yaml"]


def test_an_override_section_replaces_the_parents(tmp_path: Path) -> None:
    path = write(
        tmp_path, child="defaults: p.yaml\na: {_override_: true, y: 1}\nb: {y: 1}\n", p="a: {x: 1}\nb: {x: 1}\n"
    )
    assert OmegaConf.to_container(upstream.load(path).config) == {"a": {"y": 1}, "b": {"x": 1, "y": 1}}


def test_where_a_parents_own_parents_lie(tmp_path: Path) -> None:
    """Beside the parent, or, before v0.6.0, beside the first file."""
    (tmp_path / "below").mkdir()
    path = write(tmp_path, child="defaults: below/p.yaml\n", q="a: first\n")
    write(tmp_path / "below", p="defaults: q.yaml\n", q="a: beside\n")
    assert upstream.load(path).config.a == "beside"
    assert upstream.load(path, old_paths=True).config.a == "first"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: none.yaml\n", r"no recipe .*none\.yaml \(named by the defaults of .*child\.yaml\)"),
        ("defaults: child.yaml\n", r"go round in a circle: child\.yaml -> child\.yaml"),
        ("a: [1\n", "is not YAML"),
        ("a: 1\na: 2\n", "key a twice"),
        ("- 1\n", "holds a list"),
        ("", "holds nothing"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_answered(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        upstream.load(write(tmp_path, child=text))


def test_a_circle_over_several_files_names_them_all(tmp_path: Path) -> None:
    path = write(tmp_path, a="defaults: b.yaml\n", b="defaults: c.yaml\n", c="defaults: b.yaml\n")
    with pytest.raises(UserError, match=r"b\.yaml -> c\.yaml -> b\.yaml"):
        upstream.load(path)


def test_a_missing_file_names_the_way_to_type_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        upstream.load(tmp_path / "typo.yaml")
    assert caught.value.fix == "recipe=/path/to/a/recipe.yaml"


def test_the_small_checkouts_recipes_load(tmp_path: Path) -> None:
    resolvers.register()
    folder = checkout_case.make(tmp_path) / "examples/configs/recipes/llm"
    found = upstream.resolved(upstream.load(folder / "grpo-nano-v2-12b-2n8g-fsdp2tp1.yaml").config)
    assert found["checkpointing"] == {"enabled": False}
    assert found["env"]["math"]["workers"] == 4.0
