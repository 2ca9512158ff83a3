"""The quick way to compose many points gives what Hydra gives, point by point."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import core_case
import pytest
from core_case import config_loader, point
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nano_exp.advice import mistakes
from nano_exp.compose import compose, conf_tree, family, kept
from nano_exp.compose.freeze import Frozen, freeze, freeze_all
from nano_exp.errors import UserError

FOLDER = Path("/nowhere")
#: Each one costs three compositions by Hydra. `NANO_EXP_EXAMPLES=1000` for a night.
EXAMPLES = int(os.environ.get("NANO_EXP_EXAMPLES", "6"))
NINE = ("model=nano_9b", "cluster=1n8g")


def exact(frozen: Frozen) -> tuple[Any, ...]:
    """All of it, where 1, 1.0 and true are three values."""
    return frozen.name, frozen.digest, frozen.overrides, json.dumps(frozen.config, sort_keys=True)


def slowly(points: Sequence[Sequence[str]]) -> list[Any]:
    """By Hydra, each point, and nothing that is kept; or the words of the first mistake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "_off", True)
        try:
            return [exact(freeze(one, FOLDER)) for one in core_case.compose_points(config_loader(), points)]
        except UserError as error:
            return [str(error)]


def quickly(points: Sequence[Sequence[str]], siblings: int | None = None) -> list[Any]:
    """The same by families; `siblings`: how many of the points were not composed by Hydra."""
    try:
        with mistakes.explained(config_loader()):
            made = family.compose_points(config_loader(), points)
        assert siblings in (None, sum(isinstance(one, family.Sibling) for one in made))
        return [exact(one) for one in freeze_all(made, FOLDER)]
    except UserError as error:
        return [str(error)]


def sweep(*overrides: str, **values: Sequence[str]) -> list[list[str]]:
    """Points by the places {a}, {b} in overrides."""
    count = len(next(iter(values.values())))
    return [[o.format(**{k: v[i] for k, v in values.items()}) for o in overrides] for i in range(count)]


PLAIN = {
    "a knob that others read": sweep(*NINE, "optimizer.lr={a}", a=("1e-6", "2e-6", "0.1", "3")),
    "what batches are made of": sweep(*NINE, "grpo.num_generations_per_prompt={a}", a=("8", "16")),
    "two, with fixed ones around": sweep(
        *NINE, "grpo.seed={a}", "optimizer.eps=1e-9", "optimizer.lr={b}", a="12", b="34"
    ),
    "a key in place of an interpolation": sweep(*NINE, "policy.megatron_cfg.optimizer.lr={a}", a=("1e-6", "2e-6")),
    "a key that the recipe lacks": sweep(*NINE, "++grpo.new={a}", a=("1", "null", "text", "'a, b'", "true")),
    "a choice behind it": sweep("optimizer.lr={a}", *NINE, "parallelism=fsdp2", a="12"),
    "an added key before it": sweep(*NINE, "+grpo.other=1", "optimizer.lr={a}", a="12"),
    "a folder of the launch": sweep(*NINE, "logger.log_dir={a}", "run.name=x{a}", a="12"),
    "nodes": sweep(*NINE, "++cluster.num_nodes={a}", a="123"),
}


@pytest.mark.parametrize("points", PLAIN.values(), ids=PLAIN.keys())
def test_points_of_plain_values_are_composed_once_and_equal_hydras(points: list[list[str]]) -> None:
    assert quickly(points, len(points) - 1) == slowly(points)


@pytest.mark.parametrize("second", ["cluster=1n8g,2n8g", "parallelism=fsdp2,megatron_tp2"])
def test_a_swept_group_makes_one_family_for_each_choice(second: str) -> None:
    key, _, choices = second.partition("=")
    points = [
        [*NINE, f"{key}={choice}", f"optimizer.lr={lr}"] for choice in choices.split(",") for lr in ("1e-6", "2e-6")
    ]
    assert quickly(points, 2) == slowly(points)


SLOW = {
    "a mapping": sweep(*NINE, "++grpo.new={{x:{a}}}", a="12"),
    "a list": sweep(*NINE, "optimizer.betas=[0.9,0.9{a}]", a="12"),
    "an interpolation": sweep(*NINE, "optimizer.lr=${{grpo.{a}}}", a=("seed", "val_period")),
    "a key that is looked at behind it": sweep(*NINE, "optimizer.lr={a}", "+grpo.new=1", a="12"),
    "a key that goes behind it": sweep(*NINE, "optimizer.lr={a}", "~optimizer.eps", a="12"),
    "the same key again": sweep(*NINE, "optimizer.lr={a}", "optimizer.lr=5", a="12"),
    "the key above": sweep(*NINE, "optimizer.lr={a}", "optimizer={{lr:7}}", a="12"),
    "a key below": sweep(*NINE, "++grpo.new={a}", "++grpo.new.x=1", a="12"),
}


@pytest.mark.parametrize("points", SLOW.values(), ids=SLOW.keys())
def test_what_may_depend_on_more_is_composed_by_hydra(points: list[list[str]]) -> None:
    assert quickly(points, 0) == slowly(points)


def test_a_mistake_is_explained_as_for_one_point() -> None:
    points = sweep(*NINE, "optimizer.lrr={a}", a="12")
    assert (said := quickly(points)) == slowly(points)
    assert "optimizer.lr" in said[0]


def test_a_value_that_others_cannot_be_computed_from_is_explained() -> None:
    points = sweep(*NINE, "grpo.num_generations_per_prompt={a}", a=("8", "word"))
    assert (said := quickly(points)) == slowly(points)
    assert "policy.train_global_batch_size" in said[0]


def test_a_value_of_another_kind_in_a_later_point_is_refused() -> None:
    points = sweep(*NINE, "slurm.max_attempts={a}", a=("8", "word"))
    assert (said := quickly(points)) == slowly(points)
    assert "slurm.max_attempts=word" in said[0]


def test_a_secret_in_a_later_point_is_refused() -> None:
    points = sweep(*NINE, "++site.env.X={a}", a=("1", "hf_" + "a" * 30))
    assert (said := quickly(points)) == slowly(points)
    assert "looks like a secret" in said[0]


@pytest.mark.parametrize("place", [("nano_9b", "2n8g"), ("nano_tiny", "local")])
def test_a_single_launch_takes_hydras_master_for_its_point(place: tuple[str, str]) -> None:
    typed = [f"model={place[0]}", f"cluster={place[1]}", "grpo.seed=7", "+grpo.new=1"]
    master = config_loader().load_configuration("config", typed, run_mode=RunMode.MULTIRUN)
    [made] = family.compose_points(config_loader(), [typed], master)
    assert isinstance(made, compose.Point)
    [composed] = core_case.compose_points(config_loader(), [typed])
    assert made.overrides == composed.overrides
    assert conf_tree.raw(made.cfg) == conf_tree.raw(composed.cfg)


def test_points_of_a_sweep_are_not_hydras_master() -> None:
    typed = [*NINE, "grpo.seed=7,8"]
    master = config_loader().load_configuration("config", typed, run_mode=RunMode.MULTIRUN)
    made = family.compose_points(config_loader(), sweep(*NINE, "grpo.seed={a}", a="78"), master)
    assert [one.config["grpo"]["seed"] for one in freeze_all(made, FOLDER)] == [7, 8]


def test_points_share_nothing_that_one_of_them_changes() -> None:
    first, second = freeze_all(
        family.compose_points(config_loader(), sweep(*NINE, "optimizer.lr={a}", a=("1e-6", "2e-6"))), FOLDER
    )
    assert first.config["optimizer"]["lr"] == 1e-6
    assert second.config["policy"]["megatron_cfg"]["optimizer"]["lr"] == 2e-6
    assert freeze(point(*NINE, "optimizer.lr=1e-6"), FOLDER).config == first.config


KEYS = (
    "optimizer.lr",
    "optimizer.min_lr",
    "optimizer.betas",
    "optimizer",
    "optimizer.new",
    "grpo.num_generations_per_prompt",
    "grpo.new",
    "grpo.new.x",
    "grpo.adv_estimator",
    "grpo.normalize_rewards",
    "policy.train_global_batch_size",
    "policy.megatron_cfg.optimizer.lr",
    "policy.megatron_cfg.scheduler",
    "policy.precision",
    "cluster",
    "cluster.num_nodes",
    "model.name",
    "run.name",
    "site.env.X",
)
VALUES = (
    *("1", "2.5", "1e-6", "true", "null", "word", "'a, b'", "''", "???", "0"),
    *("${optimizer.lr}", "${cluster.num_nodes}", "${.lr}", "${mul:2,${grpo.seed}}"),
    *("[1,2]", "{x:1}", "{lr:1}", "{x:{y:2}}", "{num_nodes:3}"),
)
GROUPS = ("parallelism=fsdp2", "parallelism=megatron_tp2", "cluster=2n8g", "optimizer=tiny", "engine=nemo_rl", "~site")
typed = st.builds(
    "{}{}={}".format, st.sampled_from(["", "", "++", "+"]), st.sampled_from(KEYS), st.sampled_from(VALUES)
)
fixed = st.one_of(typed, typed, st.sampled_from(GROUPS), st.sampled_from(KEYS).map("~{}".format))
axis = st.tuples(
    st.builds("{}{}".format, st.sampled_from(["", "++", "++", "+"]), st.sampled_from(KEYS)),
    st.lists(st.sampled_from(VALUES), min_size=3, max_size=3, unique=True),
)


@st.composite
def launches(draw: st.DrawFn) -> list[list[str]]:
    """Three points with one or two swept keys somewhere among up to three fixed overrides."""
    swept = draw(st.lists(axis, min_size=1, max_size=2))
    order = draw(st.permutations([*draw(st.lists(fixed, max_size=3)), *swept]))
    return [[*NINE, *(o if isinstance(o, str) else f"{o[0]}={o[1][i]}" for o in order)] for i in range(3)]


@given(launches())
@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, suppress_health_check=list(HealthCheck))
def test_whatever_is_swept_equals_hydras_own_composition(points: list[list[str]]) -> None:
    assert quickly(points) == slowly(points)
