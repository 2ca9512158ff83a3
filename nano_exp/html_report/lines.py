"""The curves of a report, thinned: for each chart the lines of the runs that have its metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nano_exp.html_report.thinning import knots, thinned
from nano_exp.results.charts import Chart, charts
from nano_exp.results.model import Run


def curves(runs: Sequence[Run], extra: Iterable[str] = ()) -> list[dict[str, Any]]:
    """One entry a chart that any run has values for.

    Parameters
    ----------
    extra: names of further metrics to draw, after those of charts.CHARTS
    """
    return [curve for chart in charts([*extra, *_evaluations(runs)]) if (curve := _curve(chart, runs))]


def _evaluations(runs: Sequence[Run]) -> list[str]:
    """What was measured of checkpoints after training."""
    return sorted({name for run in runs for name in run.metrics.names if name.startswith("eval/")})


def _curve(chart: Chart, runs: Sequence[Run]) -> dict[str, Any] | None:
    lines: list[dict[str, Any]] = []
    broken = 0
    for place, run in enumerate(runs):
        series = run.metrics.series(chart.metric)
        broken += len(series.nonfinite)
        if not series.values:
            continue
        places = thinned(series.values)
        lines.append(
            {
                "run": place,
                "s": [series.steps[i] for i in places],
                "y": [_short(series.values[i]) for i in places],
                "thinned": len(places) < len(series.values),
                "sum": {
                    "first": series.values[0],
                    "low": min(series.values),
                    "high": max(series.values),
                    "last": series.values[-1],
                },
            }
        )
    if not lines:
        return None
    flat = chart.zero and all(line["sum"]["low"] == line["sum"]["high"] == 0 for line in lines)
    notes = [chart.zero if flat else "", f"{broken} values were NaN or infinite and are not drawn" if broken else ""]
    return {
        "metric": chart.metric,
        "title": chart.title,
        "note": "; ".join(filter(None, notes)),
        "sparse": chart.sparse,
        "lines": lines,
    }


def clock(readings: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """A run's clocks at a few of its steps; the page reads between them."""
    places = knots(len(readings["steps"]))
    return {name: [_short(values[i]) for i in places] for name, values in readings.items()}


def _short(value: float) -> float:
    """Seven digits: what a float32 holds."""
    return float(f"{value:.7g}")
