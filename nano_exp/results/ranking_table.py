"""A ranking in the words of a terminal, and as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Sequence

from nano_exp import text
from nano_exp.report.table import hours
from nano_exp.results import certainty
from nano_exp.results.curves import COSTS
from nano_exp.results.model import Run
from nano_exp.results.ranking import Measured, Ranking, Standing, short_name
from nano_exp.store import axes
from nano_exp.store.axes import Value
from nano_exp.terminal import grid


def words(ranking: Ranking, width: int | None = None) -> str:
    """For people: a header, the table, and how sure it is.

    Parameters
    ----------
    width: of the terminal; None: as wide as it takes
    """
    parts = [*_wrapped(header(ranking), width), ""]
    if ranking.standings:
        parts.append(_table(ranking, width))
    else:
        parts.append("no run came so far")
    parts += ["", *(line for note in notes(ranking) for line in _wrapped(note, width))]
    return "\n".join(parts)


def header(ranking: Ranking) -> str:
    """What is compared, at what."""
    results = ranking.results
    points, runs = len(results.points), len(results.runs)
    held = " ".join(f"{key}={axes.as_typed(value)}" for key, value in results.held.items())
    order = "highest first" if ranking.highest else "lowest first"
    return (
        f"{' '.join(results.names)}: {points} point{'s' * (points != 1)} of {runs} run{'s' * (runs != 1)} by "
        f"{ranking.metric}, {order}, at {amount(ranking.at, ranking.budget)} a run"
        + (f"; all with {held}" if held else "")
    )


def amount(at: str, value: float) -> str:
    """100 steps, 1.2e+06 tokens, 8.7 GPU-hours, 1 h 5 min."""
    if at == "time":
        return text.duration(value)
    if at == "gpu-hours":
        return f"{hours(value)} GPU-hours"
    return f"{value:,.0f} {COSTS[at]}"


def _table(ranking: Ranking, width: int | None) -> str:
    name = short_name(ranking.metric)
    found = ranking.standings
    several = len(ranking.results.names) > 1
    columns = {
        "#": [str(place) for place in range(1, len(found) + 1)],
        **({"name": [one.point.name for one in found]} if several else {}),
        "seeds": [_seeds(one) for one in found],
        **({"rung": [_rung(one) for one in found]} if _is_study(ranking) else {}),
        name: [number(one.mean) for one in found],
        "95% interval": [interval(one) for one in found],
        "best": [number(one.best) for one in found],
        "p": ["" if place == 0 else "-" if one.behind is None else p(one.behind.p) for place, one in enumerate(found)],
        "GPU-h": [hours(one.gpu_hours) for one in found],
        "time": [text.duration(one.seconds) for one in found],
    }
    if all(one.gpu_hours is None for one in found):
        columns.pop("GPU-h")
    points = [one.point.axes for one in found]
    made = grid.grid(columns, points, width, ("time", "best", "GPU-h"), before="seeds")
    return grid.text(made, [_short(one, ranking.metric) for one in found], "not counted")


def _is_study(ranking: Ranking) -> bool:
    return any(point.rung is not None for point in ranking.results.points)


def _rung(one: Standing) -> str:
    """The newest rung that a point reached; `all` once it has gone on from the last one."""
    rung = one.point.rung
    if rung is None:
        return "-"
    return "all" if rung["passed"] == rung["of"] else f"{rung['reached']} of {rung['of']}"


def _seeds(one: Standing) -> str:
    return str(len(one.measured)) if not one.short else f"{len(one.measured)} of {len(one.point.runs)}"


def _short(one: Standing, metric: str) -> str:
    """The runs that do not count, and why."""
    return ", ".join(f"{run.id} {_why(run, metric)}" for run in one.short)


def _why(run: Run, metric: str) -> str:
    series = run.metrics.series(metric)
    last = series.steps[-1] if series.steps else 0
    broken = next((step for step in series.nonfinite if step > last), None)
    if broken is not None:
        return f"{run.state}, not finite from step {broken} on"
    if run.state == "done":
        return (
            f"done, without a value by then (its first at step {series.steps[0]})"
            if series.steps
            else "done without it"
        )
    return f"{run.state} at step {run.metrics.last_step}"


def number(value: float) -> str:
    """Four digits: 0.6481, 12.3, 1.2e-05."""
    return f"{value:.4g}"


def interval(one: Standing) -> str:
    return "-" if one.interval is None else f"{number(one.interval.low)} to {number(one.interval.high)}"


def p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def notes(ranking: Ranking) -> list[str]:
    """How sure the order is, what the columns are, what was left out."""
    found = [*_certainty(ranking), _columns(ranking)]
    if ranking.unranked:
        listed = "; ".join(f"{point.label} ({_whys(point.runs, ranking.metric)})" for point in ranking.unranked)
        found.append(f"not ranked: {listed}")
    if not any(run.state == "done" for run in ranking.results.runs):
        found.append("no run is done: this may change")
    for what, counts in (
        (f"values of {ranking.metric} were NaN or infinite, and are left out", ranking.nonfinite),
        ("damaged lines of metrics.jsonl are left out", ranking.damaged),
    ):
        if counts:
            listed = ", ".join(f"{run} ({count})" for run, count in list(counts.items())[:6])
            found.append(f"{sum(counts.values())} {what}: {listed}{', ...' if len(counts) > 6 else ''}")
    if ranking.results.slurm_error:
        found.append(f"Slurm does not answer ({ranking.results.slurm_error}): some states are unknown")
    return found


def _certainty(ranking: Ranking) -> list[str]:
    """The first point over the second, in words."""
    if len(ranking.standings) < 2:
        return []
    first, second = ranking.standings[:2]
    gap = abs(first.mean - second.mean)
    ahead = ranking.ahead
    if ahead is not None:
        said_p = p(ahead.p) if ahead.p < 0.001 else f"= {p(ahead.p)}"
        return [
            f"first over second: {number(gap)} (95%: {number(ahead.low)} to {number(ahead.high)}), p {said_p} "
            f"(Welch's t test, {ahead.seeds[0]} and {ahead.seeds[1]} seeds): {ahead.verdict}"
        ]
    if not certainty.there():
        return [f"first over second: {number(gap)}; how sure is not said without scipy: {certainty.INSTALL}"]
    if min(len(first.measured), len(second.measured)) < 2:
        key = ranking.results.seed_key
        return [
            f"first over second: {number(gap)}; with one seed nothing tells how much of it is chance. The same launch "
            f"with more seeds ({key}=42,43,44) adds them"
        ]
    return [f"first over second: {number(gap)}; their seeds have equal values"]


def _columns(ranking: Ranking) -> str:
    name = short_name(ranking.metric)
    said = f"{name}: the mean over seeds of each run's last tenth of values up to there; best: of its best tenth"
    method = {one.interval.method for one in ranking.standings if one.interval is not None}
    if method:
        kind = (
            "Student's t"
            if method == {"t"}
            else "BCa bootstrap"
            if method == {"bootstrap"}
            else "t, bootstrapped from 10 seeds on"
        )
        said += f"; 95% interval: {kind}, over seeds; p: that chance alone puts the first so far above (Welch)"
    if _is_study(ranking):
        said += "; rung: the newest at which it was compared; all: it went on from the last one"
    return said


def _whys(runs: Sequence[Run], metric: str) -> str:
    counts = Counter(_why(run, metric) for run in runs)
    return ", ".join(f"{count} {why}" for why, count in counts.items())


# --- for other programs ---------------------------------------------------------------------------------------------


def records(ranking: Ranking) -> list[dict[str, Value]]:
    """One flat row a point, by full keys; numbers in full precision, and None for what is not known."""
    found: list[dict[str, Value]] = []
    for place, one in enumerate(ranking.standings, 1):
        row: dict[str, Value] = {"rank": place, "name": one.point.name, **one.point.axes}
        row |= {"seeds": len(one.measured), "runs": len(one.point.runs), "metric": ranking.metric, "mean": one.mean}
        row |= {"low": one.interval.low if one.interval else None, "high": one.interval.high if one.interval else None}
        row |= {"interval": one.interval.method if one.interval else None, "best": one.best}
        row |= {"p": one.behind.p if one.behind else None, "at": ranking.at, "budget": ranking.budget}
        rung = one.point.rung or {}
        row |= {"rung": rung.get("reached"), "rungs_passed": rung.get("passed"), "rungs": rung.get("of")}
        row |= {"gpu_hours": one.gpu_hours, "seconds": one.seconds}
        found.append(row)
    return found


def as_json(ranking: Ranking) -> str:
    """One object: what was compared, the points with their runs' own values, and the notes."""
    rows = [
        {
            **record,
            "values": {
                one.run.id: {"seed": one.run.seed, "final": one.final, "best": one.best, "step": one.step}
                for one in s.measured
            },
            "not_counted": [run.id for run in s.short],
        }
        for record, s in zip(records(ranking), ranking.standings, strict=True)
    ]
    whole = {
        "names": list(ranking.results.names),
        "metric": ranking.metric,
        "at": ranking.at,
        "budget": ranking.budget,
        "highest_first": ranking.highest,
        "held": dict(ranking.results.held),
        "points": rows,
        "unranked": [{"axes": dict(point.axes), "runs": [run.id for run in point.runs]} for point in ranking.unranked],
        "first_over_second": vars(ranking.ahead) if ranking.ahead else None,
        "notes": notes(ranking),
    }
    return json.dumps(whole, indent=1)


def _value(one: Measured) -> dict[str, Value]:
    return {"seed": one.run.seed, "final": one.final, "best": one.best, "step": one.step, "cost": one.cost}


def as_csv(ranking: Ranking) -> str:
    """`records` with a header."""
    rows = records(ranking)
    out = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(out, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def _cells(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """The columns of a paper's table: the axes by their short names, seeds, the metric with its interval, cost."""
    keys = list(ranking.results.axes)
    named = axes.names(keys)
    head = [
        *(named[key] for key in keys),
        "seeds",
        short_name(ranking.metric),
        "95% interval",
        "best",
        "p",
        "GPU-hours",
    ]
    rows = []
    for one in ranking.standings:
        point = [axes.as_typed(one.point.axes[key]) if key in one.point.axes else "" for key in keys]
        chance = "" if one.behind is None else p(one.behind.p)
        rows.append(
            [
                *point,
                str(len(one.measured)),
                number(one.mean),
                interval(one),
                number(one.best),
                chance,
                hours(one.gpu_hours),
            ]
        )
    return head, rows


def as_markdown(ranking: Ranking) -> str:
    head, rows = _cells(ranking)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_latex(ranking: Ranking) -> str:
    """A tabular for booktabs."""
    head, rows = _cells(ranking)
    count = len(ranking.results.axes)
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * count}{'r' * (len(head) - count)}}}",
            r"\toprule",
            " & ".join(map(_escaped, head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


#: What LaTeX takes for something else.
_LATEX = {**{mark: rf"\{mark}" for mark in "&%$#_{}"}, "<": "$<$", ">": "$>$", "~": r"\textasciitilde{}"} | {
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in cell)


def _wrapped(said: str, width: int | None) -> list[str]:
    return textwrap.wrap(said, width, subsequent_indent="  ", break_on_hyphens=False) if width else [said]
