"""Freezing: everything resolved or named, paths absolute, what derives from the run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from core_case import frozen, standin
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_exp import dotted
from nano_exp.compose import freeze
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.store import identity, run_config


def refusal(folder: Path, *overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        frozen(folder, *overrides)
    assert caught.value.code == 2
    return caught.value


# --- resolving ------------------------------------------------------------------------------------------------------


def test_everything_is_plain_and_resolved(tmp_path: Path) -> None:
    config = frozen(tmp_path, *standin()).config
    kinds = set(map(type, dotted.leaves(config).values()))
    assert kinds <= {str, int, float, bool, type(None), list, dict}
    assert "${" not in repr(config)
    assert "???" not in repr(config)


def test_each_missing_value_is_named_with_what_to_type(tmp_path: Path) -> None:
    error = refusal(tmp_path, "grpo.seed=???", "++policy.generation.temperature=???")
    assert "grpo.seed" in error.found
    assert "policy.generation.temperature" in error.found
    assert error.fix == "grpo.seed=... policy.generation.temperature=..."


BROKEN = {
    "a key that is not there": ("grpo.seed=${nope.key}", "grpo.seed is ${nope.key}", "no key 'nope.key'"),
    "the nearest is named": ("grpo.seed=${grpo.max_num_step}", "grpo.seed is", "no key 'grpo.max_num_step'"),
    "in a list": ("++data.names=[a,${nope.key}]", "data.names[1]", "no key 'nope.key'"),
    "an unknown function": ("grpo.seed=${nope:1}", "grpo.seed is ${nope:1}", "nope"),
    "no such variable": ("grpo.seed=${oc.env:NANO_EXP_NOT_SET}", "grpo.seed is", "NANO_EXP_NOT_SET"),
    "arithmetic on words": ("grpo.seed=${mul:a,b}", "grpo.seed is", "mul"),
    "a circle": ("grpo.seed=${grpo.seed}", "grpo.seed", ""),
}


@pytest.mark.parametrize(("override", "found", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_interpolation_is_named_with_the_key_that_has_it(
    tmp_path: Path, override: str, found: str, why: str
) -> None:
    error = refusal(tmp_path, override)
    assert found in error.found
    assert why in error.why or why in error.found
    assert error.fix


def test_a_word_where_a_number_is_computed_is_named_as_it_was_typed(tmp_path: Path) -> None:
    said = refusal(tmp_path, "model=nano_12b", "cluster=1n8g", "optimizer.lr=abc")
    assert (said.found, said.fix) == ("optimizer.lr=abc", "leave optimizer.lr=... out, or give a number")


def test_a_word_in_nemo_rls_own_keys_is_named_as_it_was_typed(tmp_path: Path) -> None:
    said = refusal(tmp_path, "model=nano_9b", "cluster=1n8g", "grpo.num_generations_per_prompt=eight")
    assert said.found == "grpo.num_generations_per_prompt=eight"
    assert "policy.train_global_batch_size is ${mul:" in said.why
    assert said.fix == "leave grpo.num_generations_per_prompt=... out, or give a number"


def test_a_zero_that_is_divided_by_is_named_as_it_was_typed(tmp_path: Path) -> None:
    """conf derives min_lr from lr, and a schedule's start from the two."""
    error = refusal(tmp_path, "model=nano_12b", "cluster=2n8g", "optimizer.lr=0")
    assert (error.found, error.fix) == ("optimizer.lr=0", "optimizer.lr=<a number above 0>")


def test_the_key_nearest_to_a_broken_one_is_offered(tmp_path: Path) -> None:
    assert "grpo.max_num_steps" in refusal(tmp_path, "grpo.seed=${grpo.max_num_step}").fix


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".hidden", "-x", "..", "a b", "a,b", "a%j", "a|b", "a:b", "a#b", "a;b", "$(x)", "x" * 101]
)
def test_a_name_that_no_folder_or_job_should_have(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path, f"run.name='{name}'")
    assert error.found.startswith("run.name=")


@pytest.mark.parametrize("name", ["nano_9b", "lr-1e-6", "v1.2+x", "größe", "2026", "x" * 100])
def test_a_name_that_may_be(tmp_path: Path, name: str) -> None:
    assert frozen(tmp_path, f"run.name='{name}'").name == name


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\nb", 'a"b', "a'b", "a\tb"])
def test_a_name_with_what_hydra_would_need_escaped(name: str) -> None:
    with pytest.raises(UserError):
        freeze._name({"run": {"name": name}})


# --- paths ----------------------------------------------------------------------------------------------------------


def test_paths_are_absolute_against_the_launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = frozen(
        tmp_path,
        "model=nano_9b",
        "cluster=1n8g",
        "run.results=out",
        "site.checkout=../RL",
        "site.hf_home='~/hf'",
        "site.python=venv/bin/python",
        "++logger.log_dir=logs",
        "++checkpointing.checkpoint_dir=/ck//x/../y",
        "policy.model_name=./weights",
    ).config
    assert config["run"]["results"] == str(tmp_path / "out")
    assert config["site"]["checkout"] == str(tmp_path.parent / "RL")
    assert config["site"]["hf_home"] == "/home/somebody/hf"
    assert config["site"]["python"] == str(tmp_path / "venv/bin/python")
    assert config["logger"]["log_dir"] == str(tmp_path / "logs")
    assert config["checkpointing"]["checkpoint_dir"] == "/ck/y"
    assert config["policy"]["model_name"] == str(tmp_path / "weights")
    # NeMo RL looks these up in its own checkout; making them absolute would point elsewhere.
    assert config["data"]["train"]["data_path"].startswith("3rdparty/")


def test_a_hub_name_stays_and_a_bare_program_is_left_to_the_node(tmp_path: Path) -> None:
    config = frozen(tmp_path, "model=nano_9b", "cluster=1n8g", "site.python=python3").config
    assert config["policy"]["model_name"] == "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
    assert config["site"]["python"] == "python3"


def test_a_model_name_that_is_a_local_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    config = frozen(tmp_path, "model=nano_9b", "cluster=1n8g", "policy.model_name=models/mine").config
    assert config["policy"]["model_name"] == str(tmp_path / "models" / "mine")


def test_results_come_from_the_environment_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANO_EXP_RESULTS", "/elsewhere")
    assert frozen(tmp_path).config["run"]["results"] == "/elsewhere"
    monkeypatch.delenv("NANO_EXP_RESULTS")
    assert frozen(tmp_path).config["run"]["results"] == str(tmp_path / "results")


# --- what derives from the run --------------------------------------------------------------------------------------


def placed(made: Frozen, run_id: str = "r0123456789") -> dict[str, Any]:
    return freeze.place(made, run_id)


def test_by_default_all_is_in_the_runs_own_folder(tmp_path: Path) -> None:
    config = placed(frozen(tmp_path))
    run_dir = tmp_path / "results" / "nano_tiny" / "r0123456789"
    assert config["run"]["dir"] == str(run_dir)
    assert config["checkpointing"]["checkpoint_dir"] == str(run_dir / "checkpoints")
    assert config["logger"]["log_dir"] == str(run_dir / "logs")


def test_a_folder_that_the_user_set_is_the_parent(tmp_path: Path) -> None:
    config = placed(frozen(tmp_path, "checkpointing.checkpoint_dir=/ck", "logger.log_dir=/log"))
    assert config["checkpointing"]["checkpoint_dir"] == "/ck/nano_tiny/r0123456789"
    assert config["logger"]["log_dir"] == "/log/nano_tiny/r0123456789"


def test_wandb_identity_comes_from_the_run(tmp_path: Path) -> None:
    wandb = placed(frozen(tmp_path, "run.name=sweep", "grpo.seed=7", "run.tags=[a,b]"))["logger"]["wandb"]
    assert wandb["project"] == "nano-exp"
    assert wandb["group"] == "sweep"
    assert wandb["id"] == "sweep-r0123456789"
    assert wandb["resume"] == "allow"
    assert wandb["tags"] == ["a", "b"]
    assert "seed=7" in wandb["name"]
    assert wandb["name"].endswith("r0123456789")


def test_wandb_settings_of_the_users_own_are_kept_and_made_distinct(tmp_path: Path) -> None:
    own = (
        "logger.wandb.project=mine",
        "+logger.wandb.name=try",
        "+logger.wandb.group=g",
        "+logger.wandb.entity=team",
        "+logger.wandb.tags=[x]",
        "run.tags=[x,y]",
    )
    wandb = placed(frozen(tmp_path, *own))["logger"]["wandb"]
    assert (wandb["project"], wandb["group"], wandb["entity"]) == ("mine", "g", "team")
    assert wandb["name"] == "try-r0123456789"
    assert wandb["tags"] == ["x", "y"]


def test_placing_leaves_the_frozen_config_alone(tmp_path: Path) -> None:
    made = frozen(tmp_path)
    before = copy.deepcopy(made.config)
    placed(made)
    assert made.config == before


parents = st.sampled_from([None, "/ck", "/ck/deep", "/log"])
ids = st.sampled_from(["r0123456789", "r0123456789-2", "rffffffffff"])
names = st.sampled_from(["a", "b"])
points = st.tuples(names, ids, parents, parents)


@given(st.lists(points, min_size=2, max_size=6, unique_by=lambda p: (p[0], p[1])))
@settings(max_examples=200, deadline=None)
def test_no_two_runs_ever_share_a_folder(chosen: list[tuple[str, str, str | None, str | None]]) -> None:
    folders: dict[str, list[str]] = {"checkpoint_dir": [], "log_dir": [], "run": []}
    for name, run_id, checkpoints, logs in chosen:
        config = {
            "run": {"results": "/results"},
            "checkpointing": {"checkpoint_dir": checkpoints},
            "logger": {"log_dir": logs},
        }
        config = freeze.place(Frozen(name, "d" * 64, (), config), run_id)
        folders["run"].append(config["run"]["dir"])
        folders["checkpoint_dir"].append(config["checkpointing"]["checkpoint_dir"])
        folders["log_dir"].append(config["logger"]["log_dir"])
    for kind, paths in folders.items():
        assert len(set(paths)) == len(chosen), (kind, paths)


# --- what an engine reads, and overrides as wishes ------------------------------------------------------------------


def test_nemo_rl_reads_its_own_sections_and_nothing_else(tmp_path: Path) -> None:
    own = run_config.engine_config(placed(frozen(tmp_path, *standin())))
    assert set(own).isdisjoint(run_config.LAUNCHER_KEYS)
    assert {"grpo", "policy", "loss_fn", "data", "env", "logger", "checkpointing", "cluster"} <= set(own)


def test_the_embedded_engine_reads_its_section_too(tmp_path: Path) -> None:
    own = run_config.engine_config(placed(frozen(tmp_path)))
    assert set(own) & set(run_config.LAUNCHER_KEYS) == {"engine"}


def test_the_switches_of_a_launch_are_not_remembered(tmp_path: Path) -> None:
    made = frozen(tmp_path, "grpo.seed=3", "dry_run=true", "++wait=true", "fresh=false")
    assert made.overrides == ("grpo.seed=3",)


SAME_WISH = [
    (["optimizer.lr=1e-6", "grpo.seed=3"], ["grpo.seed=3", "optimizer.lr=0.000001"]),
    (["++grpo.seed=3"], ["grpo.seed=3.0"]),
    (["grpo.seed=3", "site.partition=a", "run.name=b", "hydra.launcher.timeout_min=3"], ["grpo.seed=3"]),
]


@pytest.mark.parametrize(("one", "other"), SAME_WISH)
def test_one_wish_typed_in_two_ways(one: list[str], other: list[str]) -> None:
    assert freeze.overrides_key(one) == freeze.overrides_key(other)


@pytest.mark.parametrize(
    "other",
    [["grpo.seed=4"], ["grpo.seed=3", "model=nano_9b"], ["~grpo.seed"], ["grpo.seed=3", "optimizer.lr=1e-6"], []],
)
def test_another_wish(other: list[str]) -> None:
    assert freeze.overrides_key(["grpo.seed=3"]) != freeze.overrides_key(other)


def test_a_dotted_key_is_set_through_levels_that_are_not_there() -> None:
    config: dict[str, Any] = {"a": {"b": 1}, "c": None}
    dotted.set_dotted(config, "a.d", 2)
    dotted.set_dotted(config, "c.e.f", 3)
    assert config == {"a": {"b": 1, "d": 2}, "c": {"e": {"f": 3}}}


@pytest.mark.parametrize(("typed", "found"), [("~site", "no site in the config"), ("++run=3", "run=3")])
def test_a_config_without_a_section_is_refused(tmp_path: Path, typed: str, found: str) -> None:
    assert refusal(tmp_path, typed).found == found


# --- sharing --------------------------------------------------------------------------------------------------------


def test_other_values_are_in_the_copy_alone() -> None:
    config = {"a": {"b": {"x": 1}, "list": [{"y": 2}, 3]}, "c": {"z": 4}}
    before = copy.deepcopy(config)
    made = dotted.with_values(config, {("a", "b", "x"): 9, ("a", "list", 0, "y"): 8, ("a", "new"): 7})
    assert config == before
    assert made == {"a": {"b": {"x": 9}, "list": [{"y": 8}, 3], "new": 7}, "c": {"z": 4}}
    assert made["c"] is config["c"]


def test_a_run_that_is_sent_again_gets_the_new_launchs_place_and_nothing_else(tmp_path: Path) -> None:
    row = ("model=nano_12b", "cluster=1n8g")
    parser = "policy.generation.vllm_cfg.tool_parser_plugin"
    first = frozen(tmp_path, *row, "++checkpointing.checkpoint_must_save_by=00:01:00:00")
    again = frozen(tmp_path, *row, "engine.ports.gcs=9910", f"++{parser}=/p.py", "logger.wandb.name=other")
    assert first.digest == again.digest
    entry = {key: again.config[key] for key in ("site", "slurm")} | {"placement": run_config.placement(again.config)}
    sent = run_config.sent_with(first.config, entry)
    assert sent["engine"]["ports"]["gcs"] == 9910
    assert sent["policy"]["generation"]["vllm_cfg"]["tool_parser_plugin"] == "/p.py"
    assert sent["checkpointing"].get("checkpoint_must_save_by") is None
    assert sent["logger"] == first.config["logger"]
    assert first.config["engine"]["ports"]["gcs"] != 9910, "the stored one is untouched"
    assert identity.digest(sent) == first.digest
