"""A composition that is kept gives what Hydra gives, and a kept file that is not as it should be costs time alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from core_case import LAUNCH, config_loader
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nano_exp.compose import conf_tree, kept

NINE = ("model=nano_9b", "cluster=1n8g")
WORDS = {
    "nothing": (),
    "choices": NINE,
    "keys": (*NINE, "grpo.seed=3", "optimizer.lr=1e-5"),
    "the same in another order": ("cluster=1n8g", "grpo.seed=3", "model=nano_9b"),
    "added and taken away": (*NINE, "+grpo.new=1", "++cluster.num_nodes=2", "~optimizer.eps"),
    "a layout": (*NINE, "parallelism=fsdp2", "generation=vllm_tp2"),
    "a sweep of the file": (*NINE, "sweeps=lr"),
    "no site": (*NINE, "~site"),
    "a mapping for a group": (*NINE, "optimizer={lr: 3}"),
    "Hydra's own": (*NINE, "hydra.launcher.timeout_min=5", "hydra.job.name=x"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for compositions; this process has none yet."""
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setattr(kept, "_recent", {})
    return tmp_path / "kept"


def whole(loader: ConfigLoader, words: tuple[str, ...], mode: RunMode = RunMode.RUN) -> Any:
    """All of a config, Hydra's own part too: values, interpolations as text, types and flags; or what was refused."""
    try:
        cfg = loader.load_configuration("config", list(words), run_mode=mode, from_shell=False)
    except HydraException as error:
        return str(error)
    return OmegaConf.to_container(cfg, resolve=False), list(_sections(cfg))


def _sections(node: Any) -> Any:
    yield type(node), OmegaConf.get_type(node), OmegaConf.is_struct(node), OmegaConf.is_readonly(node)
    for key in [
        key for key in node if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key)
    ]:
        if isinstance(node[key], DictConfig):
            yield from _sections(node[key])


def from_disk(loader: ConfigLoader, words: tuple[str, ...], mode: RunMode = RunMode.RUN) -> Any:
    """The same in a process that has composed nothing yet."""
    kept._recent.clear()
    return whole(loader, words, mode)


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
def test_what_is_kept_is_what_hydra_composes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    loader, mode = config_loader(), RunMode.MULTIRUN if len(words) % 2 else RunMode.RUN
    first = whole(loader, words, mode)
    assert len(list(folder.iterdir())) == (0 if isinstance(first, str) else 1)
    again, anew = whole(loader, words, mode), from_disk(loader, words, mode)
    monkeypatch.setattr(kept, "_off", True)
    assert first == again == anew == whole(loader, words, mode)


def test_values_are_no_part_of_what_is_kept(folder: Path) -> None:
    for seed in "123":
        whole(config_loader(), (*NINE, f"grpo.seed={seed}"))
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "a folder"])
def test_a_damaged_file_costs_time_alone(folder: Path, damage: str) -> None:
    loader = config_loader()
    right = whole(loader, NINE)
    [file] = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes({"cut": bytes(content[:999]), "changed": bytes(content), "empty": b""}[damage])
    assert from_disk(loader, NINE) == right
    assert from_disk(loader, NINE) == right


def test_a_folder_that_cannot_be_made_costs_time_alone(folder: Path) -> None:
    folder.write_text("a file")
    assert whole(config_loader(), NINE) == from_disk(config_loader(), NINE)


def test_the_folder_does_not_grow_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    for number in range(4):
        kept.keep(f"{number}", ({}, {}))
    assert len(list(folder.iterdir())) == 2


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LAUNCH.parent / "conf", tmp_path / "conf"))


def _seed(conf: Path, *words: str) -> Any:
    with conf_tree.loader(conf) as loader:
        kept._recent.clear()
        return conf_tree.plain(loader, [*NINE, *words])


def test_an_edit_counts_at_once(folder: Path, conf: Path) -> None:
    assert _seed(conf).optimizer.eps != 7
    file = conf / "optimizer" / "adamw.yaml"
    file.write_text(file.read_text().replace("eps:", "eps: 7  #"))
    assert _seed(conf).optimizer.eps == 7
    assert len(list(folder.iterdir())) == 2


def test_a_choice_by_an_environment_variable_is_not_kept(
    folder: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = conf / "config.yaml"
    file.write_text(file.read_text().replace("site: default", "site: ${oc.env:MY_SITE}"))
    monkeypatch.setenv("MY_SITE", "minicluster")
    assert _seed(conf).site.name == "minicluster"
    monkeypatch.setenv("MY_SITE", "default")
    assert _seed(conf).site.name == "default"
    assert not folder.exists()


def test_what_hydra_warns_of_it_warns_of_each_time(folder: Path, conf: Path) -> None:
    file = conf / "config.yaml"
    file.write_text(file.read_text().replace("  - _self_\n", "", 1))
    for _ in range(2):
        with pytest.warns(UserWarning, match="_self_"):
            _seed(conf)
    assert not folder.exists()
