"""`nano-exp plot`: each kind draws the ranking's numbers, in each format."""

from __future__ import annotations

from pathlib import Path

import pytest
import results_case

from nano_exp import cli
from nano_exp.figures import draw
from nano_exp.results import load_results
from nano_exp.results.charts import CHARTS
from nano_exp.results.ranking import Ranking, rank

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_case.make(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ranking(store: Path) -> Ranking:
    return rank(load_results(store, ["lr_sweep"]))


def test_bars_are_the_means(ranking: Ranking) -> None:
    place = draw.bars(ranking).axes[0]
    assert [bar.get_width() for bar in place.patches] == [standing.mean for standing in ranking.standings]


def test_the_heat_map_frames_the_best_cell(ranking: Ranking) -> None:
    place = draw.heatmap(ranking).axes[0]
    (frame,) = place.patches
    column, row = round(frame.get_x() + 0.49), round(frame.get_y() + 0.48)
    best = ranking.standings[0].point.axes
    labels = place.get_xticklabels()[column].get_text(), place.get_yticklabels()[row].get_text()
    assert labels == ("3e-6", "16")
    assert (best["optimizer.lr"], best["grpo.num_generations_per_prompt"]) == (3e-6, 16)


def test_a_curve_is_the_mean_of_its_runs(ranking: Ranking) -> None:
    place = draw.curves(ranking, CHARTS[:1]).axes[0]
    runs = ranking.standings[0].point.runs
    mean = [sum(values) / 3 for values in zip(*(run.metrics.series("reward").values for run in runs), strict=True)]
    assert list(place.lines[0].get_ydata()) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("curves", "svg"), ("heatmap", "pdf"), ("bars", "png"), ("phases", "svg")]
)
def test_each_kind_is_written(store: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    output = tmp_path / f"picture.{suffix}"
    assert cli.main(["plot", "lr_sweep", "--results", str(store), "--kind", kind, "-o", str(output)]) == 0
    head = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix]
    assert output.read_bytes().startswith(head)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["other", "-o", "{folder}/a.svg", "--kind", "bars"], "no step has been logged"),
        (["lr_sweep", "-o", "{folder}/a.jpeg"], "it ends in .jpeg"),
        (["lr_sweep", "-o", "{folder}/a"], "it has no ending"),
        (["lr_sweep", "-o", "{folder}/none/a.svg"], "there is no folder"),
        (["lr_sweep", "-o", "{folder}/a.svg", "--metric", "rewrd"], "none of that name"),
    ],
)
def test_mistakes_are_answered_and_nothing_is_written(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    given = [word.format(folder=tmp_path) for word in words]
    assert cli.main(["plot", "--results", str(store), *given]) == 2
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
