"""Which runs a word means."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_case import make_run

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.index import selection
from nano_exp.store import runs


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Runs of two names, sent by two launches: array 12 with tasks 0 and 1, job 15, and a job 12 before all that."""
    a, b = (make_run(tmp_path, name="lr", run=run) for run in ("r1a", "r1b"))
    c = make_run(tmp_path, name="seeds", run="r2c")
    for launch, job, members in (("1", "12", [c]), ("2", "12", [a, b]), ("3", "15", [c])):
        folder = runs.launch_dir(tmp_path, launch)
        folder.mkdir(parents=True)
        files.write_json(folder / "manifest.json", {"arrays": [{"runs": [str(m) for m in members]}]})
        runs.record_job(tmp_path, launch, 0, job)
    return tmp_path


WORDS = {
    (): ["r1a", "r1b", "r2c"],
    ("lr",): ["r1a", "r1b"],
    ("r1",): ["r1a", "r1b"],
    ("r2c", "r2", "seeds"): ["r2c"],
    ("12",): ["r1a", "r1b"],
    ("12_1",): ["r1b"],
    ("15",): ["r2c"],
    ("15_0", "lr"): ["r2c", "r1a", "r1b"],
}


@pytest.mark.parametrize(("words", "ids"), WORDS.items(), ids=map(str, WORDS))
def test_runs_are_named_by_name_id_or_job(store: Path, words: tuple[str, ...], ids: list[str]) -> None:
    assert [folder.id for folder in selection.select(store, words)] == ids


@pytest.mark.parametrize(
    ("word", "found", "fix"),
    [
        ("lrr", "no run and no name 'lrr'", "nano-exp status lr"),
        ("12_7", "no run of Slurm job 12_7", "nano-exp status"),
        ("99", "no run of Slurm job 99", "nano-exp status"),
        ("zzzzzz", "no run and no name 'zzzzzz'", "nano-exp status"),
    ],
)
def test_a_word_that_means_nothing_is_answered_with_the_nearest(store: Path, word: str, found: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        selection.select(store, [word])
    assert found in caught.value.found
    assert caught.value.why == "names there: lr, seeds"
    assert caught.value.fix == fix


def test_one_run_is_wanted_and_several_are_meant(store: Path) -> None:
    assert selection.one(store, "12_0").id == "r1a"
    with pytest.raises(UserError, match="'lr' stands for 2 runs: r1a, r1b"):
        selection.one(store, "lr")


def test_a_damaged_launch_is_passed_over(store: Path) -> None:
    (runs.launch_dir(store, "2") / "manifest.json").write_text("{")
    assert [folder.id for folder in selection.select(store, ["12"])] == ["r2c"]


def test_hidden_folders_and_files_are_no_runs(store: Path) -> None:
    (store / ".cache").mkdir()
    (store / "lr" / ".staging-1").mkdir()
    (store / "lr" / "notes.txt").write_text("x")
    (store / "empty").mkdir()
    assert [folder.id for folder in selection.folders(store)] == ["r1a", "r1b", "r2c"]


def test_a_name_alone_gives_the_same_as_all_names(store: Path) -> None:
    make_run(store, name="other", run="r1a")
    (store / "other" / "r1b").write_text("no run")
    for names in (["lr"], ["lr", "other"], ["none"], ["empty"]):
        expected = [folder for folder in selection.folders(store) if folder.name in names]
        assert selection.folders(store, names) == expected
    assert [folder.word for folder in selection.select(store, ["lr/"])] == ["lr/r1a", "r1b"]


def test_a_canary_is_found_by_its_id_and_its_job(tmp_path: Path) -> None:
    make_run(tmp_path, run="r1")
    for launch in ("L1", "L2"):
        folder = runs.launch_dir(tmp_path, launch)
        make_run(folder / "canary", run="r1-canary")
        runs.record_job(tmp_path, launch, "canary", f"{launch[1]}7")
    newest = runs.launch_dir(tmp_path, "L2") / "canary/name/r1-canary"
    assert [selection.one(tmp_path, word).dir for word in ("r1-canary", "name/r1-canary", "27")] == [newest] * 3
    assert "L1" in str(selection.one(tmp_path, "17").dir)
    assert selection.one(tmp_path, "r1").dir == tmp_path / "name/r1"
