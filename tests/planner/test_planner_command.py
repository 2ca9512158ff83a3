"""`nano-exp plan` as it is typed: mistakes are answered in three parts, and --json is JSON and nothing else."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nano_exp import cli
from nano_exp.compose import compose, conf_tree

TWELVE = ["model=nano_12b", "cluster=1n8g"]


@pytest.mark.parametrize(
    ("words", "found", "fix"),
    [
        (["model=nano_12c", "cluster=1n8g"], "model=nano_12c", "model=nano_12b"),
        (["model=nano_12b", "cluster=9n8g"], "cluster=9n8g", "cluster="),
        (["model=nano_12b"], "has no recipe", "cluster=1n8g"),
        ([*TWELVE, "--gpu", "h100-81"], "GPU 'h100-81'", "--gpu h100-80"),
        ([*TWELVE, "cluster.gpus_per_node=0"], "cluster.gpus_per_node=0", "cluster=1n8g"),
        ([*TWELVE, "--max-length", "-5"], "--max-length -5", "--max-length"),
        ([*TWELVE, "--mean-length", "600"], "a mean length of 600 tokens", "--max-length"),
        ([*TWELVE, "--top", "0"], "--top 0", "--top 6"),
        ([*TWELVE, "--config", "nothing.json"], "cannot read nothing.json", "config.json"),
        ([*TWELVE, "--plot", "plan.gif"], "--plot plan.gif", "--plot plan.png"),
        (["--calibrate", "nothing"], "nothing is not a folder", "--calibrate"),
        (["model=nano_tiny"], "engine.name=embedded", "nano-exp plan model=nano_12b cluster=2n8g"),
    ],
)
def test_a_mistake_is_answered_in_three_parts_and_leaves_nothing(
    words: list[str],
    found: str,
    fix: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", *words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    first, why, last = error.strip().splitlines()
    assert first.startswith("error: ")
    assert found in first
    assert why.startswith("  why: ")
    assert last.startswith("  fix: ")
    assert fix in last
    assert list(tmp_path.iterdir()) == []


def test_json_is_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TWELVE, "--json", "--gpu", "b200"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["gpu"]["name"] == "b200-192"
    assert [one for one in data["layouts"] if one["published"]]


LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128256,
}


@pytest.mark.parametrize(
    ("weights", "typed", "trains"),
    [
        (True, [], "the folder"),
        (False, [], "FOLDER_OR_NAME_OF_THIS_MODEL"),
        (True, ["policy.model_name=org/other"], "org/other"),
    ],
)
def test_the_command_of_another_models_plan_trains_that_model(
    weights: bool, typed: list[str], trains: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    if weights:
        (folder / "model-00001-of-00002.safetensors").touch()
    words = ["cluster=1n8g", *typed, "--config", str(folder / "config.json"), "--gpu", "h100-80"]
    assert cli.main(["plan", *words]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to take one of them: ")]
    command = shlex.split(line.partition("launch.py ")[2])[:-1]
    with conf_tree.loader() as loader:
        config = compose.compose(loader, command)
    assert config.policy.model_name == (str(folder) if trains == "the folder" else trains)
    assert cli.main(["plan", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == command
