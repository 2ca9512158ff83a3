"""What a launch remembers of the code: commit, diff without secrets, a copy of the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from core_case import everything_below

from nano_exp import files
from nano_exp.launch import snapshot

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "a.txt").write_text("one\n")
    (folder / ".gitignore").write_text("ignored\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_work_tree(repository: Path) -> None:
    facts, diff = snapshot.git(repository)
    head = git(repository, "rev-parse", "HEAD")
    assert facts == {"commit": head, "branch": "trunk", "dirty": False, "untracked": []}
    assert diff == ""
    assert snapshot.head(repository) == head


def test_uncommitted_changes_are_kept_without_their_secrets(repository: Path) -> None:
    (repository / "a.txt").write_text(f"two {TOKEN}\n")
    (repository / "new.txt").write_text("x")
    (repository / "ignored").write_text("x")
    facts, diff = snapshot.git(repository)
    assert facts["dirty"] is True
    assert facts["untracked"] == ["new.txt"]
    assert "+two [secret removed]" in diff
    assert TOKEN not in diff


def test_a_diff_can_be_applied_again(repository: Path) -> None:
    (repository / "a.txt").write_text("two\nthree\n")
    _, diff = snapshot.git(repository)
    git(repository, "checkout", "-q", "a.txt")
    subprocess.run(["git", "-C", str(repository), "apply"], input=diff, text=True, check=True)
    assert (repository / "a.txt").read_text() == "two\nthree\n"


def test_a_diff_does_not_depend_on_the_users_settings(repository: Path) -> None:
    git(repository, "config", "color.ui", "always")
    git(repository, "config", "diff.external", "false")
    git(repository, "config", "diff.noprefix", "true")
    (repository / "a.txt").write_text("two\n")
    _, diff = snapshot.git(repository)
    assert diff.startswith("diff --git a/a.txt b/a.txt\n")


def test_no_repository_and_no_git_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, diff = snapshot.git(tmp_path)
    assert facts["commit"] is None
    assert diff == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshot.git(tmp_path)[0]["commit"] is None
    assert snapshot.head(tmp_path) is None


@pytest.mark.parametrize(
    ("engine", "most_files", "most_bytes"), [("nemo_rl", 128, 730_000), ("embedded", 136, 790_000)]
)
def test_the_copy_is_what_a_job_runs_and_works_by_itself(
    engine: str, most_files: int, most_bytes: int, tmp_path: Path
) -> None:
    snapshot.take(tmp_path, [engine])
    copy = tmp_path / "code" / "nano_exp"
    copied = [p for p in everything_below(copy) if (copy / p).is_file()]
    assert len(copied) <= most_files and sum((copy / p).stat().st_size for p in copied) <= most_bytes
    assert not {p.split("/")[0] for p in copied} & {"compose", "launch", "planner", "preflight", "report", "commands"}
    for name in copied:
        assert (copy / name).read_bytes() == (snapshot.PACKAGE / name).read_bytes()
    assert "commit" in files.read_json(tmp_path / "git.json")
    code = f"import nano_exp.job.attempt as a; a.engine_run.engines.get('{engine}'); print(a.__file__)"
    env = {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str(copy / "job" / "attempt.py")


def test_versions_are_those_installed() -> None:
    found = snapshot.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"hydra-core", "omegaconf", "submitit", "nano-exp"} <= set(found)
