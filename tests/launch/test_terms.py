"""The terms of a launch: read from its points, refused where they cannot be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from core_case import frozen, standin

from nano_exp.errors import UserError
from nano_exp.launch import terms
from nano_exp.launch.terms import Terms


def read(folder: Path, *points: list[str]) -> Terms:
    return terms.read([frozen(folder, *standin(), *point) for point in (points or ([],))])


def test_there_are_none_by_default(tmp_path: Path) -> None:
    assert read(tmp_path) == Terms(canary=None)


def test_they_are_read_as_typed(tmp_path: Path) -> None:
    found = read(tmp_path, ["parallel=4", "after=[r12ab,afterany:77]", "fail_fast=2", "canary=true"])
    assert found == Terms(4, ("r12ab", "afterany:77"), 2, True)
    assert read(tmp_path, ["after=77"]).after == ("77",)
    assert read(tmp_path, ["after=afterany:lr"]).after == ("afterany:lr",)


@pytest.mark.parametrize("typed", ["after=12_3", "after=[12_3,r1]", "++after=[r1, 12_3]"])
def test_an_array_task_that_hydra_takes_for_a_number_is_refused(tmp_path: Path, typed: str) -> None:
    wanted = [frozen(tmp_path, *standin())]
    with pytest.raises(UserError) as caught:
        terms.read(wanted, [typed])
    assert caught.value.fix == "after=afterok:12_3"
    for fine in ("after=afterok:12_3", "after='12_3'", "after=r12_3", "after=123", "grpo.seed=1_0"):
        terms.read(wanted, [fine])


def test_they_make_no_other_run(tmp_path: Path) -> None:
    plain, typed = frozen(tmp_path, *standin()), frozen(tmp_path, *standin(), "parallel=4", "after=77", "canary=true")
    assert (plain.digest, plain.overrides) == (typed.digest, typed.overrides)


def test_a_pack_of_one_is_none(tmp_path: Path) -> None:
    assert (read(tmp_path, ["pack=4"]).pack, read(tmp_path, ["pack=1"]).pack) == (4, None)
    assert terms.of_manifest({"terms": Terms(pack=4).as_dict()}).pack == 4
    assert terms.changed(Terms(pack=4), ["pack=null"]).pack is None


@pytest.mark.parametrize(
    "override",
    [
        "pack=0",
        "pack=all",
        "parallel=0",
        "parallel=true",
        "parallel=many",
        "fail_fast=-1",
        "fail_fast=1.5",
        "canary=1",
        "after={a:1}",
    ],
)
def test_what_they_cannot_be_is_refused_by_name(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, [override])
    assert caught.value.found.startswith(override.split("=")[0] + "=")


def test_they_hold_for_a_whole_launch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="different parallel="):
        read(tmp_path, ["parallel=1"], ["parallel=2"])


@pytest.mark.parametrize("asked", [Terms(after=("r1",)), Terms(fail_fast=1), Terms(canary=True)])
def test_runs_of_this_machine_have_none_but_parallel(asked: Terms) -> None:
    with pytest.raises(UserError, match="with slurm"):
        terms.require(asked, "local", True)
    terms.require(asked, "slurm", True)
    terms.require(Terms(parallel=2), "local", True)


def test_a_canary_has_to_be_submitted() -> None:
    with pytest.raises(UserError, match="canary=true with submit=false"):
        terms.require(Terms(canary=True), "slurm", False)


@pytest.mark.parametrize(
    ("manifest", "kept"),
    [
        ({"terms": Terms(4, ("pre",), 2, True).as_dict()}, Terms(4, ("afterok:pre/r1",), 2, True)),
        ({}, Terms(after=("afterok:pre/r1",))),
        ({"terms": {"parallel": "x"}}, Terms(after=("afterok:pre/r1",))),
    ],
)
def test_a_retry_keeps_the_terms_of_its_launch(manifest: dict[str, Any], kept: Terms) -> None:
    assert terms.of_manifest(manifest, ["afterok:pre/r1"]) == kept


def test_a_retry_may_have_other_terms() -> None:
    kept = Terms(4, ("afterok:pre/r1",), 2, True)
    assert terms.changed(kept, []) == kept
    typed = ["parallel=null", "after=[r1,afterany:12_3]", "fail_fast=1", "canary=false"]
    assert terms.changed(kept, typed) == Terms(None, ("r1", "afterany:12_3"), 1, False)
    assert terms.changed(kept, ["after=null"]).after == ()
    assert terms.changed(kept, ["after=12_3"]).after == ("12_3",)  # a number to YAML
    for word in ("parallel=0", "parallel=many", "canary=maybe", "after=[", "after={a: b}", "after=[12_3]"):
        with pytest.raises(UserError, match=word.partition("=")[0]):
            terms.changed(kept, [word])
