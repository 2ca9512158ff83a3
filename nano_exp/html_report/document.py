"""Results as the plain document that the page draws: text and numbers only."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nano_exp
from nano_exp import dotted, files, text
from nano_exp.engines.checkpoints import exported
from nano_exp.files import Damaged
from nano_exp.html_report import lines
from nano_exp.html_report.samples import samples
from nano_exp.html_report.thinning import MOST
from nano_exp.results import Point, Results, Run, charts, ranking_table, study_tree
from nano_exp.results import spent as costs
from nano_exp.results.ranking import Ranking, Standing, short_name
from nano_exp.store import axes, identity, runs
from nano_exp.store.axes import Value
from nano_exp.triage import causes

#: States of which it says why.
EXPLAINED = ("failed", "lost", "damaged", "paused", "ended early")
#: What a report says of how far its figures can be trusted.
NOTES = (
    f"Curves of more than {MOST} steps are thinned for drawing: of each stretch its lowest and its highest value are "
    "kept. Tables, ranking and intervals are computed from all values before that.",
    "Smoothing is an exponential moving average of what is drawn; the unsmoothed curve stands behind it, pale.",
    "A band reaches from the lowest to the highest of a point's runs, as far as all of them have come.",
    "GPU-hours count every attempt from the start of its allocation to its end; the queue costs nothing. Wasted is "
    "what was lost: failed attempts after their last checkpoint, steps trained twice, set-up that was repeated.",
)


def document(ranking: Ranking, output: Path, extra: Sequence[str] = ()) -> dict[str, Any]:
    """What the page shows.

    Parameters
    ----------
    output: the file that the page will be; links are relative to its folder
    extra: metrics to draw beside charts.CHARTS
    """
    results = ranking.results
    every = results.runs
    places = {(run.name, run.id): place for place, run in enumerate(every)}
    short = axes.names(list(results.axes))
    spent = costs.total(run.cost for run in every)
    configs = [_config(run) for run in every]
    best = _best_run(ranking)
    reference = configs[places[best.name, best.id]] if best else {}
    finals = {one.run.dir: one.final for standing in ranking.standings for one in standing.measured}
    curves = lines.curves(every, extra)
    points = [_point(place, standing, places) for place, standing in enumerate(ranking.standings, 1)]
    points += [_unranked(point, places) for point in ranking.unranked]
    seeded = any(len(point.runs) > 1 for point in results.points)
    ordered = [*(standing.point for standing in ranking.standings), *ranking.unranked]
    clocks = [lines.clock(charts.clock(run.metrics)) for run in every]
    return {
        "title": ", ".join(results.names),
        "question": question(results),
        "made": time.strftime("%Y-%m-%d %H:%M %Z"),
        "version": nano_exp.__version__,
        "refresh_s": None,
        "tiles": _tiles(results, spent),
        "verdict": ranking_table.notes(ranking),
        "held": [f"{key}={axes.as_typed(value)}" for key, value in results.held.items()],
        "axes": [
            {"name": short[key], "key": key, "numeric": all(_numeric(point.axes.get(key)) for point in results.points)}
            for key in results.axes
        ],
        "words": {
            repr(value): axes.as_typed(value)
            for point in results.points
            for value in point.axes.values()
            if _numeric(value)
        },
        "ranking_caption": ranking_table.header(ranking),
        "by": short_name(ranking.metric),
        "interval": any(standing.interval for standing in ranking.standings),
        "lower_is_better": not ranking.highest,
        "points": points,
        "unit": _unit(spent),
        "seeded": seeded,
        "seed_name": results.seed_key.rpartition(".")[2],
        "many_names": len(results.names) > 1,
        "runs": [
            _run(run, results, finals.get(run.dir), config, reference, clock, output)
            for run, config, clock in zip(every, configs, clocks, strict=True)
        ],
        "clocks": [name for name in charts.CLOCKS if all(name in clock for clock in clocks if clock["steps"])],
        "clock_titles": charts.CLOCKS,
        "smooth": True,
        "curves": curves,
        "curves_note": _curves_note(curves, seeded),
        "phases": _phases(ordered),
        "cost": _cost(ordered, spent),
        "failures": _failures(every),
        "warnings": _warnings(results),
        "samples": samples(every, [_log_dir(config) for config in configs]),
        "notes": list(NOTES),
    }


def question(results: Results) -> str:
    """What the sweep asked: its axes with their values, the seeds, how many runs."""
    short = axes.names(list(results.axes))
    parts = []
    for key in results.axes:
        values = list(dict.fromkeys(axes.as_typed(point.axes[key]) for point in results.points if key in point.axes))
        listed = ", ".join(values[:8]) + (f", ... ({len(values)} values)" if len(values) > 8 else "")
        parts.append(f"{short[key]} ({listed})")
    runs_of_a_point = max((len(point.runs) for point in results.points), default=0)
    seeds = f", {runs_of_a_point} runs a point that differ in {results.seed_key}" if runs_of_a_point > 1 else ""
    total = _counted(len(results.runs), "run")
    if not parts:
        return f"{total}{seeds}."
    return f"What do {' and '.join(parts)} change? {_counted(len(results.points), 'point')}{seeds}: {total}."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _numeric(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _config(run: Run) -> dict[str, Any]:
    try:
        return runs.Run(run.dir).config()
    except (Damaged, FileNotFoundError):
        return {}


def _log_dir(config: Mapping[str, Any]) -> Path | None:
    where = dotted.Config(config).text("logger.log_dir")
    return Path(where) if where else None


def _amount(cost: costs.Cost, wasted: bool = False) -> float | None:
    """GPU-hours; hours where the runs had no GPUs."""
    if cost.gpu_hours is None:
        return (cost.wasted if wasted else cost.seconds) / 3600
    return cost.wasted_gpu_hours if wasted else cost.gpu_hours


def _unit(spent: costs.Cost) -> str:
    return "GPU-hours" if spent.gpu_hours is not None else "hours"


def _tiles(results: Results, spent: costs.Cost) -> list[tuple[str, str]]:
    """The figures at the top: what, and how much of it."""
    states = Counter(run.state for run in results.runs)
    amount, lost = _amount(spent) or 0.0, _amount(spent, wasted=True) or 0.0
    unit = _unit(spent)
    tiles = [("runs", str(len(results.runs))), *((state, str(count)) for state, count in states.most_common())]
    tiles += [(f"{unit} spent", f"{amount:.3g}"), ("of them wasted", f"{lost / amount:.0%}" if amount else "0%")]
    tiles += [("of the full grid's steps trained", f"{one.part:.0%}") for one in study_tree.every(results)]
    if spent.energy_j is not None:
        tiles.append(("energy, as Slurm measured it", f"{spent.energy_j / 3.6e6:.3g} kWh"))
    return tiles


def _best_run(ranking: Ranking) -> Run | None:
    """The best of the best point's runs: what others are compared with."""
    if not ranking.standings:
        return None
    sign = 1 if ranking.highest else -1
    return max(ranking.standings[0].measured, key=lambda one: sign * one.final).run


def _point(place: int, standing: Standing, places: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    interval = standing.interval
    return _unranked(standing.point, places) | {
        "rank": place,
        "mean": standing.mean,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "counted": len(standing.measured),
        "best": standing.best,
        "behind": standing.behind.p if standing.behind else None,
    }


def _unranked(point: Point, places: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """A point that has not come so far: what it is and what it took."""
    cost = costs.total(run.cost for run in point.runs)
    states = Counter(run.state for run in point.runs)
    return {
        "rank": None,
        "values": list(point.axes.values()),
        "mean": None,
        "low": None,
        "high": None,
        "counted": 0,
        "best": None,
        "behind": None,
        "gpu_hours": _amount(cost),
        "wasted": _amount(cost, wasted=True),
        "state": ", ".join(f"{count} {state}" for state, count in states.most_common()),
        "runs": [places[run.name, run.id] for run in point.runs],
        "step_seconds": charts.mean_of(point.runs, charts.TOTAL),
        "tokens_per_second": charts.mean_of(point.runs, *charts.THROUGHPUT),
    }


def _run(
    run: Run,
    results: Results,
    value: float | None,
    config: Mapping[str, Any],
    reference: Mapping[str, Any],
    clock: Mapping[str, Sequence[float]],
    output: Path,
) -> dict[str, Any]:
    line = run.line
    seed = f" {results.seed_key.rpartition('.')[2]}={axes.as_typed(run.seed)}" if run.seed is not None else ""
    point = Point(run.name, run.axes, (run,)).label
    return {
        "id": run.id,
        "name": run.name,
        "label": f"{point}{seed}" if run.axes or seed else run.id,
        "values": list(run.axes.values()),
        "seed": run.seed,
        "state": run.state,
        "step": line.step,
        "max_steps": line.max_steps,
        "value": value,
        "attempts": line.attempt,
        "gpu_hours": _amount(run.cost),
        "cause": _cause(run),
        "remedy": line.remedy,
        "links": _links(run, config, output.parent),
        "command": _command(run),
        "differs": _differences(reference, config),
        "clock": clock,
    }


def _cause(run: Run) -> str:
    """Why its last attempt failed, or a run ended before its last step, in words."""
    cause = causes().get(run.line.cause)
    return cause.title if cause else run.line.why if run.state in EXPLAINED else ""


def _links(run: Run, config: Mapping[str, Any], folder: Path) -> list[dict[str, str]]:
    """What is there of the run's files, relative to the page; and W&B's page where a sync has written it down."""
    tried = runs.attempts(run.dir)
    checkpoints = dotted.Config(config).text("checkpointing.checkpoint_dir")
    origin = run.line.origin or {}
    targets = {
        "folder": run.dir,
        "config": run.dir / "config.yaml",
        "metrics": run.dir / runs.METRICS,
        "stdout": tried[-1].dir / "stdout.log" if tried else None,
        "stderr": tried[-1].dir / "stderr.log" if tried else None,
        "checkpoints": Path(checkpoints) if checkpoints else None,
        "export": exported(Path(checkpoints) / "step_0").parent if checkpoints else None,
        "eval": run.dir / "eval",
        f"from {origin.get('run')} step {origin.get('step')}": Path(str(origin["path"])) if origin else None,
    }
    links = [
        {"title": title, "href": quote(os.path.relpath(target, folder))}
        for title, target in targets.items()
        if target is not None and target.exists()
    ]
    url = _wandb_page(run.dir)
    return [*links, {"title": "W&B", "href": url}] if url else links


def _wandb_page(run_dir: Path) -> str:
    """Where `nano-exp sync` sent the run; empty where it did not."""
    try:
        url = files.read_json(run_dir / "sync.json").get("url")
    except (Damaged, FileNotFoundError):
        return ""
    return url if isinstance(url, str) and url.startswith(("https://", "http://")) else ""


def _command(run: Run) -> str:
    """What to type to train the same once more, beside the run that there is."""
    return shlex.join(["python", "launch.py", *run.line.overrides, f"run.name={run.name}", "fresh=true"])


def _differences(reference: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """`key: the best run's value -> this one's`, for keys that change what is computed."""
    if not reference or not config:
        return []
    pairs = identity.differences(reference, config)
    return [f"{key}: {text.as_typed(one)} -> {text.as_typed(other)}" for key, (one, other) in pairs.items()]


def _curves_note(curves: Sequence[Mapping[str, Any]], seeded: bool) -> str:
    cut = sum(line["thinned"] for curve in curves for line in curve["lines"])
    notes = ["A line is the mean of a point's runs, its band their lowest and highest."] if seeded else []
    if cut:
        notes.append(f"{_counted(cut, 'curve')} thinned to {MOST} values; minima and maxima are kept.")
    return " ".join(notes)


def _phases(points: Sequence[Point]) -> dict[str, Any]:
    """Mean seconds of each phase of a step at each point; phases below one percent everywhere are counted as other."""
    by_point = [charts.phases(point.runs) for point in points]
    large = charts.large_phases(by_point)
    rows = [
        {
            "label": point.label,
            "parts": [*(phases.get(name, 0.0) for name in large), sum(v for n, v in phases.items() if n not in large)],
        }
        for point, phases in zip(points, by_point, strict=True)
        if phases
    ]
    return {"names": [*(name.replace("_", " ") for name in large), "other"], "rows": rows}


def _cost(points: Sequence[Point], spent: costs.Cost) -> dict[str, Any]:
    """Useful and wasted time of each point."""
    on_gpus = spent.gpu_hours is not None
    names = ("useful", "failed", "trained again", "set up again")
    rows = []
    for point in points:
        cost = costs.total(run.cost for run in point.runs)
        wasted = (
            (cost.failed_gpu_hours, cost.repeated_gpu_hours, cost.requeued_gpu_hours)
            if on_gpus
            else (cost.failed / 3600, cost.repeated / 3600, cost.requeued / 3600)
        )
        useful = (cost.useful_gpu_hours or 0.0) if on_gpus else cost.useful / 3600
        rows.append({"label": point.label, "parts": [useful, *wasted]})
    unit = _unit(spent)
    amount, lost = _amount(spent) or 0.0, _amount(spent, wasted=True) or 0.0
    source = "Slurm's accounting" if spent.source == "sacct" else "the runs' own files"
    note = f"{amount:.3g} {unit} spent, {amount - lost:.3g} of them useful and {lost:.3g} wasted (from {source})."
    return {"names": names, "rows": rows, "note": note}


def _failures(every: Sequence[Run]) -> list[dict[str, Any]]:
    """Each cause of failed attempts: how many, of which runs, what to do."""
    found: dict[str, dict[str, Any]] = {}
    for run in every:
        for attempt in runs.attempts(run.dir):
            end = attempt.end or {}
            diagnosis = end.get("diagnosis")
            if end.get("kind") != "failed":
                continue
            diagnosis = diagnosis if isinstance(diagnosis, Mapping) else {}
            cause = str(diagnosis.get("title") or end.get("why") or "no cause was found")
            row = found.setdefault(cause, {"cause": cause, "count": 0, "runs": [], "remedy": ""})
            row["count"] += 1
            row["runs"] = list(dict.fromkeys([*row["runs"], run.id]))
            row["remedy"] = row["remedy"] or str(diagnosis.get("remedy") or "")
    for row in found.values():
        row["runs"] = ", ".join(row["runs"])
    return sorted(found.values(), key=lambda row: -row["count"])


def _warnings(results: Results) -> list[dict[str, Any]]:
    """What preflight warned of when the runs were launched, as their launches' manifests have it; counted in points."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for launch in dict.fromkeys(_launch(run) for run in results.runs):
        if launch is None:
            continue
        try:
            listed = files.read_json(launch / "manifest.json").get("warnings")
        except (Damaged, FileNotFoundError, AttributeError):
            continue
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, Mapping) and {"rule", "text", "points"} <= one.keys():
                row = found.setdefault(
                    (one["rule"], one["text"]), {"rule": one["rule"], "text": one["text"], "count": 0}
                )
                row["count"] += one["points"]
    return list(found.values())


def _launch(run: Run) -> Path | None:
    launch = runs.load(run.dir, events=False).record.get("launch")
    return runs.launch_dir(run.dir.parent.parent, launch) if isinstance(launch, str) else None
