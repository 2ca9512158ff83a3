"""`nano_exp.load`: runs for scripts, on folders made by hand; the documentation's example is run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import results_case
from core_case import ROOT, dead_process, environment, make_attempt, make_run
from pace import limit

import nano_exp
from nano_exp import api
from nano_exp.errors import UserError


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two done runs, one of them the baseline, and a failed one of one name, and another name."""
    results = tmp_path / "results"
    for number, (kind, lr) in enumerate((("done", "1e-6"), ("done", ""), ("failed", "1e-5"))):
        config = {"grpo": {"num_generations_per_prompt": 8}, "optimizer": {"lr": 5e-6}}
        record = {"overrides": ["model=nano_12b", *([f"optimizer.lr={lr}"] if lr else [])], "max_steps": 2}
        folder = make_run(results, name="nano_12b", run=f"r{number}", record=record, config=config)
        made = make_attempt(folder, 1, dead_process(), {"kind": kind, "why": "", "seconds": 3600})
        (made / "stderr.log").write_text("a word\n")
        rows = [
            {"step": 1, "time": 1.0, "train/reward": 0.1},
            {"step": 2, "time": 2.0, "train/reward": 0.1 * (number + 2)},
            {"step": 2, "time": 3.0, "validation/accuracy": 0.5},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "tra')
    make_run(results, name="other", run="r9")
    return results


def test_a_results_folder_a_name_and_a_run_are_loaded(results: Path) -> None:
    assert [run.id for run in nano_exp.load(results)] == ["r0", "r1", "r2", "r9"]
    assert [run.id for run in nano_exp.load(results / "nano_12b")] == ["r0", "r1", "r2"]
    assert [run.id for run in nano_exp.load(str(results / "nano_12b" / "r1"))] == ["r1"]


def test_a_run_has_what_status_has(results: Path) -> None:
    run = nano_exp.load(results)["r1"]
    assert (run.state, run.step, run.max_steps, run.validation_accuracy) == ("done", 2, 2, 0.5)
    assert run.config["grpo"]["num_generations_per_prompt"] == 8
    assert run.log("stderr.log") == "a word\n"
    assert run.log("nothing.log") == ""
    assert repr(run) == "<run nano_12b/r1 done 2/2>"
    with pytest.raises(AttributeError):
        run.nothing  # noqa: B018


def test_metrics_have_one_row_a_step_and_no_half_line(results: Path) -> None:
    assert nano_exp.load(results)["r0"].metrics() == [
        {"step": 1, "time": 1.0, "train/reward": 0.1},
        {"step": 2, "time": 3.0, "train/reward": 0.2, "validation/accuracy": 0.5},
    ]
    assert nano_exp.load(results)["r9"].metrics() == []


def test_the_table_has_the_values_that_tell_runs_apart(results: Path) -> None:
    rows = nano_exp.load(results / "nano_12b").table()
    assert [row["optimizer.lr"] for row in rows] == [1e-6, 5e-6, 1e-5]
    assert all("model" not in row for row in rows), "all have the same"
    assert all(not isinstance(value, list | dict) for row in rows for value in row.values()), "columns of a data frame"


def test_runs_are_chosen_by_state_position_and_first_letters(results: Path) -> None:
    runs = nano_exp.load(results)
    assert [run.id for run in runs.where("done", "failed")] == ["r0", "r1", "r2"]
    assert [run.id for run in runs[1:3]] == ["r1", "r2"]
    assert runs[-1].id == "r9"
    assert len(runs) == 4
    with pytest.raises(KeyError, match="4 runs begin with r"):
        runs["r"]
    with pytest.raises(UserError, match="--state dne"):
        runs.where("dne")


def test_no_runs_are_an_error_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        nano_exp.load(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in caught.value.found


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)


def test_the_documented_basics_run_without_pandas(tmp_path: Path) -> None:
    results_case.make(tmp_path)
    code = "\n".join(blocks()[:4])
    code += "\nimport sys\nassert not {'pandas', 'polars', 'torch', 'wandb', 'hydra'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PATH=f"{results_case.commands(tmp_path)}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
        timeout=limit(60),
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("r000000000f failed out of GPU memory in training 30/100 0.4")
    assert said[1].startswith("r0000000018 lost")
    assert said[2].startswith(
        "r000000000c {'grpo.num_generations_per_prompt': 16, 'grpo.seed': 44, 'optimizer.lr': 3e-06} 16"
    )
    assert "(100, 0.6" in said[3]
    assert "[(1e-06, 0.4" in said[5]
    assert said[6] == "('grpo.num_generations_per_prompt', 'optimizer.lr') {'model': 'nano_12b', 'cluster': '1n8g'}"
    assert "num_generations_per_prompt=16 lr=1e-6 (42, 43, 44) ['done', 'done', 'done']" in said
    assert "{'grpo.num_generations_per_prompt': 16, 'optimizer.lr': 3e-06} 0.57" in done.stdout


def test_the_whole_page_runs_with_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    pytest.importorskip("matplotlib").use("Agg")
    results_case.make(tmp_path)
    monkeypatch.setenv("PATH", results_case.commands(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks()), "docs/api.md", "exec"), {})
    assert "mean       std  count" in capsys.readouterr().out
    written, shown = (tmp_path / "validation.png").read_bytes(), ROOT / "docs" / "pictures" / "validation.png"
    assert written.startswith(b"\x89PNG")
    assert len(written) == pytest.approx(shown.stat().st_size, rel=0.5), "the page shows this picture"


def test_points_and_a_ranking_of_chosen_runs_are_those_of_the_command(tmp_path: Path) -> None:
    results_case.make(tmp_path, steps=10)
    runs = nano_exp.load(tmp_path / "results" / "lr_sweep")
    assert [point.seeds for point in runs.results().points] == [(42, 43, 44)] * 8
    assert len(runs.results(seeds="lr").points) == 6
    assert len(runs.where("done").compare().standings) == 8
    assert len(runs[:3].compare().standings) == 1
    with pytest.raises(UserError, match="--seeds lrr"):
        runs.results(seeds="lrr")


def test_frames_are_of_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results_case.make(tmp_path, steps=10)
    runs = nano_exp.load(tmp_path / "results" / "lr_sweep")
    have = {name for name in ("pandas", "polars") if importlib.util.find_spec(name)}
    for name in have:
        monkeypatch.setattr(api, "find_spec", lambda wanted, name=name: wanted == name)
        assert type(runs.frame()).__module__.startswith(name)
        assert len(runs[0].frame()) == 10
        assert "validation/accuracy" in runs[0].frame().columns
    monkeypatch.setattr(api, "find_spec", lambda wanted: None)
    with pytest.raises(UserError, match="without pandas and without polars"):
        runs.frame()
