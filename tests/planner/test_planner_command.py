"""`nano-exp plan` as it is typed: mistakes are answered in three parts, and --json is JSON and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nano_exp import cli

TWELVE = ["model=nano_12b", "cluster=1n8g"]


@pytest.mark.parametrize(
    ("words", "found", "fix"),
    [
        (["model=nano_12c", "cluster=1n8g"], "model=nano_12c", "model=nano_12b"),
        (["model=nano_12b", "cluster=9n8g"], "cluster=9n8g", "cluster="),
        (["model=nano_12b"], "has no recipe", "cluster=1n8g"),
        ([*TWELVE, "--gpu", "h100-81"], "GPU 'h100-81'", "--gpu h100-80"),
        ([*TWELVE, "cluster.gpus_per_node=0"], "cluster.gpus_per_node=0", "cluster=1n8g"),
        ([*TWELVE, "--max-length", "-5"], "--max-length -5", "--max-length"),
        ([*TWELVE, "--mean-length", "600"], "a mean length of 600 tokens", "--max-length"),
        ([*TWELVE, "--top", "0"], "--top 0", "--top 6"),
        ([*TWELVE, "--config", "nothing.json"], "cannot read nothing.json", "--config"),
        ([*TWELVE, "--plot", "plan.gif"], "--plot plan.gif", "--plot plan.png"),
        (["--calibrate", "nothing"], "nothing is no folder", "--calibrate"),
    ],
)
def test_a_mistake_is_answered_in_three_parts_and_leaves_nothing(
    words: list[str],
    found: str,
    fix: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", *words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    first, why, last = error.strip().splitlines()
    assert first.startswith("error: ")
    assert found in first
    assert why.startswith("  why: ")
    assert last.startswith("  fix: ")
    assert fix in last
    assert list(tmp_path.iterdir()) == []


def test_json_is_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *TWELVE, "--json", "--gpu", "b200"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["gpu"]["name"] == "b200-192"
    assert [one for one in data["layouts"] if one["published"]]
