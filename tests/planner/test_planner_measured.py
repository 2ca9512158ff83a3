"""The estimates beside peaks that were measured on an H200 (measured_h200.json, docs/planner.md)."""

from __future__ import annotations

import pytest
from measured import DATA, H200, Seen, job, seen

from nano_exp.planner import gpus, phase_memory
from nano_exp.planner.ranges import GIB

CALIBRATED = gpus.constants(H200.name)
#: More than 10% off, and by how much: a small run of which nothing is on the GPU but what comes and goes; a hybrid of
#: 0.08 B parameters.
FARTHER = {("c14", "train"): 0.15, ("c31", "logprob"): 0.13}


def named(one: Seen) -> str:
    return f"{one.run}, {one.phase}: measured {one.measured}, estimated {one.estimate}"


def test_no_measured_peak_is_outside_of_the_estimate() -> None:
    for constants in (CALIBRATED, gpus.assumed()):
        found = list(seen(constants))
        assert len(found) == 96
        assert not [named(one) for one in found if not one.estimate.low <= one.measured <= one.estimate.high]


def test_the_calibrated_estimate_is_within_10_percent_of_what_was_measured() -> None:
    far = {(one.run, one.phase): abs(one.off) for one in seen(CALIBRATED) if abs(one.off) > 0.1}
    assert far.keys() == FARTHER.keys()
    assert all(far[key] < most for key, most in FARTHER.items())


def test_what_was_not_calibrated_is_within_16_percent() -> None:
    assert not [named(one) for one in seen(gpus.assumed()) if abs(one.off) > 0.16]


@pytest.mark.parametrize("run", DATA["runs"], ids=lambda run: run["run"])
def test_the_parts_of_the_machine_are_within_their_constants(run: dict[str, float]) -> None:
    constants = gpus.assumed()
    context = constants.context_gib if run["world"] == 1 else constants.context_gib.plus(constants.nccl_gib)
    assert context.low <= run["context"] <= context.high
    assert constants.vllm_asleep_gib.low <= run["asleep"] <= constants.vllm_asleep_gib.high
    assert run["vllm"] <= constants.vllm_overhead_gib.high


def test_cached_blocks_never_fill_a_gpu() -> None:
    """Torch gives them back before it fails: with a smaller GPU they are as much smaller."""
    run = next(run for run in DATA["runs"] if run["run"] == "c15")
    small = gpus.Gpu(**{**vars(H200), "gib": 48.0})
    cached = []
    for device in (H200, small):
        train = next(p for p in phase_memory.phases(job(run), device, CALIBRATED) if p.name == phase_memory.TRAIN)
        cached.append(next(term.size for term in train.terms if term.name == "cached blocks"))
    assert 0 < cached[1].expected < cached[0].expected
    assert train.size.expected == pytest.approx(0.92 * 48 * GIB)
