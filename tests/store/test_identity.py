"""A run's identity: what changes it, what does not, and that the files keep it."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from core_case import frozen, point, standin
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano_exp import dotted, files
from nano_exp.compose import freeze
from nano_exp.store import identity
from nano_exp.store.identity import LEFT_OUT

numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(st.characters(codec="utf-8"), max_size=12))
keys = st.text("abcdefghij_", min_size=1, max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
configs = st.dictionaries(keys, values, min_size=1, max_size=4)
#: Strings that YAML reads as something else when they are not quoted.
TRICKY = [
    "1e-6",
    "1.0e-06",
    "no",
    "on",
    "null",
    "~",
    "0x1F",
    "1_000",
    "12:30:45",
    ".inf",
    "2020-01-01",
    "",
    " a",
    "a: b",
    "# c",
    "line\nbreak",
    "tab\there",
    "\u2028",
    "é",
    "🤖",
    "%d",
    "@x",
    "`",
    "- a",
    "!tag",
    "&a",
    "*a",
]


def same(a: Any, b: Any) -> bool:
    """Whether an engine would read the same value, said in another way than identity._canonical says it."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool) and a == b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


# --- pure properties ------------------------------------------------------------------------------------------------


@given(configs, configs)
@example({"a": 0.5}, {"a": "0.5"})
@example({"a": 2**53}, {"a": 2**53 + 1})
@example({"a": 1}, {"a": True})
@example({"a": None}, {"a": "null"})
@example({"a": {}}, {"a": None})
@example({"a": 10**400}, {"a": 1})
@settings(max_examples=300, deadline=None)
def test_the_same_values_and_only_they_have_the_same_digest(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (identity.digest(a) == identity.digest(b)) == same(a, b)


@given(configs, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_keys_and_tuples_for_lists_do_not_count(config: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(k, shuffled(v)) for k, v in value.items()]
            random.shuffle(items)
            return dict(items)
        return tuple(shuffled(v) for v in value) if isinstance(value, list) else value

    assert identity.digest(shuffled(config)) == identity.digest(config)


@given(st.decimals(min_value="1e-12", max_value="1e12", allow_nan=False, places=12))
@settings(max_examples=200, deadline=None)
def test_one_number_written_two_ways_is_one_number(number: Any) -> None:
    plain, scientific = f"{number:f}", f"{number:E}"
    assert identity.digest({"lr": float(plain)}) == identity.digest({"lr": float(scientific)})
    if number == number.to_integral_value():
        assert identity.digest({"n": int(number)}) == identity.digest({"n": float(number)})


@given(configs)
@example({"a": TRICKY})
@example({text: text for text in TRICKY})
@example({"a": [1e-06, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0, 1e16, 123456789012345678]})
@settings(max_examples=300, deadline=None)
def test_writing_and_reading_config_yaml_keeps_every_value(tmp_path_factory: Any, config: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    files.write_text(path, files.dump_yaml(config))
    read = files.read_yaml(path)
    assert same(read, config)
    assert identity.digest(read) == identity.digest(config)


def test_infinity_survives_the_file_too(tmp_path: Path) -> None:
    files.write_text(tmp_path / "c.yaml", files.dump_yaml({"a": math.inf, "b": [-math.inf]}))
    assert files.read_yaml(tmp_path / "c.yaml") == {"a": math.inf, "b": [-math.inf]}
    assert identity.digest({"a": math.inf}) != identity.digest({"a": "inf"})


def test_what_no_file_can_hold_is_no_part_of_a_config() -> None:
    with pytest.raises(TypeError, match="Path"):
        identity.digest({"a": Path("x")})


# --- what is left out -----------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "grpo": {"seed": 1},
    "nemo_rl": {"version": "v0.7.0"},
    "engine": {"name": "embedded"},
    "policy": {"model_name": "m", "generation": {"vllm_cfg": {"precision": "bf16"}}},
    "checkpointing": {"save_period": 10},
    "cluster": {"num_nodes": 1},
    "env": {"nemo_gym": {"a": 1}},
}


@pytest.mark.parametrize("key", LEFT_OUT)
def test_each_key_of_the_list_is_left_out_and_its_neighbours_are_not(key: str) -> None:
    with_key, below, neighbour = (copy.deepcopy(BASE) for _ in range(3))
    dotted.set_dotted(with_key, key, "x")
    dotted.set_dotted(below, f"{key}.deep.er", "x")
    dotted.set_dotted(neighbour, f"{key}_2", "x")
    assert identity.digest(with_key) == identity.digest(BASE)
    assert identity.digest(below) == identity.digest(BASE)
    assert identity.digest(neighbour) != identity.digest(BASE), f"{key}_2 begins like {key} and is another key"


def test_every_other_leaf_of_a_real_config_counts(tmp_path: Path) -> None:
    config = frozen(tmp_path, *standin()).config
    before = identity.digest(config)
    silent = []
    for key, value in list(dotted.leaves(config).items()):
        if not identity.counts(key):
            continue
        changed = copy.deepcopy(config)
        dotted.set_dotted(changed, key, "another" if value != "another" else "yet another")
        if identity.digest(changed) == before:
            silent.append(key)
    assert silent == []
    counted = {k for k in dotted.leaves(config) if identity.counts(k)}
    assert len(counted) > 150
    assert {
        "policy.model_name",
        "nemo_rl.version",
        "cluster.num_nodes",
        "engine.name",
        "data.train.dataset_name",
    } <= counted


# --- through real composition ---------------------------------------------------------------------------------------

NINE = ("model=nano_9b", "cluster=1n8g")

EQUAL = {
    "1e-6 and 0.000001": ([*NINE, "optimizer.lr=1e-6"], [*NINE, "optimizer.lr=0.000001"]),
    "1.0e-06 and 1e-6": ([*NINE, "optimizer.lr=1.0e-06"], [*NINE, "optimizer.lr=1e-6"]),
    "an int for a float": (["optimizer.weight_decay=0"], ["optimizer.weight_decay=0.0"]),
    "the order": ([*NINE, "grpo.seed=1", "grpo.val_period=5"], ["grpo.val_period=5", *NINE[::-1], "grpo.seed=1"]),
    "a group and the same by a plain override": (["model=nano_9b", "cluster=2n8g"], [*NINE, "++cluster.num_nodes=2"]),
    "a default, typed": (
        list(NINE),
        [*NINE, "optimizer=adamw", "engine=nemo_rl", "grpo.num_generations_per_prompt=16"],
    ),
    "the knob and what it becomes": (
        [*NINE, "optimizer.weight_decay=0.1"],
        [*NINE, "policy.megatron_cfg.optimizer.weight_decay=0.1"],
    ),
    "one + and two": ([*NINE, "+grpo.new_key=1"], [*NINE, "++grpo.new_key=1"]),
    "another name, place and account": (
        list(NINE),
        [*NINE, "run.name=x", "run.results=/y", "site.account=z", "run.tags=[t]"],
    ),
    "tracking": (
        list(NINE),
        [*NINE, "++logger.wandb.project=p", "++logger.log_dir=/l", "++checkpointing.checkpoint_dir=/c"],
    ),
    "the switches": ([], ["dry_run=true", "wait=true", "fresh=true"]),
}


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL.keys())
def test_the_same_run_asked_for_in_two_ways(tmp_path: Path, one: list[str], other: list[str]) -> None:
    a, b = frozen(tmp_path, *one), frozen(tmp_path, *other)
    assert identity.differences(a.config, b.config) == {}
    assert a.digest == b.digest


ANOTHER = (
    "++data.train.data_path=other.jsonl",
    "++data.validation.data_path=other.jsonl",
    "policy.model_name=nvidia/another",
    "nemo_rl.version=v0.6.0",
    "++cluster.num_nodes=2",
    "grpo.seed=43",
    "optimizer.lr=1e-6",
    "parallelism=megatron_tp8",
    "grpo.max_num_steps=3",
)


def test_another_value_of_what_the_engine_reads_is_another_run(tmp_path: Path) -> None:
    digests = [frozen(tmp_path, *NINE).digest, *(frozen(tmp_path, *NINE, one).digest for one in ANOTHER)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("overrides", [(), NINE, ("model=nano_30b", "cluster=2n8g")], ids=" ".join)
def test_a_run_read_from_its_own_files_has_its_identity(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    made = frozen(tmp_path, *overrides)
    run_id = identity.run_id(made.digest)
    path = tmp_path / "config.yaml"
    files.write_text(path, files.dump_yaml(freeze.place(made, run_id)))
    read = files.read_yaml(path)
    assert identity.digest(read) == made.digest
    assert identity.differences(read, made.config) == {}


def test_freezing_changes_nothing_in_the_point(tmp_path: Path) -> None:
    before = point(*NINE).cfg.copy()
    frozen(tmp_path, *NINE)
    assert point(*NINE).cfg == before


# --- ids and differences --------------------------------------------------------------------------------------------


def test_the_id_is_the_digest_cut_short_and_the_generation() -> None:
    digest = "0123456789abcdef" * 4
    assert identity.run_id(digest) == "r0123456789"
    assert identity.run_id(digest, 2) == "r0123456789-2"


def test_differences_name_the_keys_that_count_with_both_values() -> None:
    old = {"grpo": {"seed": 1, "gone": 5, "same": 0.5}, "run": {"name": "a"}}
    new = {"grpo": {"seed": 2, "came": 6, "same": 0.50}, "run": {"name": "b"}}
    assert identity.differences(old, new) == {
        "grpo.came": (None, 6),
        "grpo.gone": (5, None),
        "grpo.seed": (1, 2),
    }
