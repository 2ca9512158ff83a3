"""A site's file from what a cluster shows: six clusters in the words of their commands, and the keys that are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import commands_case
import pytest
import yaml

from nano_exp import cli, compose
from nano_exp.compose import conf_tree
from nano_exp.sites import look, propose
from nano_exp.sites.look import Look

CLUSTERS = sorted(Path(__file__).with_name("clusters").glob("*.yaml"))
#: What cannot be seen from a login node at these clusters, and is asked.
UNSEEN = {
    ("lab", "gpu"),  # gpu:8 without a type
    ("national", "gpu"),  # one type's name for two sizes
    ("cloud", "container.image"),  # none was brought there yet
}


def read(path: Path) -> tuple[Look, dict[str, Any]]:
    cluster = yaml.safe_load(path.read_text())
    lists = {key: tuple(value) for key, value in cluster["look"].items() if isinstance(value, list)}
    return Look(**{**cluster["look"], **lists}), cluster["expected"]


def wrong(path: Path) -> dict[str, tuple[Any, Any]]:
    """Key -> what is proposed and what is right, of those that differ."""
    seen, expected = read(path)
    made = propose.proposal(seen)
    plain = {"env": {}, "modules": []}
    got = {"name": made.name, **made.values()}
    return {
        key: (got.get(key, plain.get(key)), right)
        for key, right in expected.items()
        if got.get(key, plain.get(key)) != right
    }


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_what_is_not_right_is_asked(path: Path) -> None:
    made = propose.proposal(read(path)[0])
    assert set(wrong(path)) == {key for cluster, key in UNSEEN if cluster == path.stem}
    assert all(made.keys[key].ask and made.keys[key].value is None for key in wrong(path))


def test_a_checkout_that_is_not_there_yet_has_a_place() -> None:
    seen, _ = read(Path(__file__).with_name("clusters") / "lab.yaml")
    key = propose.proposal(replace(seen, checkouts=(), here="/home/cleo/my-exp")).keys["checkout"]
    assert str(key.value).endswith("/nemo-rl-v0.7.0") and "--checkout v0.7.0" in key.how and key.ask
    alone = propose.proposal(replace(seen, checkouts=(), mounts="", here="/data/my-exp")).keys["checkout"]
    assert alone.value == "/data/my-exp/nemo-rl-v0.7.0"


def test_nine_keys_of_ten_are_right() -> None:
    keys = sum(len(read(path)[1]) for path in CLUSTERS)
    share = 1 - sum(len(wrong(path)) for path in CLUSTERS) / keys
    print(f"{100 * share:.1f}% of {keys} keys at {len(CLUSTERS)} clusters")
    assert len(CLUSTERS) == 6 and keys > 100 and share >= 0.9


# --- as it is typed -------------------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conf tree with sites of its own, and the university's cluster on PATH."""
    folder = tmp_path / "conf"
    (folder / "site").mkdir(parents=True)
    for part in conf_tree.CONF_DIR.iterdir():
        if part.name != "site":
            (folder / part.name).symlink_to(part)
    (folder / "site" / "default.yaml").write_text((conf_tree.CONF_DIR / "site" / "default.yaml").read_text())
    seen, _ = read(Path(__file__).with_name("clusters") / "university.yaml")
    commands_case.cluster(tmp_path / "bin", vars(seen))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(compose, "CONF_DIR", folder)
    monkeypatch.setattr(look, "likely", lambda *_: [])
    monkeypatch.setattr(look, "_shell", lambda argv: seen.modules if "module" in argv[-1] else "")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    for name in look.FOLDERS:
        monkeypatch.delenv(name, raising=False)
    return folder


def test_a_file_is_written_that_composes_under_its_own_name(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["site", "init", "uni", "--yes", "--set", "hf_home=/hkfs/hf", "--set", "container.image=/x.sif"]) == 0
    )
    said = capsys.readouterr().out
    assert "next: nano-exp doctor model=nano_9b cluster=1n8g site=uni" in said
    with conf_tree.loader(conf) as loader:
        made = conf_tree.plain(loader, ["site=uni"]).site
    assert (made.name, made.partition, made.gpu, made.entry) == ("uni", "accelerated", "a100-80", "apptainer")
    assert (made.hf_home, made.container.image, made.stall_minutes) == ("/hkfs/hf", "/x.sif", 30)
    assert list(made.container.flags) == ["--writable-tmpfs"] and list(made.modules) == ["apptainer"]


def test_a_file_that_is_there_is_kept(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = conf / "site" / "uni.yaml"
    mine.write_text("mine\n")
    assert cli.main(["site", "init", "uni", "--yes"]) == 2
    assert "nano-exp site init uni --force" in capsys.readouterr().err and mine.read_text() == "mine\n"
    assert cli.main(["site", "init", "uni", "--yes", "--print"]) == 0
    assert "partition: accelerated" in capsys.readouterr().out and mine.read_text() == "mine\n"
    assert cli.main(["site", "init", "uni", "--yes", "--force"]) == 0
    assert mine.read_text().startswith("# Site uni")


@pytest.mark.parametrize(
    ("words", "found", "fix"),
    [
        (["default"], "site init default", "nano-exp site init mysite"),
        (["a/b"], "site init a/b", "nano-exp site init mysite"),
        (["x", "--set", "partiton=gpu"], "--set partiton=gpu", "--set partition=..."),
        (["x", "--set", "name=y"], "--set name=y", "--set partition=NAME"),
        (["x", "--set", "partition"], "--set partition", "--set partition=NAME"),
    ],
)
def test_what_is_mistyped_writes_nothing(
    words: list[str], found: str, fix: str, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["site", "init", *words, "--yes"]) == 2
    said = capsys.readouterr().err
    assert f"error: {found}\n" in said and f"fix: {fix}" in said
    assert [path.name for path in (conf / "site").iterdir()] == ["default.yaml"]


def test_questions_are_of_what_cannot_be_seen_and_answers_are_written(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return {"container.image": "/images/rl.sif", "hf_home": ""}[question.partition(":")[0]]

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert cli.main(["site", "init"]) == 0
    text = (conf / "site" / "horeka.yaml").read_text()
    assert [question.partition(":")[0] for question in questions] == ["container.image", "hf_home"]
    assert yaml.safe_load(text)["container"]["image"] == "/images/rl.sif"
    assert "# hf_home: null  # FILL IN: no shared file system was seen" in text


def test_without_a_word_of_slurms_nothing_is_guessed(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands_case.cluster(tmp_path / "bin", {})
    assert cli.main(["site", "init", "uni", "--yes"]) == 4
    assert "nano-exp doctor" in capsys.readouterr().err
    assert not (conf / "site" / "uni.yaml").exists()
