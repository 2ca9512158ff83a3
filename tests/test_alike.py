"""A question of many configs is asked once for all that have the same values of what it reads, and says the same."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from nano_exp import alike, dotted, files
from nano_exp.alike import Alike
from nano_exp.store import identity

FIRST: dict[str, Any] = {"a": {"x": 1, "y": 2, "list": [1]}, "b": {"deep": {"z": 3}}, "c": 4}


def changed(**values: Any) -> dict[str, Any]:
    """FIRST with other values; `a__x` is a.x."""
    return dotted.with_values(FIRST, {tuple(key.split("__")): value for key, value in values.items()})


def asked(configs: list[dict[str, Any]], question: Callable[[Mapping[str, Any]], Any]) -> tuple[list[Any], int]:
    """The answers, and how often the question was really asked."""
    times = 0

    def counted(config: Mapping[str, Any]) -> Any:
        nonlocal times
        times += 1
        return question(config)

    answers = alike.each(configs, counted)
    assert answers == [question(config) for config in configs]
    return answers, times


#: Each reads a.x, in one of the ways in which code reads a dict.
READING: list[Callable[[Any], Any]] = [
    lambda a: a["x"],
    lambda a: a.get("x"),
    lambda a: dict(a)["x"],
    lambda a: {**a}["x"],
    lambda a: (lambda **values: values["x"])(**a),
    lambda a: next(iter(a.values())),
    lambda a: dict(a.items())["x"],
    lambda a: (a | {})["x"],
    lambda a: ({} | a)["x"],
    lambda a: {}.__class__().__or__(a)["x"],
    lambda a: a.copy()["x"],
    lambda a: copy.copy(a)["x"],
    lambda a: copy.deepcopy(a)["x"],
    lambda a: pickle.loads(pickle.dumps(a))["x"],
    lambda a: json.loads(json.dumps(a))["x"],
    lambda a: json.loads(json.dumps(a, indent=1))["x"],
    lambda a: a == {"x": 1, "y": 2, "list": [1]},
    lambda a: a != {"x": 1, "y": 2, "list": [1]},
    lambda a: [a] == [{"x": 1, "y": 2, "list": [1]}],
    lambda a: repr(a),
    lambda a: f"{a}",
    lambda a: "{x}".format_map(a),
    lambda a: "%(x)s" % a,  # noqa: UP031
    lambda a: [a[key] for key in a],
    lambda a: dotted.flat({"a": a})[0]["a.x"],
    lambda a: alike.flat({"a": a})[0]["a.x"],
    lambda a: alike.where(a, lambda key, value: key == "x" and value == 2),
]


@pytest.mark.parametrize("reads", READING, ids=range(len(READING)))
def test_whoever_reads_a_value_is_asked_again_where_it_is_another(reads: Callable[[Any], Any]) -> None:
    answers, _ = asked([FIRST, changed(a__x=2), changed(a__x=2, c=5)], lambda config: reads(config["a"]))
    assert answers[0] != answers[1] == answers[2]


def test_match_reads_too() -> None:
    def question(config: Mapping[str, Any]) -> Any:
        match config["a"]:
            case {"x": x, **rest}:
                return x, rest

    assert asked([FIRST, changed(a__x=2)], question)[1] == 2


def test_what_is_not_read_does_not_ask_again() -> None:
    configs = [changed(a__x=n, b__deep__z=n % 2) for n in range(10)]
    assert asked(configs, lambda config: config["c"])[1] == 1
    assert asked(configs, lambda config: (config["a"]["y"], "x" in config["a"], list(config["a"])))[1] == 1
    assert asked(configs, lambda config: config["b"]["deep"]["z"])[1] == 2
    assert asked(configs, lambda config: config["a"]["x"])[1] == 10


def test_what_is_read_may_hang_on_what_was_read_before() -> None:
    configs = [changed(a__x=n % 2, a__y=n, c=-n) for n in range(6)]
    answers, times = asked(configs, lambda config: config["a"]["y"] if config["a"]["x"] else "no")
    assert answers == ["no", 1, "no", 3, "no", 5]
    assert times == 4


@pytest.mark.parametrize(
    "values", [(1, 1.0), (1, True), (0, False), ("1", 1), (0.0, -0.0), (None, "None"), ([1], [True]), ({}, {"u": 1})]
)
def test_values_that_code_tells_apart_are_not_the_same(values: tuple[Any, Any]) -> None:
    configs = [changed(a__x=value) for value in (*values, *values)]
    answers = alike.each(configs, lambda config: repr(config["a"]["x"]))
    assert answers == [repr(value) for value in (*values, *values)]


def test_other_keys_and_another_order_are_told_apart() -> None:
    turned = {**FIRST, "a": dict(reversed(FIRST["a"].items()))}
    more = {**FIRST, "a": {**FIRST["a"], "new": 1}}
    configs = [FIRST, turned, more, {"c": 4}, FIRST, {**FIRST, "a": 7}]
    asked(configs, lambda config: list(config["a"]) if isinstance(config.get("a"), dict) else None)


def test_a_key_with_a_dot_is_not_taken_for_a_path() -> None:
    configs = [{"a.b": n, "a": {"b": -n}} for n in range(3)]
    asked(configs, lambda config: alike.flat(config)[0]["a.b"])


def test_only_what_a_function_says_is_read() -> None:
    configs = [changed(a__x=n) for n in range(10)]

    def is_large(key: str, value: Any) -> bool:
        return isinstance(value, int) and value > 7

    assert asked(configs, lambda config: alike.where(config["a"], is_large))[1] == 2
    assert asked(configs, lambda config: alike.where(alike.flat(config)[0], is_large))[1] == 2
    assert asked(configs, lambda config: alike.said(config["a"], is_large, "y", "x"))[1] == 2


def test_a_frozen_config_is_not_changed() -> None:
    def question(config: Any) -> None:
        config["a"]["x"] = 1

    with pytest.raises(TypeError, match="not changed"):
        alike.each([FIRST, changed(a__x=2)], question)


def test_an_error_of_a_question_is_the_askers_and_is_not_kept() -> None:
    configs = [FIRST, changed(a__x=2)]
    points: Alike[Any] = Alike(configs, lambda config: config, lambda config: config)

    def fails(config: Any) -> None:
        raise KeyError(config["a"]["x"])

    for _ in range(2):
        with pytest.raises(KeyError, match="2"):
            points.ask(1, "fails", fails)
    assert points.ask(1, "fails", lambda config: config["a"]["x"]) == 2


def test_texts_are_those_of_each_config() -> None:
    configs = alike.Configs(
        [
            FIRST,
            *(
                changed(a__x=value, b__deep__z="two words")
                for value in (1.5, "text: with a colon", None, [1, "2"], -0.0)
            ),
            {**FIRST, "more": {"of": ["it", {"deep": 1}]}},
            changed(c="last"),
        ]
    )
    texts = alike.Texts(configs, files.yaml_entries, files.yaml_entry)
    assert [texts.of(index) for index in range(len(configs))] == [files.dump_yaml(config) for config in configs]
    assert identity.digests(configs) == [identity.digest(config) for config in configs]
    assert len(set(identity.digests(configs))) == len(configs)
    assert [yaml.safe_load(files.dump_yaml(config)) for config in configs] == configs


def test_a_text_with_two_values_of_one_dotted_key_is_each_ones_own() -> None:
    configs = alike.Configs({"a.b": 0, "a": {"b": n}} for n in range(3))
    assert identity.digests(configs) == [identity.digest(config) for config in configs]
    numbers = alike.Configs({"a": {1: n, "1": 0}} for n in range(3))
    assert identity.digests(numbers) == [identity.digest(config) for config in numbers]
