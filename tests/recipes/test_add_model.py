"""`nano-exp model add`: a config.json becomes a file of conf/model that launches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nano_exp import cli, files
from nano_exp.compose import compose, conf_tree
from nano_exp.errors import UserError
from nano_exp.layout import architecture
from nano_exp.recipes import add_model

QWEN = {
    **{"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 3584, "intermediate_size": 18944},
    **{"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    there = Path(shutil.copytree(conf_tree.CONF_DIR, tmp_path / "conf"))
    monkeypatch.setattr(conf_tree, "CONF_DIR", there)
    return there


def nano(name: str) -> dict[str, Any]:
    """A published model's config.json, as far as conf/model has it."""
    return dict(files.read_yaml(conf_tree.CONF_DIR / "model" / f"{name}.yaml")["model"])


def config_json(folder: Path, values: dict[str, Any], **more: Any) -> Path:
    folder.mkdir(parents=True)
    ours = ("name", "hf_id", "tool_parser", "total_parameters", "gpu_memory_gb")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in ours} | more))
    return folder


@pytest.mark.parametrize(
    ("values", "source"),
    [("nano_9b", "nano_9b"), ("nano_12b", "nano_12b"), ("nano_30b", "nano_30b"), (QWEN, "nano_9b")],
)
def test_a_model_is_one_file_that_composes_and_keeps_its_architecture(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], values: Any, source: str
) -> None:
    folder = config_json(tmp_path / "My-Model", nano(values) if isinstance(values, str) else values)
    (folder / "model.safetensors").touch()
    before = {path for path in conf.rglob("*") if path.is_file()}
    assert cli.main(["model", "add", str(folder)]) == 0
    new = {path for path in conf.rglob("*") if path.is_file()} - before
    assert new == {conf / "model" / "my_model.yaml"}
    assert "next: nano-exp check model=my_model cluster=1n8g" in capsys.readouterr().out
    facts = yaml.safe_load((conf / "model" / "my_model.yaml").read_text())["model"]
    assert facts["recipes_of"] == source
    given = json.loads((folder / "config.json").read_text())
    assert architecture.from_facts(facts) == architecture.parse(given, "my_model", "config.json")
    with conf_tree.loader(conf) as config_loader:
        cfg = compose.compose(config_loader, ["model=my_model", "cluster=4n8g"])
    assert cfg.policy.model_name == cfg.policy.tokenizer.name == str(folder)


@pytest.mark.parametrize(
    ("folder", "more", "weights"),
    [
        ("models--me--Nano/snapshots/abc", {}, "me/Nano"),
        ("folder", {"_name_or_path": "me/other"}, "me/other"),
    ],
)
def test_the_weights_are_what_the_path_or_the_config_says(
    conf: Path, tmp_path: Path, folder: str, more: dict[str, str], weights: str
) -> None:
    added = add_model.read(config_json(tmp_path / folder, nano("nano_9b"), **more), conf)
    assert yaml.safe_load(added.text)["model"]["hf_id"] == weights


@pytest.mark.parametrize(
    ("options", "found", "fix"),
    [
        ({}, "does not say which weights", "--weights owner/name"),
        ({"name": "nano_9b"}, "is there already", "--name nano_9b_2"),
        ({"name": "9b"}, "a model called '9b'", "--name my_model"),
        ({"like": "nano_9"}, "--like nano_9", "--like nano_9b"),
    ],
)
def test_what_cannot_be_added_is_answered_in_words(
    conf: Path, tmp_path: Path, options: dict[str, str], found: str, fix: str
) -> None:
    with pytest.raises(UserError) as caught:
        add_model.read(config_json(tmp_path / "plain", nano("nano_9b")), conf, **options)
    assert found in caught.value.found
    assert fix in caught.value.fix
