"""Config files are parsed once each, in C: what comes of it is what OmegaConf's own reader makes of them."""

from __future__ import annotations

import io
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from nano_exp import hydra_internals
from nano_exp.compose import CONF_DIR

UNUSUAL = (
    "a: 1e3\nb: 1_000\nc: .5\nd: 2020-01-01\ne: yes\nf: 0x1F\ng: 1:30\nh: ~\ni: -.inf\nj: 0o17\nk: 1e-6\n",
    "a: &x {b: [1, 'c', \"d\\te\"]}\ne: *x\nf:\n  <<: *x\n  g: |\n    lines\n    more\n",
    "# @package _global_\n\ndefaults:\n  - a: b\n  - _self_\nk: ${oc.env:HOME,'x'}\nl: '${a}'\né: \"\\u00e9\"\n",
    "",
    "- 1\n- {}\n- []\n- null\n",
)


@pytest.fixture(autouse=True)
def quick() -> None:
    hydra_internals.cache_reading()


def typed(value: Any) -> Any:
    """With each leaf's type: 1, 1.0 and true are three values."""
    if isinstance(value, dict):
        return {key: typed(one) for key, one in value.items()}
    return [typed(one) for one in value] if isinstance(value, list) else (type(value), value)


def test_every_file_and_unusual_texts_are_read_as_omegaconf_reads_them() -> None:
    for text in (*UNUSUAL, *(path.read_text() for path in sorted(CONF_DIR.rglob("*.yaml")))):
        slowly = yaml.load(text, Loader=hydra_internals.yaml_rules())
        for _ in range(2):
            read = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
            assert typed(read) == typed({} if slowly is None else slowly), text[:200]


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [1\nb: }\n", "a:\n\t- b\n", "5\n"])
def test_what_cannot_be_read_is_said_in_the_same_words(text: str) -> None:
    said = []
    for load in (hydra_internals._read, OmegaConf.load):
        with pytest.raises((yaml.YAMLError, OSError)) as caught:
            load(io.StringIO(text))
        said.append((caught.type, str(caught.value)))
    assert said[0] == said[1]


def test_what_is_changed_in_a_config_is_not_in_the_next() -> None:
    text = "a: {b: [1, 2]}\n"
    first = OmegaConf.load(io.StringIO(text))
    first.a.b.append(3)
    first.a.c = 4
    assert OmegaConf.to_container(OmegaConf.load(io.StringIO(text))) == {"a": {"b": [1, 2]}}
