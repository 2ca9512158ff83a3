"""Files of the store: whole or not at all, and YAML that reads back as what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_exp import files
from nano_exp.errors import UserError

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False),
    st.text(max_size=200),
    st.text("aeEnoOfyY1.-_=/+ ", max_size=120),
    st.sampled_from(["yes", "1e-6", "a: b", "two\nlines\n", "- x", "'", "#", "0x1", "2026-01-01", "word " * 60]),
)
keys = st.one_of(
    st.text("abcdefg_", min_size=1, max_size=6), st.sampled_from(["yes", "Null", "on", "y", "1", "a b", ": x"])
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=25,
)


@given(st.dictionaries(keys, values, max_size=5))
@settings(max_examples=200, deadline=None)
def test_yaml_reads_back_as_what_was_written(value: dict[str, Any]) -> None:
    text = files.dump_yaml(value)
    for loader in (yaml.SafeLoader, files.Loader):
        assert repr(yaml.load(text, Loader=loader)) == repr(value)  # repr: 1, 1.0 and True are three values


@given(st.recursive(leaves, lambda i: st.lists(i) | st.dictionaries(keys | st.integers(), i), max_leaves=20))
@settings(max_examples=100, deadline=None)
def test_json_is_what_the_library_writes(value: Any) -> None:
    assert files.dump_json(value) == json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def test_yaml_is_written_as_blocks_without_anchors() -> None:
    shared = [0.9, 0.95]
    config = {"a": {"b": {"seed": 3, "on": False, "betas": shared}, "betas": shared}, "last": None}
    lines = ["a:", "  b:", "    seed: 3", "    'on': false", "    betas:", "    - 0.9", "    - 0.95", "  betas:"]
    assert files.dump_yaml(config).splitlines() == [*lines, "  - 0.9", "  - 0.95", "last: null"]


def test_a_value_that_is_changed_after_it_was_written_is_written_anew() -> None:
    config = {"a": {"b": {"x": 1}}}
    assert "x: 1" in files.dump_yaml(config)
    config["a"]["b"]["x"] = 2
    assert "x: 2" in files.dump_yaml(config)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").touch()
    with pytest.raises(UserError):
        files.write_text(tmp_path / "folder", "text")  # a folder that is not empty cannot be replaced
    with pytest.raises(UserError):
        files.write_unseen(tmp_path / "folder", "text")
    with pytest.raises(TypeError):
        files.write_text(tmp_path / "new", 3)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
