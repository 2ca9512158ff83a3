"""Results as data: points over seeds, what they cost, metrics by words; on a synthetic store."""

from __future__ import annotations

import pytest
import results_case

from nano_exp.errors import UserError
from nano_exp.results import NAMES, Results, metric_name


def test_points_are_runs_over_seeds_in_sweep_order_and_the_baseline_has_its_axes(found: Results) -> None:
    assert found.axes == ("grpo.num_generations_per_prompt", "optimizer.lr")
    assert [tuple(point.axes.values()) for point in found.points[:3]] == [(8, 1e-6), (16, 1e-6), (8, 3e-6)]
    assert all(point.seeds == results_case.SEEDS for point in found.points)
    assert found.points[4].label == "num_generations_per_prompt=8 lr=1e-5", "typed by none of its runs"
    assert found.held == {"model": "nano_12b", "cluster": "1n8g"}


def test_states_and_costs_are_those_of_what_happened(found: Results) -> None:
    by_place = {(*run.axes.values(), run.seed): run for run in found.runs}
    whole = 8 * (300 + 100 * 36 + 10) / 3600
    done = by_place[8, 1e-6, 42].cost
    assert (done.gpu_hours, done.wasted_gpu_hours) == (pytest.approx(whole), 0)
    requeued = by_place[16, 1e-6, 43].cost
    assert requeued.repeated == pytest.approx(10 * 36 + 10), "ten steps after the checkpoint, and its end"
    assert requeued.requeued == pytest.approx(300), "the second set-up"
    assert requeued.useful == pytest.approx(done.seconds)
    failed = by_place[8, 1e-5, 44]
    assert (failed.state, failed.cost.failed) == ("failed", pytest.approx(10 * 36 + 10))
    assert by_place[16, 3e-5, 44].state == "lost"
    assert by_place[16, 3e-5, 44].cost.useful == pytest.approx(0), "no checkpoint that is known of"
    assert by_place[8, 3e-5, 43].cost.failed == pytest.approx(10 * 36 + 10)


def test_metrics_by_word_and_what_they_had_cost(found: Results) -> None:
    metrics = found.runs[0].metrics
    assert metrics.series("reward").values == tuple(results_case.rewards(1e-6, 8, 42))
    assert metrics.series("validation").steps == tuple(range(10, 101, 10))
    assert metrics.until("tokens")[100] == 100 * 8000
    assert metrics.until("gpu-hours")[1] == pytest.approx(8 * 336 / 3600)
    diverged = found.points[-1].runs[0].metrics.series("loss")
    assert (len(diverged), diverged.nonfinite[0]) == (59, 60)


def test_a_metric_that_there_is_not_is_answered_with_the_nearest(found: Results) -> None:
    names = found.metric_names
    assert metric_name("kl_penalty", names) == "train/kl_penalty"
    with pytest.raises(UserError, match="rewrd") as caught:
        metric_name("rewrd", names)
    assert caught.value.fix == "--by reward"


def test_the_embedded_engine_logs_what_the_words_stand_for() -> None:
    from nano_exp.engines.embedded.settings import TRAIN_METRICS, VALIDATION_METRICS

    logged = {f"train/{name}" for name in TRAIN_METRICS} | {f"validation/{name}" for name in VALIDATION_METRICS}
    assert {name for name in NAMES.values() if not name.startswith("timing/")} <= logged
