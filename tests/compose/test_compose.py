"""Composing, and what a user reads when it fails: the real command, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from core_case import config_loader, everything_below, launch, point, spread

from nano_exp.advice import mistakes
from nano_exp.compose import compose, conf_tree, nearest
from nano_exp.errors import UserError

NINE = ("model=nano_9b", "cluster=1n8g")
CANARY = "canary-5f1d0c"

#: id -> (arguments, what the message's three parts must have in them)
MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, str, str]]] = {
    "model": (("model=nano_9",), ("model=nano_9\n", "nano_12b, nano_30b, nano_9b, nano_tiny", "model=nano_9b")),
    "model beside a comma": (
        ("model=nano_9", "optimizer.lr=1e-6,2e-6"),
        ("model=nano_9\n", "nano_9b", "model=nano_9b"),
    ),
    "model beside a comma, -m": (
        ("-m", "model=nano_9", "grpo.seed=1,2"),
        ("model=nano_9\n", "nano_9b", "model=nano_9b"),
    ),
    "key": (
        ("grpo.num_generation_per_prompt=4",),
        ("grpo.num_generation_per_prompt=4", "no such key", "fix: grpo.num_generations_per_prompt=4"),
    ),
    "key with a comma, -m": (
        ("-m", "grpo.num_generation_per_prompt=4,8"),
        ("grpo.num_generation_per_prompt=4", "no such key", "fix: grpo.num_generations_per_prompt=4"),
    ),
    "launcher's key": (
        ("hydra.launcher.timeout_mn=3",),
        ("hydra.launcher.timeout_mn=3", "no such key", "fix: hydra.launcher.timeout_min=3"),
    ),
    "a group without a choice": (("cluster=null",), ("cluster=null\n", "1n8g", "cluster=...")),
    "a group taken away": (("~model",), ("~model\n", "nano_9b", "leave it out for the default")),
    "the site taken away": (("~site",), ("~site\n", "default", "site=...")),
    "two sweeps": (("sweeps=lr", "sweeps=seeds"), ("sweeps=lr sweeps=seeds\n", "one sweep", "sweeps=lr, and")),
    "no results": (("run.results=null",), ("run.results=null\n", "a folder", "run.results=results")),
    "no section": (("logger=null",), ("logger=null\n", "a section", "leave logger=... out")),
    "no count": (
        ("slurm.cpus_per_node=abc",),
        ("slurm.cpus_per_node=abc\n", "whole number", "leave slurm.cpus_per_node=... out"),
    ),
    "no switch": (("slurm.requeue=3",), ("slurm.requeue=3\n", "true or false", "leave slurm.requeue=... out")),
    "no variables": (
        ("site.env=foo",),
        ("site.env=foo\n", "its keys are set one by one", "+site.env.<name>=<its value>"),
    ),
    "no launcher": (("hydra.launcher=",), ("hydra.launcher", "", "")),
    "a key of NeMo RL's that the recipe lacks": (
        (*NINE, "policy.dtensor_cfg.lora_cfg.dim=32"),
        ("policy.dtensor_cfg.lora_cfg.dim=32\n", "has to be added", "++policy.dtensor_cfg.lora_cfg.dim=32"),
    ),
    "no =": (("grpo.max_num_steps",), ("'grpo.max_num_steps' has no =", "key=value", "grpo.max_num_steps=<its value>")),
    "= in a value": (("run.name=a=b",), ("run.name=a=b", "need quotes", "'run.name=\"a=b\"'")),
    "parallelism": (
        (*NINE, "parallelism=megatron_tp9"),
        ("parallelism=megatron_tp9", "it has: auto, fsdp2,", "fix: one of these: parallelism=auto, parallelism=fsdp2"),
    ),
    "the model forgotten": (
        ("cluster=2n8g",),
        ("cluster=2n8g and no model=", "the tiny model", "model=nano_9b cluster=2n8g"),
    ),
    "no recipe": (
        ("model=nano_9b",),
        ("cluster=local has no recipe", "needs a Slurm cluster", "cluster=1n8g or model"),
    ),
    "-m with --cfg": (
        ("-m", "--cfg", "job", "model=nano_9b,nano_12b"),
        ("--cfg with -m", "one composed config", "leave -m"),
    ),
    "comma with --cfg": (("--cfg", "job", "grpo.seed=1,2"), ("grpo.seed=1,2", "a comma makes a sweep", "-m")),
    "comma without -m": (
        ("grpo.seed=1,2", "optimizer.lr=1e-3,2e-3"),
        ("asks for 4 runs", "confirmed with -m", "launch.py -m"),
    ),
    "Hydra's own settings swept": (
        ("-m", "hydra.launcher.partition=a,b"),
        ("hydra.launcher.partition=a,b", "cannot be swept", "one launch"),
    ),
    "another mode": (("hydra.mode=RUN",), ("hydra.mode=RUN", "through nano-exp's launcher", "leave hydra.mode")),
    "another launcher": (
        ("hydra/launcher=basic",),
        ("hydra/launcher", "through nano-exp's launcher", "leave hydra.mode"),
    ),
    "a secret": ((f"++logger.wandb.api_key={CANARY}",), ("logger.wandb.api_key", "frozen into files", "export")),
    "a secret beside a comma": ((f"++a.api_key={CANARY},{CANARY}2",), ("a.api_key", "frozen into files", "export")),
    "a secret in the batch script": (
        ("+hydra.launcher.setup=[\"export HF_TOKEN='" + CANARY + "'\"]",),
        ("hydra.launcher.setup", "frozen into files", "export"),
    ),
}


@pytest.mark.parametrize("mistake", spread(MISTAKES, 10))
def test_a_mistake_is_answered_in_three_parts_and_leaves_nothing(tmp_path: Path, mistake: str) -> None:
    arguments, parts = MISTAKES[mistake]
    done = launch(tmp_path, *arguments)
    said = re.fullmatch(r"error: (.+\n)  why: (.+\n)  fix: (.+\n)", done.stderr)
    assert said, f"not three parts:\n{done.stderr}"
    for number, part in enumerate(parts):
        assert part in said[number + 1] or part in f"fix: {said[3]}", done.stderr
    assert done.returncode == 2
    assert CANARY not in done.stdout + done.stderr
    assert everything_below(tmp_path) == []


# --- what works as Hydra's commands do ------------------------------------------------------------------------------


def test_hydras_own_flags_work_and_leave_nothing(tmp_path: Path) -> None:
    shown = launch(tmp_path, *NINE, "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "num_generations_per_prompt: 16" in shown.stdout
    helped = launch(tmp_path, "--help")
    assert helped.returncode == 0, helped.stderr
    assert "nano_12b" in helped.stdout
    assert everything_below(tmp_path) == []


# --- in this process ------------------------------------------------------------------------------------------------


def test_the_recipes_are_the_files_of_conf() -> None:
    pairs = nearest.recipes("v0_7")
    assert ("nano_9b", "1n8g") in pairs
    assert ("nano_tiny", "local") in pairs
    assert ("nano_9b", "local") not in pairs


def test_a_model_without_any_recipe_is_told_how_to_take_another_s() -> None:
    cfg = point().cfg.copy()
    cfg.nemo_rl.recipe = None
    with pytest.raises(UserError) as caught:
        compose.require_recipe(cfg, "nano_99b", "1n8g", "v0_7")
    assert "`recipes_of: nano_9b`" in caught.value.fix
    assert "conf/model/nano_99b.yaml" in caught.value.fix


def test_inner_options_are_not_offered() -> None:
    said = str(mistakes.explain(ValueError("x"), config_loader(), ["data=mat"]))
    assert "data=math" in said
    assert "default/" not in said


#: overrides -> what is found, what to type
MISTYPED = {
    "the name of another section": (
        ["policy.num_generations_per_prompt=4"],
        "policy.num",
        "grpo.num_generations_per",
    ),
    "not the section itself": (["grpo.lr=1e-6"], "grpo.lr=1e-6", "optimizer.lr=1e-6"),
    "the section": (["grop.seed=3"], "grop.seed=3", "grpo.seed=3"),
    "a name that stands everywhere": (
        ["polcy.dtensor_cfg.enabled=true"],
        "polcy",
        "policy.dtensor_cfg.enabled=true",
    ),
    "one of several": (["model=nano_9b,nano_9", "cluster=1n8g"], "model=nano_9", "model=nano_9b"),
    "beside a comma": (["grpo.sed=1", "optimizer.lr=1e-6,2e-6"], "grpo.sed=1", "grpo.seed=1"),
    "after a good override": (["model=nano_9b", "cluster=1n8g", "grpo.sed=1"], "grpo.sed=1", "grpo.seed=1"),
    "quoted": (["'grpo.seed"], "''grpo.seed' has no =", "'grpo.seed=<its value>"),
    "not closed": (
        ["optimizer.betas=[0.9"],
        "cannot read the value in optimizer.betas=[0.9",
        "the whole value, in quotes",
    ),
    "ends in a comma": (["optimizer.lr=1e-6,"], "cannot read the value in optimizer.lr=1e-6,", "optimizer.lr=1e-6"),
    "a site of one's own": (
        ["site=mine"],
        "site=mine",
        "nano-exp site init mine",
    ),
    "a site there is": (["site=minicluste"], "site=minicluste", "site=minicluster"),
}


@pytest.mark.parametrize(("overrides", "found", "fix"), MISTYPED.values(), ids=MISTYPED.keys())
def test_what_was_mistyped_is_found_among_all_overrides(overrides: list[str], found: str, fix: str) -> None:
    said = mistakes.explain(ValueError("x"), config_loader(), overrides)
    assert said.found.startswith(found)
    assert said.fix.startswith(fix) or fix in said.fix.split(" (or:")[0]


@pytest.mark.parametrize("shape", ["published", "local"])
def test_a_pair_without_a_recipe_is_told_the_shapes_that_have_one(shape: str) -> None:
    with pytest.raises(UserError) as caught:
        point("model=nano_9b", f"cluster={shape}")
    assert f"cluster={shape} has no recipe" in caught.value.found
    assert caught.value.fix == "model=nano_9b cluster=1n8g or model=nano_9b cluster=2n8g"


def test_a_secret_is_refused_before_a_typo_is_explained() -> None:
    said = str(mistakes.explain(ValueError("x"), config_loader(), ["model=nano_9", f"++a.token={CANARY}"]))
    assert "a.token" in said
    assert CANARY not in said


@pytest.mark.parametrize("override", ["~grpo.nope", "~nope"])
def test_taking_away_what_is_not_there(override: str) -> None:
    said = mistakes.explain(ValueError("x"), config_loader(), [override])
    assert said.found == override
    assert "no such key" in said.why


def test_keys_that_a_chosen_group_brings_are_known() -> None:
    """num_processes is a key of data=workplace_assistant alone: with it the typo is the other override."""
    overrides = [*NINE, "env.nemo_gym.code_gen.resources_servers.code_gen.num_processes=8", "grpo.sed=1"]
    assert mistakes.explain(ValueError("x"), config_loader(), overrides).found == "grpo.sed=1"


def test_an_added_key_is_not_a_typo() -> None:
    assert (
        list(mistakes.diagnose(config_loader(), ["+grpo.new=1", "++grpo.newer=2", "model=nano_9b", "cluster=1n8g"]))
        == []
    )


def test_the_overrides_of_a_point_are_kept_as_typed() -> None:
    made = point("grpo.seed=3", "optimizer.lr=0.000001")
    assert made.overrides == ("grpo.seed=3", "optimizer.lr=0.000001")
    assert made.cfg.optimizer.lr == 1e-6
    assert "hydra" not in made.cfg


def test_without_the_config_tree_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml") as caught, conf_tree.loader(tmp_path):
        pass
    assert "pip install -e" in caught.value.fix
