"""nano-exp clean: what it frees, what it never touches, and what it says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, aged, dead_process, intend, make_attempt, make_run

from nano_exp import cli
from nano_exp.launch import clean, convergence, freeable
from nano_exp.store import runs

ACCURACY = "val:accuracy"
MIB = 1 << 20


def free(results: Path, *words: str) -> int:
    return cli.main(["clean", *words, "--results", str(results)])


def checkpoint(folder: Path, name: str, accuracy: float | None = None, size: int = MIB) -> Path:
    """A checkpoint of one sparse file of weights; without an accuracy it has no training_info.json."""
    path = folder / name
    (path / "policy").mkdir(parents=True)
    with (path / "policy" / "weights").open("wb") as file:
        file.truncate(size)
    if accuracy is not None:
        (path / "training_info.json").write_text(json.dumps({ACCURACY: accuracy}))
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A run of NeMo RL that ended, with the checkpoints that it is told."""

    def made(
        found: Mapping[str, float | None], run: str = "r1", folder: Path | None = None, end: str = "done", **own: Any
    ) -> Path:
        run_dir = tmp_path / "name" / run
        config = {
            "engine": {"name": "nemo_rl"},
            "run": {"dir": str(run_dir)},
            "checkpointing": {
                "checkpoint_dir": str(folder or run_dir / "checkpoints"),
                "metric_name": ACCURACY,
                "higher_is_better": True,
                **own,
            },
            "logger": {"log_dir": str(run_dir / "logs")},
        }
        make_run(tmp_path, run=run, config=config)
        make_attempt(run_dir, 1, dead_process(), {"kind": end} if end else None)
        for name, accuracy in found.items():
            checkpoint(folder or run_dir / "checkpoints", name, accuracy)
        return run_dir

    return made


def steps(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


FOUR: Mapping[str, float | None] = {"step_10": 0.3, "step_20": 0.7, "step_30": 0.7, "step_40": 0.5}


@pytest.mark.parametrize(
    ("words", "own", "stay"),
    [
        ((), {}, ["step_30", "step_40"]),  # of equal ones the newest, as NeMo RL ranks them
        (("--keep", "last"), {}, ["step_40"]),
        (("--keep", "best"), {}, ["step_30", "step_40"]),  # the last always stays
        (("--keep", "20,step_10"), {}, ["step_10", "step_20", "step_40"]),
        (("--keep", "all"), {}, [*FOUR]),
        ((), {"higher_is_better": False}, ["step_10", "step_40"]),
        ((), {"metric_name": None}, ["step_40"]),
        ((), {"metric_name": "train:reward"}, [*FOUR]),  # not known which is best: none goes
    ],
)
def test_what_stays(make: Callable[..., Path], tmp_path: Path, words: tuple[str, ...], own: Any, stay: Any) -> None:
    run_dir = make({**FOUR, "tmp_step_50": None, "old_step_20": 0.1}, **own)
    assert free(tmp_path, "r1", "--yes", *words) == 0
    assert steps(run_dir) == stay


def test_a_best_that_cannot_be_told_is_said(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make({**FOUR, "step_50": float("nan")}, metric_name=ACCURACY)
    (run_dir / "checkpoints" / "step_50" / "training_info.json").write_text("{")  # damaged: no whole one
    assert free(tmp_path, "r1", "--yes") == 0
    assert steps(run_dir) == ["step_30", "step_40", "step_50"]
    assert "step_50 (its training_info.json cannot be read)" in capsys.readouterr().out
    other = make({"step_1": 0.1, "step_2": 0.1}, "r2", metric_name="train:x")
    assert free(tmp_path, "r2", "--yes") == 0
    said = capsys.readouterr().out
    assert "nothing to free in 1 run" in said and "--keep last keeps the newest alone" in said
    assert steps(other) == ["step_1", "step_2"]


def test_it_shows_asks_and_says_what_was_freed(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make({"step_1": 0.1, "step_2": 0.2, "step_3": 0.1, "tmp_step_4": None})
    before = sorted(run_dir.rglob("*"))
    assert free(tmp_path, "name") == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "  run  size     files  what",
        "  r1   1.0 MiB  2      1 checkpoint: step_1; stays: step_2 (best: val:accuracy 0.2); step_3 (last)",
        "       1.0 MiB  1      cut off, nothing reads it: tmp_step_4",
        "in all: 2.0 MiB (3 files) of 1 run",
    ]
    assert "was not confirmed" in said.err and "--yes" in said.err
    assert free(tmp_path, "name", "--json") == 0  # a look
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["kept"] == {"step_2": "best: val:accuracy 0.2", "step_3": "last"}
    assert [(i["what"], i["files"]) for i in found["runs"][0]["items"]] == [("checkpoint", 2), ("torn", 1)]
    assert found["freed_bytes"] == 0 and sorted(run_dir.rglob("*")) == before
    assert free(tmp_path, "name", "--json", "--yes") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["freed_bytes"] == found["runs"][0]["bytes"] > 2 * MIB and found["freed_files"] == 3
    assert free(tmp_path, "name", "--yes") == 0
    assert capsys.readouterr().out == "nothing to free in 1 run\n"


def test_logged_rollouts_go_where_they_are_asked_for(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make({"step_1": 0.1})
    logs = run_dir / "logs" / "exp_001"
    online, offline = (logs / "wandb/wandb" / name / "files/media/table/gym" for name in ("run-1-x", "offline-run-1-x"))
    gone = [logs / "train_data_step1.jsonl", logs / "val_data_step10.jsonl", online / "full_result_1_a.table.json"]
    unsent = offline / "full_result_1_a.table.json"
    stay = [logs / "events.out", run_dir / "attempts/1/stdout.log", online / "other_1_a.table.json", unsent]
    for path in (*gone, *stay):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    assert free(tmp_path, "r1", "--yes") == 0 and all(path.exists() for path in gone)
    assert free(tmp_path, "r1", "--yes", "--logs") == 0
    assert [path.exists() for path in (*gone, *stay)] == [False] * 3 + [True] * 4
    assert "1 of W&B's tables are not sent yet and stay: nano-exp sync sends them" in capsys.readouterr().out
    aged(tmp_path)
    runs.record_event(run_dir, "synced", step=1, url="")
    assert free(tmp_path, "r1", "--yes", "--logs") == 0 and not unsent.exists()


def test_an_active_run_is_left_alone_and_so_is_one_that_may_be(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    active, over = make(FOUR, end="failed"), make(FOUR, "r2")
    intend(active, after=1)
    runs.launch_dir(tmp_path, "L").mkdir(parents=True)
    runs.record_job(tmp_path, "L", 0, "12")
    for lines, code, said in (
        (["12|PENDING|nx-L.0-name|Priority"], 2, "nano-exp cancel r1 first"),
        (None, 4, "Slurm does not answer"),
    ):
        monkeypatch.setattr(convergence, "QueueLookup", lambda lines=lines: Answer(lines))
        assert free(tmp_path, "r1", "--yes") == code
        assert said in capsys.readouterr().err
        assert free(tmp_path, "name", "--yes") == 0
        assert "r1 is " in (out := capsys.readouterr().out) and "is left alone" in out
    assert steps(active) == [*FOUR] and steps(over) == ["step_30", "step_40"]


def test_an_attempt_that_starts_meanwhile_loses_nothing(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the look and the removal: it claims the run, saves, and may have a name of what was looked at."""
    run_dir = make({"step_1": 0.1, "step_2": 0.2, "tmp_step_3": None}, end="failed")

    def started(*_: Any) -> bool:
        make_attempt(run_dir, 2, runs.this_process())
        return True

    monkeypatch.setattr("nano_exp.commands.clean.confirm", started)
    assert free(tmp_path, "r1") == 1
    assert "r1 has been started meanwhile and is left alone" in capsys.readouterr().err
    assert steps(run_dir) == ["step_1", "step_2", "tmp_step_3"]


def test_what_took_the_name_of_what_was_looked_at_stays(make: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = make({"step_1": 0.1, "step_2": 0.2, "tmp_step_3": None})
    looked = freeable.of_run(runs.load(run_dir), {"best"}, logs=False)
    torn = run_dir / "checkpoints" / "tmp_step_3"
    torn.rename(tmp_path / "elsewhere")  # keeps its inode busy
    new = checkpoint(torn.parent, torn.name)
    assert clean._set_aside(looked, Answer([]), {}, clean._Freed())[0][1].path.name == "step_1"
    assert new.is_dir()


def test_what_a_kill_left_is_freed_by_the_next_time(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make(FOUR)

    def interrupted(path: Path, freed: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clean, "_remove", interrupted)
        assert free(tmp_path, "r1", "--yes") == 130
    assert "freed 0 B (0 files) of 0 runs" in capsys.readouterr().out
    assert len(steps(run_dir)) == 4 and "step_10" not in steps(run_dir)
    assert free(tmp_path, "r1", "--yes") == 0
    said = capsys.readouterr().out
    assert "left by a removal that was cut off" in said and "freed 2.0 MiB (4 files) of 1 run" in said
    assert steps(run_dir) == ["step_30", "step_40"]


def test_links_are_not_followed(make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that is a link, a link inside one, a folder of checkpoints that is one, and one on its way."""
    away = checkpoint(tmp_path / "away", "step_5", 0.1)
    run_dir = make({"step_10": 0.1, "step_20": 0.7})
    (run_dir / "checkpoints" / "step_5").symlink_to(away)
    (run_dir / "checkpoints" / "step_10" / "link").symlink_to(away)
    assert free(tmp_path, "r1", "--yes") == 0
    assert steps(run_dir) == ["step_20", "step_5"] and "is a link" in capsys.readouterr().out
    moved = make({}, "r2")
    (moved / "checkpoints").symlink_to(away.parent)
    lead = make({}, "r3", folder=tmp_path / "name" / "r3" / "a" / "b")
    checkpoint(tmp_path / "away" / "b", "tmp_step_1")
    (lead / "a").symlink_to(tmp_path / "away")
    assert free(tmp_path, "r2", "r3", "--yes") == 0
    said = capsys.readouterr().out
    assert "is a link" in said and "leads out of the run's folder" in said
    assert (away / "policy" / "weights").exists() and (tmp_path / "away/b/tmp_step_1").exists()


def test_folders_of_its_own_elsewhere_count_and_others_do_not(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, shared = tmp_path / "scratch" / "name" / "r1", tmp_path / "shared"
    make(FOUR, folder=mine)
    make(FOUR, "r2", folder=shared)
    copied = make({}, "r3")
    text = (copied / "config.yaml").read_text().replace(str(copied), str(tmp_path / "scratch" / "name" / "r1"))
    (copied / "config.yaml").write_text(text)
    assert free(tmp_path, "name", "--yes") == 0
    said = capsys.readouterr().out
    assert f"{shared} is not this run's alone" in said and "it was copied or moved here" in said
    assert len(list(mine.iterdir())) == 2 and len(list(shared.iterdir())) == 4


def test_a_save_that_changed_just_now_of_a_run_that_vanished_stays(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make({"step_1": 0.1, "tmp_step_2": None}, end="")
    assert free(tmp_path, "r1", "--yes") == 0
    assert "a node that Slurm lost may still write it" in capsys.readouterr().out
    assert steps(run_dir) == ["step_1", "tmp_step_2"]
    aged(tmp_path)
    assert free(tmp_path, "r1", "--yes") == 0 and steps(run_dir) == ["step_1"]


def test_a_file_with_another_name_elsewhere_gives_nothing_back(make: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = make({"step_1": 0.1, "step_2": 0.2})
    os.link(run_dir / "checkpoints/step_1/policy/weights", tmp_path / "forked")
    (item,) = freeable.of_run(runs.load(run_dir), {"best"}, logs=False).items
    assert item.files == 2 and item.size < 100
    assert item.changed == pytest.approx(time.time(), abs=600)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("r1", "--keep", "bset"), "--keep best"),
        (("r1", "--keep", "none"), "the last whole checkpoint always stays"),
        (("r1", "--keep", ""), "it takes best, last, all"),
        (("r1", "--keep", "45"), "there is no checkpoint of step 45; there are: 10, 20, 30, 40"),
        (("r1", "--keep", "best", "last"), "--keep best,last"),
        (("all",), "nano-exp clean name"),
        (("nmae",), "nano-exp status name"),
        (("r1/checkpoints/step_10",), "no run and no name"),
    ],
)
def test_mistakes_are_answered_in_words(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    run_dir = make(FOUR)
    assert free(tmp_path, *words, "--yes") == 2
    assert said in capsys.readouterr().err and steps(run_dir) == [*FOUR]


# --- what other runs start from ---------------------------------------------------------------------------------------


def dependant(results: Path, key: str, step: object, **more: Any) -> Path:
    """A run that is still to start from one of name/r1's checkpoints."""
    origin = {"run": "name/r1", "step": step, "path": str(results / f"name/r1/checkpoints/step_{step}")}
    return make_run(results, name="post", run="r9", record={key: {**origin, **more}})


@pytest.mark.parametrize(
    ("key", "step", "more", "stay"),
    [
        ("init_from", 10, {}, ["step_10", "step_40"]),
        ("fork_from", 20, {}, ["step_20", "step_40"]),
        ("init_from", "best", {}, ["step_30", "step_40"]),
        ("init_from", "last", {}, ["step_40"]),
        ("init_from", 10, {"run": None}, ["step_10", "step_40"]),  # named by its path
        ("init_from", 10, {"run": "name/r2", "path": "/elsewhere"}, ["step_40"]),
    ],
)
def test_what_another_run_is_still_to_start_from_stays(
    make: Callable[..., Path], tmp_path: Path, capsys: Any, key: str, step: object, more: Any, stay: list[str]
) -> None:
    run_dir = make(FOUR)
    dependant(tmp_path, key, step, **more)
    assert free(tmp_path, "r1", "--keep", "last", "--yes") == 0
    assert steps(run_dir) == stay
    said = "goes on" if key == "fork_from" else "starts"
    assert (f"stays: {stay[0]} (r9 (unstarted) {said} from it)" in capsys.readouterr().out) == (len(stay) > 1)


def test_what_has_its_own_or_is_over_needs_nothing(make: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = make(FOUR)
    done = dependant(tmp_path, "init_from", 10)
    make_attempt(done, 1, dead_process(), {"kind": "done"})
    fork = make({"step_20": 0.1}, run="r2", end="failed")
    record = json.loads((fork / "run.json").read_text())
    (fork / "run.json").write_text(json.dumps({**record, "fork_from": {"run": "name/r1", "step": 20, "path": "x"}}))
    assert free(tmp_path, "r1", "--keep", "last", "--yes") == 0
    assert steps(run_dir) == ["step_40"]


def test_a_run_that_is_launched_while_clean_asks_keeps_its_checkpoint(
    make: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    run_dir = make(FOUR)

    def confirm(question: str) -> bool:
        return bool(dependant(tmp_path, "init_from", 10))

    assert clean.clean(tmp_path, [runs.load(run_dir)], {"last"}, False, False, False, confirm) == 1
    assert steps(run_dir) == ["step_10", "step_40"]
    assert "step_10 stays: meanwhile r9 (unstarted) starts from it" in capsys.readouterr().err
