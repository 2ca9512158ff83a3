"""How runs that share allocations are dealt, what is asked for them, and which cannot be packed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from core_case import Answer, frozen, standin

from nano_exp.errors import UserError
from nano_exp.launch import allocation, batch_script, convergence, job_arrays, machine, packing, shared_cost, staging
from nano_exp.launch.packing import Pack
from nano_exp.launch.terms import Terms
from nano_exp.preflight import answers
from nano_exp.store import packed

SMALL = ("cluster.gpus_per_node=1", "slurm.cpus_per_node=2", "site.allocation=share")
TINY = ("model=nano_tiny", "cluster=1n1g", "site.allocation=share", f"site.python={sys.executable}")
NODES = answers.parse_nodes("batch*|up|infinite|1-infinite|4|64|gpu:8|idle|NO|2048000\n")


@pytest.mark.parametrize(
    ("terms", "counts", "dealt"),
    [
        (Terms(), [5], [None]),
        (Terms(pack=4), [16], [Pack(4, 4)]),
        (Terms(pack=4), [5, 2], [Pack(3, 2), Pack(2, 1)]),
        (Terms(pack=4), [1], [None]),
        (Terms(pack=4, parallel=4), [16], [Pack(4, 1)]),
        (Terms(pack=4, parallel=11), [16], [Pack(4, 2)]),
        (Terms(pack=4, parallel=100), [16], [Pack(4, 4)]),
        (Terms(pack=4, parallel=2), [16], [Pack(2, 1)]),
        (Terms(pack=4, parallel=4), [16, 16], [Pack(4, 1), Pack(4, 1, behind=0)]),
    ],
)
def test_runs_are_dealt(terms: Terms, counts: list[int], dealt: list[Pack | None]) -> None:
    assert packing.deal(terms, counts) == dealt


def test_a_task_has_its_part_of_the_runs() -> None:
    entry = {"runs": list("abcde"), "pack": {"slots": 2, "allocations": 2}}
    assert packed.tasks(entry) == 2
    assert [packed.members(entry, task) for task in (0, 1)] == [[(0, "a"), (2, "c"), (4, "e")], [(1, "b"), (3, "d")]]
    assert packed.members({"runs": list("ab")}, 1) == [(1, "b")]


def test_an_allocation_is_as_large_as_its_slots(tmp_path: Path) -> None:
    configs = [frozen(tmp_path, *standin(), *SMALL, f"grpo.seed={seed}") for seed in range(5)]
    rows = convergence.make(configs, False, Answer([])).rows
    launch = job_arrays.arrange(rows, "L", tmp_path / "results", Terms(pack=2, parallel=4))
    (array,) = launch.arrays
    array.job = "12"
    assert [array.job_of(index) for index in range(5)] == ["12_0", "12_1", "12_0", "12_1", "12_0"]
    text = batch_script.script(launch, array, {})
    assert "#SBATCH --array=0-1%" in text
    assert "#SBATCH --gpus-per-node=2\n" in text and "#SBATCH --cpus-per-task=4\n" in text
    entry = staging._entry(array)
    assert (entry["shape"]["gpus_per_node"], entry["pack"]) == (1, {"slots": 2, "allocations": 2, "behind": None})


def test_an_allocation_is_counted_once_for_all_its_runs(tmp_path: Path) -> None:
    configs = [frozen(tmp_path, *standin(), *SMALL, f"grpo.seed={seed}").config for seed in range(5)]

    def line(**terms: int) -> str:
        return shared_cost.cost(configs, {"timeout_min": 240}, Terms(**terms)).lines()[0]

    assert line() == "one allocation each, to its time limit: 4.0 GPU-hours a run, 20 in all"
    assert line(pack=4) == "2 allocations, to their time limit: 12 GPU-hours each, 24 in all"
    assert line(pack=4, parallel=4) == "one allocation for all, to its time limit: 16 GPU-hours"


@pytest.mark.parametrize(
    ("points", "found", "fix"),
    [
        ([["cluster.num_nodes=2", *SMALL]], "2 x 1 GPUs", packing.ALONE),
        ([["cluster.gpus_per_node=1"]], "their nodes alone", "site.allocation=share"),
        ([[*SMALL], [*SMALL, "slurm.cpus_per_node=3"]], "beside runs of", "one launch for each shape"),
        ([[*SMALL, "site.entry=pyxis"]], "site.entry=pyxis", packing.ALONE),
        ([["cluster.gpus_per_node=3", "site.allocation=share"]], "runs of 3 GPUs", "pack=2"),
        ([["cluster.gpus_per_node=8", "site.allocation=share"]], "runs of 8 GPUs", packing.ALONE),
    ],
)
def test_what_cannot_share_a_node_is_refused(
    tmp_path: Path, points: list[list[str]], found: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "_nodes", lambda: NODES)
    configs = [frozen(tmp_path, *standin(), *point).config for point in points]
    with pytest.raises(UserError) as caught:
        packing.require(Terms(pack=4), configs, {})
    assert found in caught.value.found and caught.value.fix.startswith(fix)
    packing.require(Terms(), configs, {})


def test_this_machine_shares_out_the_gpus_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = frozen(tmp_path, *standin(), "cluster.gpus_per_node=2").config
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,5,6")
    packing.require(Terms(pack=2), [config], {}, "local")
    with pytest.raises(UserError, match="this machine shows 4") as caught:
        packing.require(Terms(pack=3), [config], {}, "local")
    assert caught.value.fix == "pack=2"
    places = machine.Places(2, 2, ["nemo_rl"])
    first, second = places.take(0), places.take(1)
    assert (first.gpus, second.gpus) == (("0", "1"), ("5", "6")) and first.ports != second.ports
    places.give_back(0)
    assert places.take(7) == first


def test_more_runs_of_nemo_rl_than_have_ports_are_refused(tmp_path: Path) -> None:
    config = frozen(tmp_path, *standin(), *SMALL).config
    with pytest.raises(UserError, match="ports of their own") as caught:
        packing.require(Terms(pack=18), [config], {})
    assert caught.value.fix == "pack=17"


def test_what_can_share_a_node_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_nodes", lambda: NODES)
    for point in (TINY, [*standin(), *SMALL]):
        packing.require(Terms(pack=8), [frozen(tmp_path, *point).config], {"partition": "batch"})
