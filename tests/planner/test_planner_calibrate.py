"""Fitting constants to peaks: those that made the peaks are found again, and what was not seen stays as assumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core_case import make_run
from planner_case import CONSTANTS, H100, config, read

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.planner import calibrate, gpus
from nano_exp.planner.calibrate import Peak

NAMES = gpus.NAMES


def values(**changed: float) -> list[float]:
    return [changed.get(name, getattr(CONSTANTS, name).expected) for name in NAMES]


def peaks(truth: list[float]) -> list[Peak]:
    """What runs would record whose memory follows `truth` exactly."""
    jobs = [
        read("model=nano_12b", "cluster=1n8g"),
        read("model=nano_12b", "cluster=1n8g", "policy.train_micro_batch_size=16", "policy.logprob_batch_size=16"),
        read("model=nano_12b", "cluster=1n8g", "policy.max_total_sequence_length=4096"),
        read("model=nano_9b", "cluster=1n8g"),
    ]
    empty = [Peak(job, phase, 0.0, "made") for job in jobs for phase in ("generation", "logprob", "train")]
    return [Peak(p.job, p.phase, calibrate.expected(p, H100, truth), p.source) for p in empty]


def test_constants_that_made_the_peaks_are_found_again() -> None:
    truth = {"activation_scale": 1.2, "vllm_beyond_gib": 1.6}
    made = calibrate.fit(peaks(values(**truth)), H100, CONSTANTS)
    assert made.constants["activation_scale"].expected == pytest.approx(1.2, abs=0.05)
    assert made.constants["vllm_beyond_gib"].expected == pytest.approx(1.6, abs=0.5)
    assert made.after < 0.3 < made.before
    assert "expert_imbalance" not in made.constants  # none of these models has experts
    for learned in made.constants.values():
        assert 0 <= learned.low <= learned.expected <= learned.high


def test_what_is_learned_is_narrower_than_what_was_assumed() -> None:
    made = calibrate.fit(peaks(values()), H100, CONSTANTS)
    assert made.before == made.after == pytest.approx(0, abs=1e-6)
    for name, learned in made.constants.items():
        assumed = getattr(CONSTANTS, name)
        assert learned.expected == pytest.approx(assumed.expected, abs=1e-6)
        assert learned.high - learned.expected <= (assumed.high - assumed.low) / 2


def test_the_inverse_times_the_matrix_is_one() -> None:
    matrix = [[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]]
    inverse = calibrate.inverse(matrix)
    for i in range(3):
        row = [sum(matrix[i][k] * inverse[k][j] for k in range(3)) for j in range(3)]
        assert row == pytest.approx([float(i == j) for j in range(3)])


RECORD = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "total_mib": 81559,
    "gib": {"generation": [51.0, 52.5], "train": [30.0, 31.5], "logprob": [8.0, 8.2], "checkpoint": [3.0, 3.0]},
}


def recorded(results: Path, run: str, record: Any, *overrides: str) -> None:
    chosen = overrides or ("model=nano_12b", "cluster=1n8g")
    attempt = make_run(results, run=run, config=config(*chosen)) / "attempts" / "1"
    attempt.mkdir(parents=True)
    (attempt / "peaks.json").write_text(record if isinstance(record, str) else json.dumps(record))


def test_peaks_of_runs_become_a_calibration_that_the_planner_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "CALIBRATION", tmp_path / "calibration")
    results = tmp_path / "results"
    recorded(results, "r0000000001", RECORD)
    recorded(results, "r0000000002", "{")
    recorded(results, "r0000000003", {**RECORD, "gpu": "Tesla T4"})
    recorded(results, "r0000000004", {"gpu": "NVIDIA H100 80GB HBM3"})
    (tmp_path / "calibration").mkdir()
    measured = (
        "sources: [somewhere]\nconstants: {expert_imbalance: [1.1, 1.1, 1.1], gone: [1, 1, 1], fragments: [0, 0, 0]}\n"
    )
    (tmp_path / "calibration" / "h100-80.yaml").write_text(measured)
    said = calibrate.run(results, None)
    assert "h100-80: 3 peaks" in said
    for run, why in (("2", "not JSON"), ("3", "Tesla T4"), ("4", "total_mib")):
        assert any(f"r000000000{run}" in line and why in line for line in said.splitlines()), said
    written = files.read_yaml(tmp_path / "calibration" / "h100-80.yaml")
    assert written["sources"] == ["r0000000001, attempt 1", "somewhere"]
    assert written["observations"] == 3
    assert written["constants"]["expert_imbalance"] == [1.1, 1.1, 1.1]  # nothing was said about it: it stays
    assert "expert_imbalance" in written["kept_from_before"]
    assert "gone" not in written["constants"], "a constant that there is no more"
    gpus.constants.cache_clear()
    try:
        assert gpus.constants("h100-80") != gpus.assumed()
        assert gpus.constants("h200-141") == gpus.assumed()
    finally:
        gpus.constants.cache_clear()


def test_nothing_to_fit_is_said_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        calibrate.run(tmp_path / "nothing", None)
    with pytest.raises(UserError, match="no recorded peaks") as caught:
        calibrate.run(tmp_path, None)
    assert "nvidia-smi" in caught.value.why
    recorded(tmp_path, "r0000000003", {**RECORD, "gpu": "Tesla T4"})
    with pytest.raises(UserError, match="no recorded peaks") as caught:
        calibrate.run(tmp_path, "h100-80")
    assert "Tesla T4" in caught.value.why
