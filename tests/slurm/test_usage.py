"""sacct's lines of what jobs took: each start of one, GPUs, energy; a number that is used again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import results_case

from nano_exp.job import attempt
from nano_exp.results import load_results
from nano_exp.slurm import Usage, parse_usage

BEGAN = int(results_case.BEGAN)
TRES = "billing=64,cpu=64,gres/gpu:h100=8,gres/gpu=8,mem=1T,node=1"


def test_each_start_of_a_job_has_its_times_gpus_and_the_energy_of_its_longest_step() -> None:
    lines = [
        f"12_0|100|160|{TRES}|0",
        "12_0.batch|100|160|cpu=64,mem=1T,node=1|7000",
        "12_0.0|110|150|cpu=64,mem=1T,node=1|5000",
        f"12_0|300|Unknown|{TRES}|",
        "12_1|Unknown|Unknown||",  # it waits
        "13|100|200|cpu=1,node=1|18446744073709551614",  # what Slurm says where it cannot measure
        "damaged",
    ]
    assert parse_usage("\n".join(lines)) == [
        Usage("12_0", 100.0, 160.0, 8, 7000.0),
        Usage("12_0", 300.0, None, 8),
        Usage("13", 100.0, 200.0, None),
    ]


def test_costs_are_those_of_accounting_where_it_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = results_case.make(tmp_path, steps=10)
    requeued = load_results(store, ["r0000000005"], accounting=False).runs[0]
    first, second = requeued.spells
    lines = [
        f"{results_case.JOB}_4|{int(first.began) - 3}|{int(first.ended) + 1}|{TRES}|",
        f"{results_case.JOB}_4.batch|{int(first.began) - 3}|{int(first.ended) + 1}||3600000",
        f"{results_case.JOB}_4|{int(second.began) - 2}|{int(second.ended)}|{TRES}|",
        f"{results_case.JOB}_5|100|200|{TRES}|",  # the number's job of other days
    ]
    commands = results_case.commands(tmp_path, accounting="".join(f"{line}\n" for line in lines))
    monkeypatch.setenv("PATH", commands, prepend=":")
    run = load_results(store, ["r0000000005"]).runs[0]
    assert [spell.seconds for spell in run.spells] == [first.seconds + 4, second.seconds + 2]
    assert (run.cost.source, run.cost.energy_j) == ("sacct", 3.6e6)
    assert run.cost.gpu_hours == pytest.approx(8 * (first.seconds + second.seconds + 6) / 3600)
    other = load_results(store, ["r0000000006"]).runs[0]
    assert (other.cost.source, other.cost.energy_j) == ("files", None)


def test_an_allocation_counts_from_its_start_in_status_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = results_case.make(tmp_path, steps=10)
    event = next((store / results_case.NAME / "r0000000001" / "events").glob("*-start-*"))
    text = event.read_text()
    monkeypatch.setenv("PATH", results_case.commands(tmp_path), prepend=":")
    before = load_results(store, ["r0000000001"]).runs[0]
    event.write_text(text.replace('"attempt": 1', f'"attempt": 1, "allocated": {before.spells[0].began - 9}'))
    later = load_results(store, ["r0000000001"]).runs[0]
    assert later.cost.seconds == before.cost.seconds + 9
    assert later.line.gpu_hours == pytest.approx(later.cost.gpu_hours), "status has the same number"


def test_a_start_is_counted_from_slurms_word_or_from_the_batch_scripts_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setenv("SLURM_JOB_START_TIME", "100")
    assert attempt.allocated(now) == 100
    monkeypatch.setenv("SLURM_JOB_START_TIME", str(int(now) + 3600))
    assert attempt.allocated(now) is None, "no time to come"
    monkeypatch.delenv("SLURM_JOB_START_TIME")
    began = attempt.allocated(now)
    assert began is not None
    assert now - attempt.MOST_SETUP_S < began <= now
