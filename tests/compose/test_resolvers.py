"""Interpolations: what their text says that they read, and parsing each text once."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from nano_exp.compose import resolvers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${a}", [["a"]]),
        ("${a.b_c.d}", [["a", "b_c", "d"]]),
        ("x${a}y${ b }", [["a"], ["b"]]),
        ("${a[0].b}", [["a", "0", "b"]]),
        ("${mul:${a}, ${b.c}}", [["a"], ["b", "c"]]),
        ("${max:1,${add:${a},${mul:-1,${b}}}}", [["a"], ["b"]]),
        ("${ratio:1, 2}", []),
        ("${oc.env:A}", None),
        ("${oc.select:a}", None),
        ("${.a}", None),
        ("${..a.b}", None),
        ("${a.${b}}", None),
        ("${[a].b}", None),
        ("${other:${a}}", None),
    ],
)
def test_the_text_tells_what_is_read_or_that_it_does_not(text: str, expected: list[list[str]] | None) -> None:
    assert resolvers.reads(text) == expected


def test_a_text_that_was_parsed_before_is_computed_anew() -> None:
    resolvers.register()
    first, second = (OmegaConf.create({"a": n, "b": "${mul:${a}, 2}", "c": "x-${a}"}) for n in (3, 5))
    assert (first.b, first.c, second.b, second.c) == (6, "x-3", 10, "x-5")
    first.a = 7
    assert (first.b, first.c, second.b) == (14, "x-7", 10)
