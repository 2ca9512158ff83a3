"""compare: the order of points at equal cost, how sure it is, other forms of it, and two runs side by side."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import results_case
from results_case import GROUPS, LRS, NAME, TARGET

from nano_exp.cli import main
from nano_exp.errors import UserError
from nano_exp.results import Results, certainty, load_results, pair, ranking_table
from nano_exp.results.ranking import rank

LR, GROUP = "optimizer.lr", "grpo.num_generations_per_prompt"


def test_points_are_ranked_by_their_mean_over_seeds(found: Results) -> None:
    made = rank(found)
    order = sorted(((TARGET[g][lr], g, lr) for g in GROUPS for lr in LRS), reverse=True)
    assert [(s.point.axes[GROUP], s.point.axes[LR]) for s in made.standings] == [(g, lr) for _, g, lr in order]
    first = made.standings[0]
    own = [sum(results_case.rewards(3e-6, 16, seed)[-10:]) / 10 for seed in results_case.SEEDS]
    assert [one.final for one in first.measured] == pytest.approx(own), "the last tenth of each run's values"
    assert first.mean == pytest.approx(sum(own) / 3)
    assert made.budget == 100
    assert not made.given


def test_a_run_that_did_not_come_so_far_is_not_counted_but_told(found: Results) -> None:
    short = {run.id: run.state for standing in rank(found).standings for run in standing.short}
    assert short == {"r0000000003": "cancelled", "r000000000f": "failed", "r0000000018": "lost"}
    assert not [s.short for s in rank(found, at="steps=25").standings if s.short], "all came to step 25"


def test_at_equal_gpu_hours_what_failed_and_was_repeated_counts(found: Results) -> None:
    made = rank(found, at="gpu-hours=5")
    steps = {one.run.id: one.step for standing in made.standings for one in standing.measured}
    whole = math.floor((5 * 3600 / 8 - results_case.SETUP_S) / results_case.STEP_S)
    assert steps["r0000000001"] == whole
    again = math.floor((5 * 3600 / 8 - 2 * results_case.SETUP_S - 370) / results_case.STEP_S)
    assert steps["r0000000014"] == again, "it failed at step 20, and went on from step 10"
    assert rank(found, at="tokens").standings[0].point.axes[GROUP] == 16


def test_intervals_and_p_are_those_of_scipy(found: Results) -> None:
    from scipy import stats

    first, second = rank(found).standings[:2]
    values = [[one.final for one in s.measured] for s in (first, second)]
    low, high = stats.t.interval(0.95, 2, stats.tmean(values[0]), stats.sem(values[0]))
    assert (first.interval.low, first.interval.high) == (pytest.approx(low), pytest.approx(high))
    test = stats.ttest_ind(*values, equal_var=False, alternative="greater")
    assert second.behind.p == pytest.approx(test.pvalue)
    assert (second.behind.low, second.behind.high) == pytest.approx(
        tuple(stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95))
    )


def test_many_seeds_are_bootstrapped_and_one_has_no_interval() -> None:
    many = certainty.interval([0.5 + 0.01 * number for number in range(12)])
    assert many is not None
    assert many.method == "bootstrap"
    assert many.low < 0.555 < many.high
    assert certainty.interval([0.5]) is None
    assert certainty.difference([0.5], [0.4, 0.3]) is None
    assert certainty.difference([0.5, 0.5], [0.4, 0.4]) is None, "nothing varies"


def test_without_scipy_the_order_is_there_and_what_to_install(found: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certainty, "there", lambda: False)
    said = ranking_table.words(rank(found))
    assert "pip install 'nano-exp[results]'" in said
    assert rank(found).standings[0].interval is None


def test_less_is_better_of_a_loss_and_what_is_not_finite_is_told(found: Results) -> None:
    made = rank(found, by="loss")
    assert (made.metric, made.highest, made.budget) == ("train/loss", False, 100)
    assert sum(made.nonfinite.values()) == 41 + 41 + 11
    assert [point.axes[LR] for point in made.unranked] == [3e-5], "what diverged has no value at step 100"
    assert "(2 done, not finite from step 60 on, 1 lost, not finite from step 60 on)" in ranking_table.words(made)
    assert "were NaN or infinite, and are left out" in ranking_table.words(made)
    assert rank(found, by="loss", lowest=False).highest


def test_one_seed_has_no_interval_and_says_what_adds_some(store: Path, slurm: None) -> None:
    words = ["r0000000001", "r0000000007", "r000000000a"]
    said = ranking_table.words(rank(load_results(store, words)))
    assert "with one seed nothing tells how much of it is chance" in said
    assert "grpo.seed=42,43,44" in said


def test_the_command_at_80_columns_and_as_data(
    store: Path, slurm: None, found: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--results", str(store)]
    assert main(["compare", NAME, *where, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["mean"]) for row in rows] == [s.mean for s in rank(found).standings], "in full precision"
    assert main(["compare", NAME, *where, "--json", "--by", "validation"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["metric"] == "validation/accuracy"
    assert whole["points"][0]["values"]["r000000000a"]["seed"] == 42
    assert main(["compare", NAME, *where, "--md"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| 16 | 3e-6 | 3 | 0.6438 |")
    assert main(["compare", NAME, *where, "--latex"]) == 0
    assert r"num\_generations\_per\_prompt & lr" in capsys.readouterr().out
    monkeypatch.setattr("nano_exp.text.terminal_width", lambda: 80)
    assert main(["compare", NAME, *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "r000000000f failed at step 30" in "\n".join(lines)


@pytest.mark.parametrize(
    ("words", "found", "fix"),
    [
        (["--by", "rewrd"], "--by rewrd", "--by reward"),
        (["--at", "gpuhours"], "--at gpuhours", "--at gpu-hours"),
        (["--at", "steps=none"], "--at steps=none", "--at steps=100, or --at steps"),
        (["--seeds", "sed"], "--seeds sed", "--seeds seed"),
    ],
)
def test_mistakes_are_answered_with_the_nearest(
    store: Path, slurm: None, capsys: pytest.CaptureFixture[str], words: list[str], found: str, fix: str
) -> None:
    assert main(["compare", NAME, "--results", str(store), *words]) == 2
    said = capsys.readouterr().err
    assert f"error: {found}" in said
    assert f"fix: {fix}" in said


def test_one_run_twice_is_no_comparison(store: Path, slurm: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "r0000000001", f"{NAME}/r0000000001", "--results", str(store)]) == 2
    assert "both words stand for the one run r0000000001" in capsys.readouterr().err


def test_what_cannot_be_ranked_is_an_error_with_a_way_on(store: Path, slurm: None) -> None:
    with pytest.raises(UserError, match="no step has been logged"):
        rank(load_results(store, ["other"]))
    with pytest.raises(UserError, match="no run and no name 'lr_swep'"):
        load_results(store, ["lr_swep"])


def test_damaged_rows_and_runs_are_told_and_harm_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_case.make(tmp_path, steps=10)
    monkeypatch.setenv("PATH", results_case.commands(tmp_path), prepend=":")
    runs = results / NAME
    metrics = runs / "r0000000001" / "metrics.jsonl"
    metrics.write_text("not a row\n" + metrics.read_text() + '{"step": 11, "tra')
    (runs / "r0000000002" / "run.json").write_text("{")
    (runs / "r0000000007" / "metrics.jsonl").unlink()
    made = rank(load_results(results, [NAME]))
    said = ranking_table.words(made)
    assert made.damaged == {"r0000000001": 1}, "a line that is being written is not damaged"
    assert "1 damaged lines of metrics.jsonl are left out: r0000000001 (1)" in said
    assert len(made.standings) >= 8
    assert "r0000000007 done without it" in said


def test_two_runs_are_compared_in_config_code_versions_and_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_case.make(tmp_path, steps=10)
    monkeypatch.setenv("PATH", results_case.commands(tmp_path), prepend=":")
    launches = results / ".launches"
    shutil.copytree(launches / results_case.LAUNCH, launches / "L2")
    (launches / "L2" / "code" / "nano_exp" / "trainer.py").write_text("EPSILON = 1e-6\n")
    manifest = json.loads((launches / "L2" / "manifest.json").read_text())
    (launches / "L2" / "manifest.json").write_text(json.dumps({**manifest, "versions": {"torch": "2.14.0"}}))
    event = next((results / NAME / "r0000000007" / "events").glob("*-submit-*"))
    event.write_text(event.read_text().replace(results_case.LAUNCH, "L2"))
    words = ["compare", "r0000000007", "r0000000001", "--results", str(results)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.split()[:2] == ["r0000000007", "r0000000001"], "as typed"
    assert "policy.optimizer.kwargs.lr  3e-06" in said
    assert "2.14.0" in said
    assert "-EPSILON = 1e-6" in said
    assert "+EPSILON = 1e-8" in said
    assert "reward (train/reward), steps to 10" in said
    assert any(bar in said for bar in "▂▃▄▅▆")
    assert main([*words, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert [row[0] for row in whole["curves"]["train/reward"]["r0000000001"]] == list(range(1, 11))
    assert main([*words, "--csv"]) == 2
    assert "--json" in capsys.readouterr().err


def test_what_differs_in_a_list_is_told_by_its_place() -> None:
    a = {"list": ([{"x": 1, "y": 2}, 3], [{"x": 1, "y": 5}, 3]), "other": ([1], [1, 2]), "k": (1, None)}
    assert pair._leaves(a) == {"list[0].y": (2, 5), "other": ([1], [1, 2]), "k": (1, None)}


def test_summary_says_what_is_done_best_spent_left_and_in_the_way(
    store: Path, slurm: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", NAME, "--results", str(store)]) == 0
    said = capsys.readouterr().out
    assert "21 of 24 done (21 done, 1 cancelled, 1 failed, 1 lost)" in said
    assert "num_generations_per_prompt=16 lr=3e-6: reward 0.6438" in said
    assert "199 GPU-hours, 189 useful, 10 wasted (8.0 failed, 0.82 trained again, 1.3 set up again)" in said
    assert "3 runs, 240 steps, about 19 GPU-hours" in said
    assert "1 failed, out of GPU memory in training: r000000000f; fix: policy.train_micro_batch_size=1" in said
    assert main(["summary", "other", "--results", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] is None
