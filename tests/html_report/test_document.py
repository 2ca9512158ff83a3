"""What a report says: numbers of the store, and nothing that could be taken for HTML."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import results_case

from nano_exp import cli
from nano_exp.html_report import document, page
from nano_exp.html_report.thinning import thinned
from nano_exp.results import load_results
from nano_exp.results.ranking import Ranking, rank


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_case.make(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ranking(store: Path) -> Ranking:
    return rank(load_results(store, ["lr_sweep"]))


@pytest.fixture(scope="module")
def content(ranking: Ranking, store: Path) -> dict[str, Any]:
    return document.document(ranking, store.parent / "report.html")


def test_the_points_are_the_rankings(ranking: Ranking, content: dict[str, Any]) -> None:
    means = [standing.mean for standing in ranking.standings]
    assert [point["mean"] for point in content["points"]] == means
    assert [point["rank"] for point in content["points"]] == list(range(1, len(means) + 1))
    assert sum(len(point["runs"]) for point in content["points"]) == len(content["runs"]) == 24


def test_curves_are_the_stores_values(ranking: Ranking, content: dict[str, Any]) -> None:
    reward = next(curve for curve in content["curves"] if curve["metric"] == "train/reward")
    for line in reward["lines"]:
        series = ranking.results.runs[line["run"]].metrics.series("reward")
        assert line["s"] == list(series.steps)
        assert line["y"] == pytest.approx(list(series.values), rel=1e-6)


def test_a_loss_that_was_nan_is_said_and_not_drawn(content: dict[str, Any]) -> None:
    loss = next(curve for curve in content["curves"] if curve["metric"] == "train/loss")
    assert re.match(r"\d+ values were NaN or infinite", loss["note"])
    assert all(value is not None for line in loss["lines"] for value in line["y"])


def test_failures_waste_and_how_to_make_a_run_again(content: dict[str, Any]) -> None:
    assert any(row["cause"] == "out of GPU memory in training" and row["remedy"] for row in content["failures"])
    wasted = [sum(row["parts"][1:]) for row in content["cost"]["rows"]]
    assert sum(wasted) == pytest.approx(sum(point["wasted"] for point in content["points"]))
    assert all(run["command"].startswith("python launch.py model=nano_12b cluster=1n8g") for run in content["runs"])


def test_runs_say_in_what_they_differ_from_the_best_one(content: dict[str, Any]) -> None:
    best = content["runs"][content["points"][0]["runs"][0]]
    group = best["values"].index(16)
    for run in content["runs"]:
        listed = [line for line in run["differs"] if line.startswith("grpo.num_generations_per_prompt")]
        assert listed == ([] if run["values"][group] == 16 else ["grpo.num_generations_per_prompt: 16 -> 8"])


def test_links_are_relative_and_lead_to_files(content: dict[str, Any], store: Path) -> None:
    links = [link["href"] for run in content["runs"] for link in run["links"]]
    assert links
    assert all((store.parent / href).exists() for href in links)


def test_warnings_of_the_launch_are_counted(store: Path, ranking: Ranking, tmp_path: Path) -> None:
    manifest = store / ".launches" / results_case.LAUNCH / "manifest.json"
    before = manifest.read_text()
    warned = {"rule": "memory_tight", "text": "GPU memory is tight", "points": 2}
    manifest.write_text(json.dumps({**json.loads(before), "warnings": [warned]}))
    try:
        found = document.document(ranking, tmp_path / "report.html")["warnings"]
    finally:
        manifest.write_text(before)
    assert found == [{"rule": "memory_tight", "text": "GPU memory is tight", "count": 2}]


def test_nothing_of_a_run_is_html(content: dict[str, Any]) -> None:
    name = "<script>alert(1)</script>"
    text = page.page({**content, "title": name})
    assert name not in text
    assert "<title>&lt;script&gt;" in text
    packed = re.search(r'id="data">([^<]*)<', text)
    assert packed
    assert json.loads(gzip.decompress(base64.b64decode(packed[1])))["title"] == name


def test_a_page_asks_no_network(content: dict[str, Any]) -> None:
    text = page.page(content)
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert len(text) < 6e6


@pytest.mark.parametrize("count", [0, 1, 399, 400, 401, 5000])
def test_a_thinned_curve_has_its_ends_and_its_extremes(count: int) -> None:
    values = [((i * 7919) % 1013) / 10 for i in range(count)]
    places = thinned(values, 400)
    assert places == sorted(set(places))
    assert len(places) == count if count <= 400 else len(places) <= 400
    drawn = [values[i] for i in places]
    if values:
        assert (drawn[0], drawn[-1], min(drawn), max(drawn)) == (values[0], values[-1], min(values), max(values))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-o", "{folder}"], "a report is one file"),
        (["-o", "{folder}/none/report.html"], "there is no folder"),
        (["-o", "{folder}/report.pdf"], "a report is one of .html"),
        (["-o", "{folder}/report.html", "--by", "rewrd"], "none of that name"),
        (["-o", "{folder}/report.html", "--every", "1"], "every 5 s at most"),
    ],
)
def test_mistakes_are_answered_and_nothing_is_written(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    given = [word.format(folder=tmp_path) for word in words]
    assert cli.main(["report", "lr_sweep", "--results", str(store), *given]) == 2
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
