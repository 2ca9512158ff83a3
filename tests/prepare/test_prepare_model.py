"""A model made ready with the real huggingface_hub, from a hub on the loopback interface."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hub_case
import pytest
from hub_case import COMMIT, SHARDS, Hub

from nano_exp.job import cache_lock
from nano_exp.launch import staging
from nano_exp.nemo_rl import checkout, model_files
from nano_exp.preflight import tools
from nano_exp.prepare import download, work
from nano_exp.prepare.download import Model, Parser, Thinking
from nano_exp.prepare.step import MISSING, PARTLY, THERE, UNKNOWN, Place


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_case.hub() as the_hub:
        monkeypatch.setenv("HF_ENDPOINT", the_hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield the_hub


@pytest.fixture
def tiny(tmp_path: Path) -> Model:
    return Model(Place(tmp_path, None, "v0.7.0", False, ()), "org/tiny")


def made(model: Model) -> work.Result:
    (result,) = work.make([model], lambda _: None)
    return result


def refused(model: Model) -> str:
    error = made(model).error
    assert error is not None and error.found and error.why and error.fix
    return str(error)


def test_a_model_is_downloaded_once_and_its_commit_is_kept(hub: Hub, tiny: Model) -> None:
    assert tiny.look().state == MISSING
    assert made(tiny).made
    assert checkout.revision("org/tiny", str(tiny.place.hf_home)) == COMMIT
    site = {"hf_home": str(tiny.place.hf_home)}
    config = {"engine": {"name": "nemo_rl"}, "site": site, "policy": {"model_name": "org/tiny"}}
    assert staging._model_revision(config) == COMMIT, "which run.json has"
    hub.got.clear()
    again = made(tiny)
    assert again.look.state == THERE and not again.made and not hub.got
    assert made(replace(tiny, revision=COMMIT)).look.state == THERE


def test_what_is_there_of_a_download_that_was_cut_off_is_kept(
    hub: Hub, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_pause = SimpleNamespace(sleep=lambda _: None, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("huggingface_hub.file_download.time", no_pause)
    hub.cut.add(SHARDS[1])
    assert "cannot be reached" in refused(tiny)
    assert tiny.look().state == PARTLY and SHARDS[1] in tiny.look().found
    hub.cut.clear()
    hub.got.clear()
    assert made(tiny).look.state == THERE
    assert hub.got == [SHARDS[1]], "nothing else is asked for again"


def test_a_missing_and_a_short_shard_are_noticed_and_mended(hub: Hub, tiny: Model) -> None:
    made(tiny)
    snapshot = checkout.snapshot("org/tiny", str(tiny.place.hf_home))
    assert snapshot is not None
    (snapshot / SHARDS[0]).resolve().unlink()
    assert model_files.lacking(snapshot) == (SHARDS[0],)
    assert made(tiny).look.state == THERE
    (snapshot / "model.safetensors.index.json").unlink()
    assert model_files.lacking(snapshot) == ("model.safetensors.index.json",)


def test_what_the_hub_refuses_is_said_in_three_parts(hub: Hub, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = replace(tiny, repository="org/gated")
    assert "HF_TOKEN is not set" in refused(gated)
    assert "has no model org/wrong" in refused(replace(tiny, repository="org/wrong"))
    assert "no revision v9" in refused(replace(tiny, revision="v9"))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: _Full())
    assert "0 B free" in refused(tiny)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert made(gated).made, "with the token it is given"


class _Full:
    free = 0


def test_without_a_network_it_says_where_to_do_it(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert f"HF_HOME={tiny.place.hf_home} hf download org/tiny" in refused(tiny)


def test_of_two_at_once_one_downloads(hub: Hub, tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_lock, "LOOK_S", 0.02)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(made, [tiny, tiny])
    assert {first.look.state, second.look.state} == {THERE}
    assert sorted([first.made, second.made]) == [False, True]
    assert len(hub.got) == len(set(hub.got))


def test_parts_that_a_killed_download_left_are_removed(hub: Hub, tiny: Model) -> None:
    left = tiny.folder / "blobs" / "abc.12345678.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    made(replace(tiny, revision="main"))
    assert left.exists(), "somebody may be writing it"
    os.utime(left, (0, 0))
    (tiny.folder / "refs" / "main").unlink()
    made(replace(tiny, revision="main"))
    assert not left.exists()


def thinking(model: Model, off: bool = True) -> Thinking:
    return Thinking(model.place, model, off, tools.READS_ARGUMENT.search, tools.EDITED.search)


def test_parser_and_template_come_with_the_model(hub: Hub, tiny: Model) -> None:
    parser = Parser(tiny.place, tiny)
    assert parser.look().state == MISSING and thinking(tiny).look().state == UNKNOWN
    made(tiny)
    assert parser.look().found == hub_case.PARSER
    assert thinking(tiny).look().state == THERE
    assert "enable_thinking=false" in thinking(tiny, off=False).look().found
    snapshot = checkout.snapshot("org/tiny", str(tiny.place.hf_home))
    assert snapshot is not None
    (snapshot / "tokenizer_config.json").unlink()
    (snapshot / "tokenizer_config.json").write_text("{% set ns = namespace(enable_thinking=false) %}")
    assert "sed" in thinking(tiny).look().found


def test_a_model_of_ones_own_is_only_looked_at(tmp_path: Path, tiny: Model) -> None:
    own = replace(tiny, repository=str(tmp_path))
    result = made(own)
    assert result.look.state == PARTLY and "folder of yours" in result.hindered and not result.made
    hub_case.write_weights(tmp_path)
    assert own.look().state == THERE
