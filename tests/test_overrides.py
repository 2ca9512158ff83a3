"""One reading of an override, held to Hydra's own parser."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from nano_exp.overrides import Override

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
VALUES = st.sampled_from(
    ["1e-6", "true", "null", "'a=b'", '"x@y"', "[1,2]", "{a: 1}", "a/b-c.yaml", "${x.y}", "1,2", ""]
)


@given(st.sampled_from(["", "+", "++"]), KEYS, VALUES)
def test_what_sets_a_key_is_read_as_hydra_reads_it(sign: str, key: str, value: str) -> None:
    word = f"{sign}{key}={value}"
    [hydra] = OverridesParser.create().parse_overrides([word])
    mine = Override.parse(word)
    assert (mine.key, mine.value, mine.adds) == (hydra.key_or_group, value, hydra.is_add() or hydra.is_force_add())
    assert (mine.sign == "+", mine.sign == "++") == (hydra.is_add(), hydra.is_force_add())


@pytest.mark.parametrize("word", ["~a.b", "~a.b=1", "group@a.b=x", "+group/inner@_global_=x", "~group@a.b", "a= 1"])
def test_what_takes_away_and_groups_with_a_package_are_read_as_hydra_reads_them(word: str) -> None:
    [hydra] = OverridesParser.create().parse_overrides([word])
    mine = Override.parse(word)
    assert (mine.key, mine.package or None, mine.deletes) == (hydra.key_or_group, hydra.package, hydra.is_delete())
    assert mine.name == hydra.get_key_element().lstrip("+~")
    assert mine.has_value == ("=" in word)


@pytest.mark.parametrize("word", ["", "a", "=", "=1", "a:1", "a=b=c", "+", "~", "a\n=1"])
def test_a_word_that_is_no_override_is_read_too(word: str) -> None:
    assert Override.parse(word).key == word.strip().lstrip("+~").partition("=")[0]


def test_quotes_are_part_of_the_value_and_can_be_left_out() -> None:
    assert (Override.parse("parallelism='auto'").value, Override.parse("parallelism='auto'").unquoted) == (
        "'auto'",
        "auto",
    )


def test_the_section_is_the_first_part_of_a_dotted_key() -> None:
    assert [Override.parse(word).section for word in ("site.env.X=1", "~site", "grpo.seed=2")] == [
        "site",
        "site",
        "grpo",
    ]
