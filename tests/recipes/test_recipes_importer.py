from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkout_case
import pytest
import yaml

from nano_exp import cli
from nano_exp.compose import compose, conf_tree
from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions
from nano_exp.recipes import compare, importer, key_lists, typed_dicts

MEGATRON = "grpo-nano-v2-12b-1n8g-megatron"


def read(text: str) -> Any:
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout_case.make(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def imported(checkout: Path) -> importer.Imported:
    return importer.read(checkout)


def text(imported: importer.Imported, below: str) -> str:
    return imported.texts[Path("nemo_rl") / below]


def test_what_a_checkout_gives(imported: importer.Imported) -> None:
    assert (imported.option, imported.version) == ("v0_8", "v0.8.0")
    assert sorted(str(path.relative_to("nemo_rl")) for path in imported.texts) == [
        "data/v0_8/math.yaml",
        "v0_8.yaml",
        "v0_8/base/grpo_math_1B.yaml",
        "v0_8/keys.json",
        "v0_8/nano_12b_1n8g.yaml",
        "v0_8/nano_12b_2n8g.yaml",
    ]
    assert read(text(imported, "v0_8.yaml"))["scripts"]["grpo"] == "examples/run_grpo.py"


def test_a_recipe_is_what_it_changes_in_its_base(imported: importer.Imported) -> None:
    found = read(text(imported, "v0_8/nano_12b_1n8g.yaml"))
    assert found == {
        "defaults": ["/nemo_rl/v0_8/base/grpo_math_1B@_global_", "_self_"],
        "nemo_rl": {"recipe": f"examples/configs/recipes/llm/{MEGATRON}.yaml"},
        "policy": {"model_name": "${model.hf_id}", "megatron_cfg": {"enabled": True, "size": 8}},
    }


def test_a_recipe_that_takes_keys_away_stands_alone(imported: importer.Imported) -> None:
    found = read(text(imported, "v0_8/nano_12b_2n8g.yaml"))
    assert "defaults" not in found
    assert found["checkpointing"] == {"enabled": False}


def test_an_interpolation_of_ours_stands_where_it_gives_the_recipes_value(imported: importer.Imported) -> None:
    base = read(text(imported, "v0_8/base/grpo_math_1B.yaml"))
    product = "${mul:${grpo.num_prompts_per_step}, ${grpo.num_generations_per_prompt}}"
    assert base["policy"]["train_global_batch_size"] == product
    assert base["policy"]["model_name"] == "a/model"  # none of the models
    assert base["policy"]["megatron_cfg"]["optimizer"]["lr"] == "${optimizer.lr}"
    assert (
        base["checkpointing"]["checkpoint_dir"] is base["logger"]["log_dir"] is base["logger"]["wandb"]["name"] is None
    )
    assert "data" not in base and "env" not in base and "cluster" in base and not base["cluster"]
    other = read(text(imported, "v0_8/nano_12b_2n8g.yaml"))
    assert other["policy"]["train_global_batch_size"] == 16  # twice the rollout: not ours to derive
    assert other["policy"]["megatron_cfg"]["scheduler"]["lr_warmup_init"] == 0.0


def test_a_recipe_with_another_learning_rate_sets_the_knob(imported: importer.Imported) -> None:
    found = read(text(imported, "v0_8/nano_12b_2n8g.yaml"))
    assert found["optimizer"] == {"lr": 1e-6}  # min_lr stays a tenth of it
    assert found["policy"]["megatron_cfg"]["optimizer"]["lr"] == "${optimizer.lr}"


def test_what_composes_equals_upstream_and_moves_by_the_knobs(imported: importer.Imported) -> None:
    with importer.tree(imported) as conf:
        assert importer.not_upstreams(imported, importer.composed(conf, "v0_8")) == []
        with conf_tree.loader(conf) as loader:
            point = ["model=nano_12b", "cluster=2n8g", "nemo_rl=v0_8", "optimizer.lr=3e-6"]
            cfg = compose.compose(loader, point)
    assert cfg.policy.megatron_cfg.optimizer.lr == 3e-6
    assert cfg.policy.megatron_cfg.optimizer.min_lr == 3e-7


def test_a_recipe_that_would_not_compose_to_upstreams_values_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own data, which the data group would overwrite."""
    odd = "defaults: ../../grpo_math_1B.yaml\ndata: {train: {name: other}}\npolicy: {model_name: x/y}\n"
    checkout = checkout_case.make(tmp_path, grpo_nano_v2_12b_1n8g_megatron=odd)
    assert cli.main(["recipes", "import", str(checkout), "--write"]) == 2
    said = capsys.readouterr().err
    assert "nano_12b_1n8g: data.train.name: upstream 'other', composed 'maths'" in said and "fix: " in said
    assert not (conf_tree.CONF_DIR / "nemo_rl" / "v0_8").exists()


def test_import_shows_what_changed_and_writes_when_asked(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    conf = tmp_path / "conf"
    shutil.copytree(conf_tree.CONF_DIR, conf)
    monkeypatch.setattr(conf_tree, "CONF_DIR", conf)
    assert cli.main(["recipes", "import", str(checkout)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("v0_7 -> v0_8\n") and "no longer has recipes for: nano_9b_1n8g" in said
    assert "policy.megatron_cfg.size: (absent) -> 8  [nano_12b_1n8g]" in said
    assert "2 recipes equal upstream's of v0.8.0; --write would write 6 files" in said
    assert not (conf / "nemo_rl" / "v0_8.yaml").exists()
    stale = conf / "nemo_rl" / "v0_8" / "nano_30b_1n8g.yaml"
    stale.parent.mkdir()
    stale.write_text("# Written by `nano-exp recipes import`, not by hand.\n")
    (stale.parent / "mine.yaml").write_text("# a hand-written one\n")
    assert cli.main(["recipes", "import", str(checkout), "--write", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "v0_8"
    assert versions.known("v0.8.0", conf / "nemo_rl") is not None
    assert not stale.exists() and (stale.parent / "mine.yaml").exists()


def test_a_branch_does_not_take_the_place_of_the_release_that_it_calls_itself(tmp_path: Path) -> None:
    checkout = checkout_case.make(tmp_path, version="0.7")
    (checkout / ".git").mkdir()
    (checkout / ".git" / "HEAD").write_text("a" * 40)
    with pytest.raises(UserError, match=r"at aaaaaaaaaaaa and calls itself v0\.7\.0") as caught:
        importer.refuse_another_commit(importer.read(checkout), conf_tree.CONF_DIR)
    assert "--as main" in caught.value.fix
    (checkout / ".git" / "HEAD").unlink()
    with pytest.raises(UserError, match=r"has no \.git that says its commit") as caught:
        importer.refuse_another_commit(importer.read(checkout), conf_tree.CONF_DIR)
    assert caught.value.fix.endswith("--as main (any name)")
    (checkout / ".git" / "HEAD").write_text("a" * 40)
    checkout_case.make(tmp_path, version="0.7", package_info="MAJOR = 0\nMINOR = 7\nPATCH = 1\n")
    importer.refuse_another_commit(importer.read(checkout), conf_tree.CONF_DIR)  # a patch release takes its place
    checkout_case.make(tmp_path, version="0.7")
    branch = importer.read(checkout, "main")
    importer.refuse_another_commit(branch, conf_tree.CONF_DIR)
    assert (branch.option, branch.version) == ("main", "v0.7.0+aaaaaaaaaaaa")


@pytest.mark.parametrize("name", ["v0_9", "data", "a/b", "Main"])
def test_a_name_that_cannot_be_an_option_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--as"):
        importer.read(tmp_path, name)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "import", str(tmp_path / "none")]) == 2
    assert cli.main(["recipes", "import", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "is not a folder" in said and "does not say its version" in said


@pytest.mark.parametrize(
    ("carried", "read"),
    [
        ("policy.size", True),  # its word stands in the source
        ("policy.left_over", False),
        ("policy.left_over.size", False),  # below what is not read
        ("policy.megatron_cfg.scheduler.theirs", True),  # handed on whole
        ("env.mine.theirs", True),  # free by its type
        ("data.train.theirs", False),
        ("data.size", False),  # a word of the source, in a section whose types name all that is read
        ("grpo.only_evaluated", False),  # a word of an evaluation's source alone
    ],
)
def test_a_key_that_recipes_carry_and_grpo_does_not_read_is_told(carried: str, read: bool, tmp_path: Path) -> None:
    checkout = checkout_case.make(tmp_path)
    (checkout / "nemo_rl/evals").mkdir()
    (checkout / "nemo_rl/evals/eval.py").write_text("config['only_evaluated']")
    typed = typed_dicts.read(checkout)
    assert (carried not in key_lists.unread(checkout, typed, [carried])) == read


# --- two versions side by side ---


def test_diff_of_two_shipped_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "diff", "v0_5", "v0_6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipes"]["added"][0] == "nano_30b_1n8g"
    assert (found["recipes"]["removed"], found["recipes"]["compared"]) == ([], 6)
    values = {entry["key"]: entry for entry in found["values"]}
    moved = values["data.train.data_path"]
    assert moved["from"] == {"present": False} and moved["recipes"] == ["nano_9b_1n8g", "nano_9b_2n8g"]
    assert values["policy.generation.vllm_kwargs.mamba_ssm_cache_dtype"]["to"]["value"] == "float32"
    assert "data.train_jsonl_fpath" in found["keys"]["removed"]
    assert "policy.draft.enabled" in found["keys"]["added"]


def test_the_text_of_a_diff_groups_keys_below_a_new_section() -> None:
    known = versions.from_data({"version": "v1", "commit": None, "keys": {}, "recipe_keys": ["a"]})
    more = versions.from_data({"version": "v2", "commit": None, "keys": {}, "recipe_keys": ["a", "b", "b.c", "b.c.d"]})
    old = compare.Side("v1_0", {"m_1n8g": {"a": 1}, "m_2n8g": {"a": 1}}, known)
    new = compare.Side("v2_0", {"m_1n8g": {"a": 2}, "m_2n8g": {"a": 2, "b": None}}, more)
    said = compare.as_text(compare.compare(old, new)).splitlines()
    assert "  a: 1 -> 2  [all]" in said and "  b: (absent) -> null  [m_2n8g]" in said
    assert "  b  (with 2 below it)" in said


def test_a_version_that_is_not_there_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "diff", "v0_7", "v0-7"]) == 2
    assert f"no version v0-7 in {conf_tree.CONF_DIR}/nemo_rl (nearest: v0_7)" in capsys.readouterr().err
