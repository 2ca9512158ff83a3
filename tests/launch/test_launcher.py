"""Expanding the axes of a sweep into points."""

from __future__ import annotations

from typing import Any

import pytest
from core_case import config_loader, point
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano_exp.errors import UserError
from nano_exp.launch import hydra_plugins


def parse(*texts: str) -> list[Override]:
    return OverridesParser.create(config_loader=config_loader()).parse_overrides(list(texts))


def points(*typed: str, own: tuple[str, ...] = ()) -> list[list[str]]:
    return hydra_plugins.expand(parse(*own), parse(*typed))


def values(found: list[list[str]]) -> list[tuple[Any, ...]]:
    """What Hydra reads in each point; a quoted string as its text."""
    read = [[override.value() for override in parse(*one)] for one in found]
    return [tuple(getattr(value, "text", value) for value in one) for one in read]


def test_a_launch_without_a_sweep_is_one_point_as_typed() -> None:
    assert points() == [[]]
    assert points("optimizer.lr=0.000001", "++grpo.seed=3", "~logger.wandb") == [
        ["optimizer.lr=0.000001", "++grpo.seed=3", "~logger.wandb"]
    ]


def test_the_last_axis_is_the_fastest() -> None:
    assert points("a=1,2", "b=x", "c=3,4") == [
        ["a=1", "b=x", "c=3"],
        ["a=1", "b=x", "c=4"],
        ["a=2", "b=x", "c=3"],
        ["a=2", "b=x", "c=4"],
    ]


EXPANDED = {
    "a number in two ways": ("k=1e-6,0.00001", [1e-6, 1e-5]),
    "a comma in quotes": ('k="a,b"', ["a,b"]),
    "commas in quotes, swept": ("k=\"a,b\",'c,d',e", ["a,b", "c,d", "e"]),
    "a quote in quotes": (r"k='it\'s',x", ["it's", "x"]),
    "words that are no words in quotes": ("k='true','1',null,true,1", ["true", "1", None, True, 1]),
    "a list": ("k=[0.9,0.95]", [[0.9, 0.95]]),
    "lists": ("k=[0.9,0.95],[0.8,0.9]", [[0.9, 0.95], [0.8, 0.9]]),
    "a mapping": ("k={a:1,b:2}", [{"a": 1, "b": 2}]),
    "range": ("k=range(1,4)", [1, 2, 3]),
    "range with a step": ("k=range(1,8,step=3)", [1, 4, 7]),
    "choice": ("k=choice(a,b)", ["a", "b"]),
    "sorted": ("k=sort(3,1,2)", [1, 2, 3]),
    "an interpolation": ("k=${a.b},2", ["${a.b}", 2]),
    "an equals sign in quotes": ('k="a=b","c=d"', ["a=b", "c=d"]),
    "a path": ("k=/a/b-c_d.jsonl,x/y", ["/a/b-c_d.jsonl", "x/y"]),
}


@pytest.mark.parametrize(("typed", "expected"), EXPANDED.values(), ids=EXPANDED.keys())
def test_each_point_reads_as_the_value_that_was_meant(typed: str, expected: list[Any]) -> None:
    found = [value for (value,) in values(points(typed))]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize("typed", ["grpo.seed=range(4,1)", "grpo.seed=range(1,4,0)", "model=glob(nono*)"])
def test_a_sweep_without_a_value_is_refused(typed: str) -> None:
    with pytest.raises(UserError) as caught:
        points(typed)
    assert caught.value.found == typed


def test_typed_overrides_of_one_key_all_count_as_they_do_to_hydra() -> None:
    assert points("data=math", "++data={a:1}") == [["data=math", "++data={a:1}"]]
    assert points("~policy.x", "++policy.x={a:1}") == [["~policy.x", "++policy.x={a:1}"]]
    assert points("k=1,2", "j=0", "++k=3,4", own=("++k=5,6",)) == [["j=0", "++k=3"], ["j=0", "++k=4"]]
    assert points("k=1", own=("k=5,6",)) == [["k=1"]]


def test_glob_takes_the_options_of_a_group() -> None:
    assert points("model=glob(nano_*b)") == [["model=nano_12b"], ["model=nano_30b"], ["model=nano_9b"]]


def test_a_group_of_the_tree_can_be_swept() -> None:
    made = [point(*one).cfg.model.name for one in points("model=nano_9b,nano_12b", "cluster=1n8g")]
    assert made == ["nano_9b", "nano_12b"]


@pytest.mark.parametrize("typed", ["optimizer.lr=3e-6", "++optimizer.lr=3e-6", "+optimizer.lr=3e-6"])
@pytest.mark.parametrize("own", ["optimizer.lr=1e-6,2e-6", "++optimizer.lr=1e-6,2e-6"])
def test_what_is_typed_replaces_the_sweeps_axis_however_it_is_written(own: str, typed: str) -> None:
    assert points("grpo.seed=1", typed, own=(own,)) == [["grpo.seed=1", typed]]


def test_a_typed_axis_replaces_the_sweeps_and_other_axes_stay() -> None:
    found = points("a=7,8", own=("a=1,2,3", "b=4,5"))
    assert values(found) == [(4, 7), (4, 8), (5, 7), (5, 8)]


def test_keys_that_only_begin_alike_are_two_axes() -> None:
    assert len(points("optimizer.lr=1,2", own=("optimizer.lr_warmup=1,2", "lr=1,2"))) == 8


def test_an_interval_has_no_points() -> None:
    with pytest.raises(UserError) as caught:
        points("optimizer.lr=interval(0,1)")
    assert "choice(a,b,c)" in caught.value.fix


words = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="'\\$"), max_size=8)
items = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), words)
axis = st.lists(items, min_size=2, max_size=4)


def written(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


@given(axis, axis)
@example(["a,b", "=", "{x:1}"], [" a", "a ", "[", ")"])
@settings(max_examples=150, deadline=None)
def test_every_combination_is_a_point_and_reads_as_meant(first: list[Any], second: list[Any]) -> None:
    found = points(*(f"{key}={','.join(map(written, chosen))}" for key, chosen in (("a", first), ("b", second))))
    read = values(found)
    assert read == [(x, y) for x in first for y in second]
    assert [[type(v) for v in one] for one in read] == [[type(x), type(y)] for x in first for y in second]


@pytest.mark.parametrize("typed", ["site=default,minicluster", "site.partition=a,b", "++site.timeout_min=1,2"])
def test_one_launch_goes_to_one_site(typed: str) -> None:
    """Hydra composes the launcher's settings once, without the swept keys: the runs would all go to the default."""
    with pytest.raises(UserError) as caught:
        hydra_plugins.refuse_swept_site(parse("grpo.seed=1,2", typed))
    assert caught.value.found == typed
    assert "one launch for each" in caught.value.fix


def test_a_site_that_is_not_swept_passes() -> None:
    hydra_plugins.refuse_swept_site(parse("site=minicluster", "site.partition=a", "grpo.seed=1,2", "++site.env.A=1,2"))


@pytest.mark.parametrize("typed", ["sweeps=lr,seeds", "sweeps=[lr,seeds]", "sweeps=glob(*)"])
def test_a_launch_has_one_sweep(typed: str) -> None:
    with pytest.raises(UserError) as caught:
        hydra_plugins.refuse_several_sweeps(config_loader(), parse(typed))
    assert "one sweep" in caught.value.why
    assert caught.value.fix.startswith("sweeps=lr,")


def test_of_several_sweeps_the_mistyped_one_is_named_first() -> None:
    with pytest.raises(UserError) as caught:
        hydra_plugins.refuse_several_sweeps(config_loader(), parse("sweeps=lr,seedz"))
    assert caught.value.fix == "sweeps=seeds"


def test_one_sweep_passes() -> None:
    hydra_plugins.refuse_several_sweeps(config_loader(), parse("sweeps=lr", "grpo.seed=1,2"))
