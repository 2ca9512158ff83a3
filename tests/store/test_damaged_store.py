"""Every file and folder of a store made unreadable: each command answers in words, and the other rows stay whole.

What is unreadable is so for a user who is not root: these tests give up root's rights for the command alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core_case import make_attempt, point, prepared, spread, standin

from nano_exp import cli, errors, slurm
from nano_exp.launch import flow, snapshot
from nano_exp.store import predecessors, runs
from nano_exp.store.predecessors import Wait
from nano_exp.store.runs import Owner

NOBODY = 65534
#: What is made of a file or folder.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "unreadable": lambda path: path.chmod(0),
    "empty": lambda path: path.write_text(""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "another kind": lambda path: path.write_text('["a list", 1, null]\n'),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a file": lambda path: (shutil.rmtree(path), path.write_text("x")),
    "gone": lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink(),
}
OF_FOLDERS = ("unreadable", "a file", "gone")


@contextlib.contextmanager
def without_roots_rights() -> Iterator[None]:
    """Root may read everything. Anybody else is left as they are."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch of two runs, one failed and one done, that came after something, and a run of another name."""
    folder = tmp_path_factory.mktemp("store")
    ready = prepared(folder, *standin(), points=[["grpo.seed=1"], ["grpo.seed=2"]])
    failed, done = ready.arrays[0].rows
    other = prepared(folder, *standin(), "run.name=other", points=[["grpo.seed=3"]]).arrays[0].rows[0]
    runs.record_job(ready.results, ready.id, 0, "12")
    for task, (row, kind) in enumerate(((failed, "failed"), (done, "done"), (other, "done"))):
        runs.record_event(row.dir, "start", attempt=1, launch=ready.id)
        attempt = make_attempt(row.dir, 1, Owner(f"12_{task}", 0, "host", 1, 1.0), {"kind": kind, "why": "x"})
        for log in ("stdout.log", "stderr.log", "attempt.log"):
            (attempt / log).write_text("words\n")
        runs.record_event(row.dir, "end", end={"attempt": 1, "kind": kind})
        (row.dir / runs.METRICS).write_text(json.dumps({"step": 1, "train/reward": 0.5}) + "\n")
    predecessors.write(ready.dir, [Wait("afterok", run=f"other/{other.id}")])
    shutil.rmtree(ready.dir / "code")
    return ready.results


def parts(results: Path) -> list[str]:
    """Every file and folder of the failed run and of its launch, relative to the results."""
    launched = min((results / runs.LAUNCHES).glob("2*"))
    run = next(folder for folder in (results / "nano_12b").iterdir() if not ended_well(folder))
    below = [run.parent, run, *run.rglob("*"), launched.parent, launched, *launched.rglob("*")]
    return sorted(str(path.relative_to(results)) for path in below)


def ended_well(run: Path) -> bool:
    return any(a.end is not None and a.end["kind"] == "done" for a in runs.attempts(run))


@pytest.fixture
def copied(whole: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The store in a folder that anybody may enter, and a Slurm that takes everything."""
    monkeypatch.setattr(snapshot, "take", lambda folder, engines: None)
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm.client, "available", lambda: True)
    monkeypatch.setattr(slurm, "queue", lambda users=(), merged=False: slurm.Queue([]))
    monkeypatch.setattr(slurm, "accounting", lambda jobs, names=None: {})
    monkeypatch.setattr(slurm, "sbatch", lambda script, *options, **_: "99")
    monkeypatch.setattr(slurm, "scancel", lambda jobs: None)
    monkeypatch.setattr(slurm, "control", lambda job: slurm.Control(0, False))
    folder = Path(tempfile.mkdtemp(prefix="nano-exp-damaged-"))
    folder.chmod(0o755)
    try:
        yield folder / "results"
    finally:
        shutil.rmtree(folder)


def fresh(whole: Path, results: Path) -> Path:
    """An undamaged copy, which nobody owns who is not root."""
    if results.exists():
        for path in (results, *results.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(results)
    shutil.copytree(whole, results)
    if os.geteuid() == 0:
        for path in (results, *results.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    return results


def commands(run: str) -> list[list[str]]:
    return [
        ["status"],
        ["status", "--json"],
        ["logs", run],
        ["logs", run, "--stream", "attempt"],
        ["open", run],
        ["cancel", "nano_12b", "--yes"],
        ["retry", run],
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_and_harms_its_own_row_alone(
    whole: Path, copied: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(Path(part).name for part in parts(whole) if part.count("/") == 1 and part.startswith("nano_12b/"))
    bad: list[str] = []
    for part in parts(whole):
        if (whole / part).is_dir() != (damage in OF_FOLDERS) and damage not in ("unreadable", "gone"):
            continue
        results = fresh(whole, copied)
        DAMAGES[damage](results / part)
        for words in commands(run):  # the last one alone changes the store
            said = wrong(words, results, part, capsys)
            bad += [f"{part}: nano-exp {' '.join(words)}: {said}"] if said else []
    assert not bad, "\n".join(bad)


def wrong(words: list[str], results: Path, part: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with a command's answer; nothing where it is right."""
    try:
        with without_roots_rights():
            code = cli.main([*words, "--results", str(results)])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    out, err = capsys.readouterr()
    if code == 2 and not ("error: " in err and "  why: " in err and "  fix: " in err):
        return f"no error in three parts: {err}"
    if words == ["status"] and (code != 0 or "other" not in out or "done" not in out):
        return f"the other rows are not whole: {code} {out} {err}"
    if (
        words == ["status"]
        and part == "nano_12b"
        and path_is_closed(results / part)
        and "nano_12b cannot be read" not in err
    ):
        return f"nothing is said of the name that cannot be read: {out} {err}"
    return ""


def path_is_closed(path: Path) -> bool:
    return path.is_dir() and path.stat().st_mode & 0o777 == 0


@pytest.mark.parametrize("damage", spread(DAMAGES, 4))
def test_a_launch_over_a_damaged_store_answers_in_words(
    whole: Path, copied: Path, damage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: list[str] = []
    monkeypatch.setattr(flow, "check", lambda *_, **__: flow.preflight.Report(()))
    for part in parts(whole):
        if (whole / part).is_dir() != (damage in OF_FOLDERS) and damage not in ("unreadable", "gone"):
            continue
        if "/attempts/1/" in part and not part.endswith("json"):
            continue  # logs: a launch does not read them
        results = fresh(whole, copied)
        DAMAGES[damage](results / part)
        try:
            with without_roots_rights():
                flow.launch([point(*standin(), "grpo.seed=1")], {"timeout_min": 60}, results.parent)
        except errors.UserError:
            pass
        except Exception as error:
            bad.append(f"{damage} {part}: {type(error).__name__}: {error}")
    assert not bad, "\n".join(bad)
