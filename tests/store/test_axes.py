"""What the runs of a sweep differ in: typed, not typed, typed twice, grouped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nano_exp.store import axes
from nano_exp.store.axes import Value


def points(runs: Sequence[Sequence[str]], config: dict[str, Any], **choices: str | None) -> list[dict[str, Value]]:
    """The points of runs that have this config but for what they typed."""
    return axes.points([axes.typed(run) for run in runs], lambda _, key: axes.at(config, choices, key))


def test_the_baseline_stands_where_its_own_config_says() -> None:
    config = {"optimizer": {"lr": 5e-6}, "grpo": {"seed": 42}}
    runs = [["model=nano_9b"], ["model=nano_9b", "optimizer.lr=1e-6"], ["model=nano_9b", "++grpo.seed=7"]]
    assert points(runs, config, model="nano_tiny") == [
        {"optimizer.lr": 5e-6, "grpo.seed": 42},
        {"optimizer.lr": 1e-6, "grpo.seed": 42},
        {"optimizer.lr": 5e-6, "grpo.seed": 7},
    ]


def test_a_group_that_was_not_typed_has_its_default_option() -> None:
    assert points([[], ["parallelism=fsdp2"]], {}, parallelism="published") == [
        {"parallelism": "published"},
        {"parallelism": "fsdp2"},
    ]
    assert points([[], ["parallelism=fsdp2"]], {}) == [{"parallelism": "?"}, {"parallelism": "fsdp2"}], "an older run"


@pytest.mark.parametrize(
    "runs",
    [
        [["optimizer.lr=1e-6"], ["optimizer.lr=0.000001"], ["++optimizer.lr=1e-06"], []],
        [["a.list=[1, 2]"], ["a.list=[1,2]"], []],
        [["a.word='x'"], ["a.word=x"], []],
        [["site=one", "run.name=x", "slurm.requeue=false", "logger.wandb_enabled=true", "sweeps=lr"], []],
        [["grpo.seed=1", "grpo.seed=42"], ["grpo.seed=42"]],
    ],
)
def test_what_is_the_same_however_it_is_typed_is_no_axis(runs: Sequence[Sequence[str]]) -> None:
    config = {"optimizer": {"lr": 1e-6}, "a": {"list": [1, 2], "word": "x"}, "grpo": {"seed": 42}}
    assert points(runs, config) == [{} for _ in runs]


def test_one_that_is_taken_away_or_absent_is_null() -> None:
    runs = [["~policy.scheduler"], ["policy.scheduler=x"], ["+policy.new=1"]]
    found = points(runs, {"policy": {"scheduler": "y"}})
    assert [point["policy.scheduler"] for point in found] == [None, "x", "y"]
    assert [point["policy.new"] for point in found] == [None, None, 1]


@pytest.mark.parametrize(
    ("lists", "shared"),
    [
        ([["a=1", "b=1"], ["a=1", "b=2"]], ["a=1"]),
        ([["a=1e-6"], ["++a=0.000001"]], ["a=1e-6"]),
        ([["a=1"]], []),
        ([["a=1", "a=2"], ["a=1", "a=3"]], []),
        ([["a=1", "++a=2"], ["a=1", "++a=2"]], ["++a=2"]),
        ([[], ["a=1"]], []),
    ],
)
def test_all_with_names_what_holds_for_all(lists: list[list[str]], shared: list[str]) -> None:
    assert axes.shared(lists) == shared


@pytest.mark.parametrize(
    ("keys", "taken", "names"),
    [
        (["optimizer.lr", "grpo.seed"], (), ["lr", "seed"]),
        (["optimizer.lr", "policy.kwargs.lr"], (), ["optimizer.lr", "kwargs.lr"]),
        (["policy.tokenizer.name"], ("name", "run"), ["tokenizer.name"]),
        (["model", "run.model"], (), ["model", "run.model"]),
        (["state"], ("state",), ["state="]),
    ],
)
def test_names_are_the_shortest_that_are_unique(keys: list[str], taken: tuple[str, ...], names: list[str]) -> None:
    assert list(axes.names(keys, taken).values()) == names


@pytest.mark.parametrize(
    ("word", "said"),
    [("1e-06", "1e-6"), ("0.00001", "1e-5"), ("8.0", "8"), ("8", "8"), ("true", "true"), ("null", "null"), ("x", "x")],
)
def test_values_are_said_as_one_would_type_them(word: str, said: str) -> None:
    assert axes.as_typed(axes.value(word)) == said
