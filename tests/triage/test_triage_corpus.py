"""Every log of the corpus gets its cause: written after the formats seen in public threads, with noise around."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nano_exp.triage import Diagnosis, Evidence, SlurmRecord, causes, diagnose
from nano_exp.triage.vocabulary import PHASES

CORPUS = Path(__file__).parent / "corpus"
RECIPES = Path(__file__).parents[1] / "recipes" / "expected" / "v0.7.0"
CASES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
#: Causes that Slurm's record or the exit code alone shows are tested in test_triage_rules.py too.
CONFIGS: dict[str, Any] = {}


def evidence(name: str, **other: Any) -> Evidence:
    """A case's evidence; `other` replaces fields."""
    folder = CORPUS / name
    said = yaml.safe_load((folder / "expected.yaml").read_text())["evidence"]
    config = said.pop("config", {})
    if isinstance(config, str):
        if config not in CONFIGS:
            CONFIGS[config] = json.loads((RECIPES / f"{config}.json").read_text())
        config = CONFIGS[config]
    if slurm := said.pop("slurm", None):
        said["slurm"] = SlurmRecord.of(**slurm)
    fields = {
        "stdout": (folder / "stdout.log").read_text(),
        "stderr": (folder / "stderr.log").read_text(),
        "node_logs": {p.stem.removeprefix("node-"): p.read_text() for p in sorted(folder.glob("node-*.log"))},
        "config": config,
        **said,
    }
    return Evidence(**{**fields, **other})


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CORPUS / name / "expected.yaml").read_text())["expect"]
    return found


@pytest.mark.parametrize("name", CASES)
def test_cause(name: str) -> None:
    want = expected(name)
    found = diagnose(evidence(name))
    assert found.cause == want["cause"], found
    for key in ("phase", "rank", "node", "fault", "bad_node"):
        if key in want:
            assert getattr(found, key) == want[key], (key, found)
    for words in want.get("title", []):
        assert words in found.title
    for words in want.get("remedy", []):
        assert words in found.remedy
    for words in want.get("not_remedy", []):
        assert words not in found.remedy
    for words in want.get("line", []):
        assert any(words in line for line in found.lines), found.lines
    for words in want.get("not_line", []):
        assert not any(words in line for line in found.lines), found.lines
    well_formed(found)


def well_formed(found: Diagnosis) -> None:
    assert found.cause in causes()
    assert found.phase in PHASES
    assert len(found.lines) <= 8
    assert "\n" not in found.title + found.remedy
    assert not found.bad_node or found.fault == "infrastructure"
    assert json.loads(json.dumps(found.as_dict()))["lines"] == list(found.lines)


def test_every_cause_has_a_case() -> None:
    shown = {expected(name)["cause"] for name in CASES}
    assert set(causes()) - shown == set()


def test_the_end_of_a_log_is_enough() -> None:
    """The caller may give tails: where the deciding lines are in them, so is the cause."""
    for name in CASES:
        whole = evidence(name)
        found = diagnose(whole)
        if not found.lines:
            continue
        at = max(whole.stderr.find(found.lines[0]), 0)
        cut = whole.stderr[max(at - 3000, 0) :].partition("\n")[2] if at > 3000 else whole.stderr
        assert diagnose(evidence(name, stderr=cut)).cause == found.cause, name
