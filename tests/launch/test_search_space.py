"""A search's axes as Optuna has them, its points as overrides and back, and Optuna's study made from what is known."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from nano_exp.errors import UserError
from nano_exp.launch import search_space
from nano_exp.launch.search_space import COMPLETE, FAIL, PRUNED, RUNNING, Space, Told

optuna = pytest.importorskip("optuna", reason="hydra-optuna-sweeper is not installed")
LR = "optimizer.lr=tag(log,interval(1e-4,1e-2))"


def space(*words: str) -> Space:
    return search_space.read(OverridesParser.create().parse_overrides(list(words)))


def drawer(**given: Any) -> Any:
    return optuna.samplers.RandomSampler(seed=1, **given)


def test_a_point_is_typed_in_full_and_read_back_exactly() -> None:
    searched = space("model=nano_tiny", LR, "grpo.seed=range(1,10,3)", "data=choice(a,'b c',[1,2],true,2)")
    assert searched.fixed == ("model=nano_tiny",)
    for _ in range(20):
        params, _ = search_space.ask(search_space.study(drawer(), "maximize", searched, []), searched)
        assert 1e-4 <= params["optimizer.lr"] <= 1e-2
        assert params["grpo.seed"] in (1, 4, 7), "a range's stop is not in it"
        words = searched.words(params)
        assert words[0] == "model=nano_tiny"
        assert searched.params(words) == params


def test_a_run_of_another_space_is_no_point() -> None:
    searched = space(LR, "grpo.seed=choice(1,2)")
    assert searched.params(["optimizer.lr=1e-3", "grpo.seed=2"]) == {"optimizer.lr": 1e-3, "grpo.seed": 2}
    for lr, seed in (("1e-1", "2"), ("word", "2"), ("1e-3", "3")):
        assert searched.params([f"optimizer.lr={lr}", f"grpo.seed={seed}"]) is None
    assert searched.params(["grpo.seed=2"]) is None


def test_how_many_points_there_are() -> None:
    assert space("grpo.seed=range(1,4)", "data=choice(a,b)").size == 6
    assert space("grpo.seed=range(1,4)", LR).size is None


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["model=nano_tiny"], "without anything to search"),
        (["optimizer.lr=interval(2,1)"], "optimizer.lr=interval(2,1)"),
        (["optimizer.lr=tag(log,interval(0,1))"], "tag(log,interval(0,1))"),
        (["halving.keep=interval(0.1,0.2)"], "halving.keep"),
        (["run.name=choice(a,b)"], "run.name"),
    ],
)
def test_what_cannot_be_searched_is_refused(words: list[str], found: str) -> None:
    with pytest.raises(UserError) as caught:
        space(*words)
    assert found in caught.value.found


def test_bounds_the_wrong_way_round_are_turned() -> None:
    with pytest.raises(UserError) as caught:
        space("optimizer.lr=tag(log,interval(0.5,0.25))")
    assert space(caught.value.fix).axes


@pytest.mark.parametrize("value", [0, -1, True, "x", None, 1.5])
def test_numbers_of_trials_and_runs_are_at_least_one(value: Any) -> None:
    with pytest.raises(UserError, match="n_jobs"):
        search_space.count("n_jobs", value)
    assert search_space.count("n_trials", 3) == 3


def test_a_grid_needs_lists_and_draws_each_point_once() -> None:
    import functools

    grid = functools.partial(optuna.samplers.GridSampler)
    with pytest.raises(UserError, match=r"grid with an interval for optimizer\.lr"):
        search_space.sampler(grid, space(LR))
    searched = space("grpo.seed=range(1,4)", "data=choice(a,b)")
    made, told = search_space.sampler(grid, searched), []
    for _ in range(6):
        params, attrs = search_space.ask(search_space.study(made, "maximize", searched, told), searched)
        told.append(Told(params, RUNNING, attrs=attrs))
    assert len({tuple(one.params.values()) for one in told}) == 6


@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler", "CmaEsSampler", "NSGAIISampler"])
def test_every_sampler_goes_on_from_what_is_told(name: str) -> None:
    searched = space("optimizer.lr=interval(0.1,0.9)", "policy.x=interval(0.1,0.9)")
    sampler, told = getattr(optuna.samplers, name)(), []
    for number, state in enumerate([COMPLETE, PRUNED, FAIL, RUNNING] * 4):
        params, attrs = search_space.ask(search_space.study(sampler, "minimize", searched, told), searched)
        value = float(number) if state in (COMPLETE, PRUNED) else None
        told.append(Told(params, state, value, {4: 0.5} if state == PRUNED else {}, attrs))
    study = search_space.study(sampler, "minimize", searched, told)
    assert study.best_value == 0
    assert [trial.state.name for trial in study.trials] == [one.state for one in told]
    assert study.trials[1].intermediate_values == {4: 0.5}


def test_tpe_looks_where_values_were_high() -> None:
    searched = space("optimizer.lr=interval(0.0,1.0)")
    sampler, told = optuna.samplers.TPESampler(seed=1), []
    for _ in range(60):
        params, attrs = search_space.ask(search_space.study(sampler, "maximize", searched, told), searched)
        told.append(Told(params, COMPLETE, -abs(params["optimizer.lr"] - 0.8), {}, attrs))
    late = [one.params["optimizer.lr"] for one in told[-20:]]
    assert sum(abs(lr - 0.8) < 0.2 for lr in late) > 15
