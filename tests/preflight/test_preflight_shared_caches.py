"""What runs share and is not made yet: said before a launch, and a sweep's canary makes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, frozen, standin
from core_case import launch as typed_launch
from preflight_case import TWELVE, said

from nano_exp.errors import UserError
from nano_exp.launch import (
    canary,
    convergence,
    flow,
    job_arrays,
    terms,
)
from nano_exp.launch.terms import Terms
from nano_exp.preflight import ahead, shared_caches
from nano_exp.preflight.facts import Facts

TWO = (("grpo.seed=1",), ("grpo.seed=2",))
AHEAD = "nano-exp prepare model=nano_12b cluster=1n8g"


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with caches of this process and its children in it that are empty."""
    monkeypatch.setenv("NEMO_RL_VENV_DIR", str(tmp_path / "venvs"))
    monkeypatch.setenv("NRL_MEGATRON_CHECKPOINT_DIR", str(tmp_path / "megatron"))
    return tmp_path


def rows(folder: Path, *points: tuple[str, ...]) -> list[convergence.Row]:
    return convergence.make([frozen(folder, *standin(), *point) for point in points], False, Answer([])).to_submit


def lines(configs: Sequence[dict[str, Any]], environ: Mapping[str, str], prepare: str) -> list[str]:
    return shared_caches.lines([shared_caches.needs(one, environ) for one in configs], configs, lambda: prepare)


def launch(folder: Path, *points: tuple[str, ...], asked: bool | None = None, send: bool = True) -> job_arrays.Launch:
    return flow.arranged(rows(folder, *points), "slurm", folder / "results", Terms(canary=asked), send=send)


def test_what_prepares_is_told_in_words_that_can_be_typed() -> None:
    point = ("model=nano_12b", "optimizer.lr=1e-6", "++policy.x='a b'", "grpo.seed=2", "init_from=r1", "site=mine")
    assert ahead.command(point) == "nano-exp prepare model=nano_12b '++policy.x='\"'\"'a b'\"'\"'' site=mine"
    models = [(f"model={name}", "cluster=1n8g", f"optimizer.lr={lr}") for name in ("a", "b") for lr in (1, 2)]
    assert ahead.shared(models) == "nano-exp prepare model=a,b cluster=1n8g"
    assert ahead.shared(models[:2]) == "nano-exp prepare model=a cluster=1n8g"


def test_what_is_not_made_is_said_once(cold: Path) -> None:
    configs = [row.config for row in rows(cold, *TWO)]
    first, *words = lines(configs, {"NEMO_RL_VENV_DIR": str(cold), "HF_HOME": "/hf"}, AHEAD)
    assert first == "cold caches: before it trains one run makes, and those that need them wait for,"
    assert words == [
        "  the environment of MegatronPolicyWorker",
        "  the environment of VllmGenerationWorker",
        f"  the Megatron conversion /hf/nemo_rl/{configs[0]['policy']['model_name']}",
        "  with 8 GPUs idle; made ahead by",
        f"  {AHEAD}",
    ]


def test_the_models_download_is_one_of_them_where_nodes_do_it(cold: Path) -> None:
    config = rows(cold, ())[0].config
    config["site"] |= {"network": True, "hf_home": str(cold)}
    words = lines([config], os.environ, AHEAD)
    assert f"  the download of {config['policy']['model_name']}, about 25 GB, by each node" in words
    config["site"]["network"] = None
    assert not [line for line in lines([config], os.environ, AHEAD) if "the download" in line], "model_there's"


def test_nothing_is_said_where_all_is_there(tmp_path: Path) -> None:
    assert not lines([row.config for row in rows(tmp_path, ())], os.environ, AHEAD)


def test_a_sweep_on_cold_caches_has_a_canary_by_itself(cold: Path) -> None:
    assert launch(cold, *TWO).canary is not None
    assert launch(cold, *TWO, asked=False).canary is None
    assert launch(cold, ()).canary is None, "one run has nobody to keep waiting"
    assert launch(cold, *TWO, send=False).canary is None, "the user sends it"


def test_a_sweep_on_warm_caches_has_one_where_it_is_asked_for(tmp_path: Path) -> None:
    assert launch(tmp_path, *TWO).canary is None
    assert launch(tmp_path, *TWO, asked=True).canary is not None


def test_the_canary_is_a_run_that_has_something_to_make(tmp_path: Path) -> None:
    found = rows(tmp_path, (), ("policy.model_name=org/another",))
    assert canary.choose(found) == found[1]
    assert canary.choose(found[:1]) == found[0]


@pytest.mark.parametrize(("typed", "expected"), [("auto", None), ("true", True), ("false", False), ("null", False)])
def test_the_words_for_a_canary(tmp_path: Path, typed: str, expected: bool | None) -> None:
    assert terms.read([frozen(tmp_path, *standin(), f"canary={typed}")]).canary is expected
    if expected is not None:
        assert terms.changed(Terms(canary=not expected), [f"canary={typed}"]).canary is expected


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="canary=true, canary=false or canary=auto"):
        terms.read([frozen(tmp_path, *standin(), "canary=maybe")])


def test_environments_are_not_made_anew_under_running_runs() -> None:
    typed = ("+site.env.NRL_FORCE_REBUILD_VENVS=true",)
    for new, severity in ((2, "error"), (1, "warning")):
        (found,) = said("rebuilt_environments", TWELVE, typed, facts=Facts(environ={}, new={("shape", "name"): new}))
        assert found.severity == severity and found.fix.startswith("+site.env.NRL_FORCE_REBUILD_VENVS=false")
    assert not said("rebuilt_environments", TWELVE, facts=Facts(environ={}, new={("shape", "name"): 2}))
    inherited = Facts(environ={"NRL_FORCE_REBUILD_VENVS": "true"}, new={("shape", "name"): 2})
    assert said("rebuilt_environments", TWELVE, facts=inherited)
    cured = ("+site.env.NRL_FORCE_REBUILD_VENVS=false",)
    assert not said("rebuilt_environments", TWELVE, cured, facts=inherited)


def test_a_dry_run_says_that_there_is_a_canary(cold: Path) -> None:
    words = ("-m", *standin(), "grpo.seed=1,2", "ignore=[place]", "dry_run=true")
    said_of = {more: typed_launch(cold, *words, *more).stdout for more in ((), ("canary=false",))}
    assert "cold caches: before it trains one run makes" in said_of[()]
    assert "canary: two steps of r" in said_of[()]
    assert "canary: two steps" not in said_of["canary=false",]
