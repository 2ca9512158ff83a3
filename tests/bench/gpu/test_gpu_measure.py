"""The measuring script: every case is a config that the engine takes, and every kind of measurement runs on a CPU."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import cases
import measure
import pytest
import tables
import torch

from nano_exp.engines.embedded import refusals
from nano_exp.layout import parameters


@cache
def base() -> dict[str, Any]:
    return cases.base_config()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("small", [False, True])
def test_every_case_is_a_config_that_the_engine_takes(small: bool) -> None:
    every = cases.all_cases(small)
    for case in every:
        assert not refusals.mistakes(cases.changed(base(), cases.COMMON | case.changes))
    assert len({(case.kind, case.name) for case in every}) == len(every)


def test_the_sizes_are_what_they_are_called() -> None:
    counts = {
        name: parameters.total(tables.run_of({"changes": changes}, base()).architecture).total
        for name, changes in cases.SIZES.items()
    }
    assert counts == {"10m": 11327936, "100m": 96869080, "1b": 950299264}


def test_each_kind_of_measurement_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {case.kind: case for case in reversed(cases.all_cases(small=True))}
    monkeypatch.setattr(cases, "all_cases", lambda small: list(first.values()))
    monkeypatch.setattr(cases, "base_config", base)
    out = tmp_path / "measured.jsonl"
    assert measure.main(["--device", "cpu", "--small", "--out", str(out)]) == 0
    found = {record["kind"]: record for record in records(out)}
    assert set(found) == {"machine", *first}
    assert found["machine"]["matmul_bf16_flops_per_s"] > 0 and found["machine"]["gpu"] is None
    assert set(found["speed"]["steps"][0]["phases"]) == {"generation", "logprobs", "reference", "training", "optimizer"}
    assert found["speed"]["steps"][0]["generated_tokens"] > 0
    assert set(found["peak"]["phases"]) == {"logprobs", "reference", "training", "optimizer"}
    assert set(found["rollout"]["phases"]) == {"generation"}
    assert [row["largest_logprob_difference"] < 1e-5 for row in found["parity"]["rows"]] == [True] * 5
    assert found["tiny"]["summary"]["steps"] == 2


def test_a_measurement_that_fails_costs_no_other_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "measured.jsonl"
    session = measure.Session(out, base(), torch.device("cpu"), 1000, tmp_path)

    def out_of_memory(changes: dict[str, Any]) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    session.measure("peak", "too large", {"policy.precision": "bfloat16"}, out_of_memory)
    session.measure("peak", "small", {}, lambda changes: {"phases": {}})
    session.ends = 0
    session.measure("peak", "late", {}, lambda changes: {"phases": {}})
    found = records(out)
    assert [record["kind"] for record in found] == ["failed", "peak", "left out"]
    assert found[0]["changes"] == {"policy.precision": "bfloat16"} and "out of memory" in found[0]["why"]


def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    out = tmp_path / "measured.jsonl"
    assert measure.main(["--out", str(out)]) == 2
    assert "sees no CUDA device" in capsys.readouterr().err and not out.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nowhere" / "measured.jsonl"
    assert measure.main(["--device", "cpu", "--small", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert str(out) in said and "--out measured.jsonl" in said
