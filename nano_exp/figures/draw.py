"""The kinds of picture, each a function from a ranking to a matplotlib figure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nano_exp.errors import UserError
from nano_exp.figures.palette import HEAT, SERIES, style
from nano_exp.results import Point, Run, charts
from nano_exp.results.charts import Chart
from nano_exp.results.ranking import Ranking, short_name
from nano_exp.store import axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Width of one chart and height of one row, in inches: a column of a paper is 3.3.
WIDE, HIGH = 3.3, 2.4
#: Width of one whose labels are points written out.
BROAD = 5.5
#: Curves of which a picture shows the best ones only, as a legend of more cannot be read.
MOST_LINES = 14


def curves(ranking: Ranking, metrics: Sequence[Chart]) -> Figure:
    """A chart a metric over steps; a line a point, the mean of its runs, with a band from lowest to highest."""
    every = [*(standing.point for standing in ranking.standings), *ranking.unranked][:MOST_LINES]
    drawn = [chart for chart in metrics if any(run.metrics.series(chart.metric).values for run in _runs(every))]
    if not drawn:
        names = ", ".join(chart.metric for chart in metrics)
        raise UserError(
            f"no run has a finite {names}", "there is nothing to draw", "nano-exp compare says what there is"
        )
    figure, places = _grid(len(drawn), wide=WIDE if len(drawn) > 1 else BROAD)
    for chart, place in zip(drawn, places, strict=True):
        for number, point in enumerate(every):
            _curve(place, chart, point, number)
        place.set_title(chart.title)
        place.set_xlabel("step")
    _legend(figure, places[0])
    return figure


def _legend(figure: Figure, place: Any) -> None:
    """Below the charts, in as many columns as there is room for."""
    handles, labels = place.get_legend_handles_labels()
    wide = max(len(label) for label in labels) * 0.055 + 0.55
    columns = max(1, min(len(labels), int(figure.get_figwidth() / wide)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _runs(points: Sequence[Point]) -> list[Run]:
    return [run for point in points for run in point.runs]


def _curve(place: Any, chart: Chart, point: Point, number: int) -> None:
    lines = [series for run in point.runs if (series := run.metrics.series(chart.metric)).values]
    if not lines:
        place.plot([], [], label=point.label, **style(number))  # the legend has every point
        return
    last = min(line.steps[-1] for line in lines)
    steps = sorted({step for line in lines for step in line.steps if step <= last})
    values = [[y for line in lines if (y := _between(line.steps, line.values, step)) is not None] for step in steps]
    marker = {"marker": "o", "markersize": 3} if chart.sparse else {}
    place.plot(steps, [fmean(row) for row in values], label=point.label, linewidth=1.2, **style(number), **marker)
    if len(lines) > 1:
        low, high = [min(row) for row in values], [max(row) for row in values]
        place.fill_between(steps, low, high, color=SERIES[number % len(SERIES)], alpha=0.18, linewidth=0)


def _between(steps: Sequence[int], values: Sequence[float], step: int) -> float | None:
    """A curve's value at a step, on the straight line between its neighbours; None outside of it."""
    place = bisect_left(steps, step)
    if place < len(steps) and steps[place] == step:
        return values[place]
    if place in (0, len(steps)):
        return None
    part = (step - steps[place - 1]) / (steps[place] - steps[place - 1])
    return values[place - 1] + part * (values[place] - values[place - 1])


def heatmap(ranking: Ranking, metrics: Sequence[Chart] = ()) -> Figure:
    """The ranked value over two axes, each cell with its number and interval; the best one framed."""
    keys = ranking.results.axes
    if len(keys) < 2:
        count = f"{len(keys)} ax{'i' if len(keys) == 1 else 'e'}s"
        raise UserError(f"--kind heatmap of a sweep with {count}", "a heat map shows two", "--kind bars")
    across, down = keys[-1], keys[-2]
    rows, columns = (_values(ranking.results.points, key) for key in (down, across))
    figure, (place,) = _grid(1, wide=max(WIDE, 0.95 * len(columns) + 1.4), high=max(HIGH, 0.55 * len(rows) + 1.1))
    cells = [[_cell(ranking, down, row, across, column) for column in columns] for row in rows]
    values = [[math.nan if cell is None else cell[0] for cell in line] for line in cells]
    image = place.imshow(values, cmap=HEAT, aspect="auto", origin="lower")
    measured = [cell[0] for line in cells for cell in line if cell]
    best = (max if ranking.highest else min)(measured) if measured else None
    for y, line in enumerate(cells):
        for x, cell in enumerate(line):
            _label(place, image, x, y, cell, best)
    names = axes.names(list(keys))
    place.set_xticks(range(len(columns)), columns)
    place.set_yticks(range(len(rows)), rows)
    place.set_xlabel(names[across])
    place.set_ylabel(names[down])
    place.grid(False)
    place.spines[:].set_visible(False)
    figure.colorbar(image, ax=place, label=short_name(ranking.metric), shrink=0.9)
    return figure


def _values(points: Sequence[Point], key: str) -> list[str]:
    """What the points have on an axis, in rising order where those are numbers."""
    values = list(dict.fromkeys(point.axes[key] for point in points if key in point.axes))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        values.sort(key=lambda value: float(value or 0))
    return [axes.as_typed(value) for value in values]


def _cell(ranking: Ranking, down: str, row: str, across: str, column: str) -> tuple[float, str] | None:
    """Mean over the points of a cell, and the interval of its one point in words."""
    here = [
        standing
        for standing in ranking.standings
        if axes.as_typed(standing.point.axes[down]) == row and axes.as_typed(standing.point.axes[across]) == column
    ]
    if not here:
        return None
    interval = here[0].interval if len(here) == 1 else None
    return fmean(s.mean for s in here), f"\n{interval.low:.2f} to {interval.high:.2f}" if interval else ""


def _label(place: Any, image: Any, x: int, y: int, cell: tuple[float, str] | None, best: float | None) -> None:
    from matplotlib.patches import Rectangle

    if cell is None:
        place.text(x, y, "-", ha="center", va="center")
        return
    value, interval = cell
    ink = "black" if image.norm(value) > 0.55 else "white"
    weight = "bold" if value == best else "normal"
    place.text(x, y, f"{value:.3g}{interval}", ha="center", va="center", color=ink, fontsize=7, fontweight=weight)
    if value == best:
        place.add_patch(Rectangle((x - 0.49, y - 0.48), 0.98, 0.96, fill=False, edgecolor=SERIES[1], linewidth=2))


def bars(ranking: Ranking, metrics: Sequence[Chart] = ()) -> Figure:
    """A bar a ranked point with its interval, the best at the top, its runs as dots."""
    standings = ranking.standings
    figure, (place,) = _grid(1, wide=BROAD, high=max(HIGH, 0.28 * len(standings) + 0.8))
    for y, standing in enumerate(standings):
        interval = standing.interval
        error = [[standing.mean - interval.low], [interval.high - standing.mean]] if interval else None
        place.barh(y, standing.mean, xerr=error, color=SERIES[0], alpha=0.75, capsize=2, error_kw={"linewidth": 1})
        place.plot([one.final for one in standing.measured], [y] * len(standing.measured), ".", color=SERIES[1])
    place.set_yticks(range(len(standings)), [standing.point.label for standing in standings])
    place.invert_yaxis()
    place.set_xlabel(short_name(ranking.metric))
    return figure


def phases(ranking: Ranking, metrics: Sequence[Chart] = ()) -> Figure:
    """Seconds of a step by phase, a bar a point."""
    points = [*(standing.point for standing in ranking.standings), *ranking.unranked]
    taken = [(point, parts) for point in points if (parts := charts.phases(point.runs))]
    if not taken:
        raise UserError("no run has timing/train/total_step_time", "its phases are what is drawn", "--kind curves")
    names = charts.large_phases([parts for _, parts in taken])
    figure, (place,) = _grid(1, wide=BROAD, high=max(HIGH, 0.28 * len(taken) + 1.2))
    starts = [0.0] * len(taken)
    for number, name in enumerate([*names, "other"]):
        seconds = [
            parts.get(name, 0.0) if name != "other" else sum(v for n, v in parts.items() if n not in names)
            for _, parts in taken
        ]
        hatch = ("", "///", "...", "xxx", "---", "\\\\\\", "+++")[number % 7]
        colour = SERIES[number % len(SERIES)]
        place.barh(range(len(taken)), seconds, left=starts, color=colour, hatch=hatch, label=name.replace("_", " "))
        starts = [start + one for start, one in zip(starts, seconds, strict=True)]
    place.set_yticks(range(len(taken)), [point.label for point, _ in taken])
    place.invert_yaxis()
    place.set_xlabel("seconds a step")
    _legend(figure, place)
    return figure


def _grid(count: int, wide: float = WIDE, high: float = HIGH) -> tuple[Figure, list[Any]]:
    """A figure with so many charts, three a row at most."""
    from matplotlib.figure import Figure as Canvas

    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Canvas(figsize=(wide * columns, high * rows + 0.3), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place in places[count:]:
        place.set_visible(False)
    return figure, places[:count]


KINDS: dict[str, Callable[[Ranking, Sequence[Chart]], Figure]] = {
    "curves": curves,
    "heatmap": heatmap,
    "bars": bars,
    "phases": phases,
}
