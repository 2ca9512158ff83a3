"""Two runs side by side: what differs in config, code and versions, and their curves."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nano_exp import files, text
from nano_exp.files import Damaged
from nano_exp.report import spark
from nano_exp.report.table import hours
from nano_exp.results.curves import NAMES, Series, metric_name
from nano_exp.results.model import Run
from nano_exp.results.ranking import short_name
from nano_exp.results.ranking_table import number
from nano_exp.store import identity, runs

#: Of run.json, what may differ and is told.
RECORDED = ("engine", "nemo_rl", "recipe", "checkout_commit", "model_revision", "user")
#: Lines of a code's diff that are shown.
MOST_LINES = 40


@dataclass(frozen=True)
class Pair:
    """What differs.

    Parameters
    ----------
    config: key -> values of both, without what does not make another run
    recorded: the same of run.json and of the versions that their launches found
    commits: of the project, where they differ
    diff: of the two launches' copies of the code; empty where they are equal
    unread: what could not be read, one line each
    """

    first: Run
    second: Run
    config: Mapping[str, tuple[Any, Any]]
    recorded: Mapping[str, tuple[Any, Any]]
    commits: tuple[str, str] | None
    diff: tuple[str, ...]
    unread: tuple[str, ...] = ()


def compare(first: Run, second: Run) -> Pair:
    """Read both runs' configs, records and launches."""
    unread: list[str] = []
    configs = [_config(run, unread) for run in (first, second)]
    config = _leaves(identity.differences(configs[0], configs[1])) if all(configs) else {}
    records = [_recorded(run) for run in (first, second)]
    keys = dict.fromkeys(key for record in records for key in record)
    pairs = {key: (records[0].get(key), records[1].get(key)) for key in keys}
    launches = [_launch(run) for run in (first, second)]
    commits = [str(_json(launch / "git.json").get("commit") or "") for launch in launches]
    diff = [] if launches[0] == launches[1] else _diff(launches[0] / "code", launches[1] / "code", unread)
    return Pair(
        first,
        second,
        config,
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        (commits[0], commits[1]) if commits[0] != commits[1] else None,
        tuple(diff),
        tuple(unread),
    )


def _leaves(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The same with lists of one length taken apart, down to what differs: `policy.scheduler[1].kwargs.eta_min`."""
    found: dict[str, tuple[Any, Any]] = {}
    for key, (a, b) in pairs.items():
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            inner = {f"{key}[{i}]": pair for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]}
        elif isinstance(a, dict) and isinstance(b, dict):
            inner = {f"{key}.{k}": (a.get(k), b.get(k)) for k in {**a, **b} if a.get(k) != b.get(k)}
        else:
            found[key] = a, b
            continue
        found |= _leaves(inner)
    return found


def _config(run: Run, unread: list[str]) -> dict[str, Any]:
    try:
        return runs.Run(run.dir).config()
    except (Damaged, OSError) as error:
        unread.append(f"{run.id}: config.yaml: {error.strerror if isinstance(error, OSError) else error}")
        return {}


def _recorded(run: Run) -> dict[str, Any]:
    record = runs.load(run.dir, events=False).record
    versions = _json(_launch(run) / "manifest.json").get("versions")
    found = {key: record.get(key) for key in RECORDED}
    return {**found, **(versions if isinstance(versions, dict) else {})}


def _launch(run: Run) -> Path:
    """The folder of the launch that sent a run last."""
    whole = runs.load(run.dir)
    sent = whole.last("submit")
    return runs.launch_dir(whole.results, str(sent.data.get("launch") if sent else whole.record.get("launch")))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = files.read_json(path)
    except (Damaged, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _diff(one: Path, other: Path, unread: list[str]) -> list[str]:
    """A unified diff of two copies of the code."""
    for folder in (one, other):
        if not folder.is_dir():
            unread.append(f"{text.relative(folder)} is not there: the code cannot be compared")
            return []
    names = sorted({str(p.relative_to(folder)) for folder in (one, other) for p in folder.rglob("*") if _is_code(p)})
    lines: list[str] = []
    for name in names:
        a, b = (_lines(folder / name) for folder in (one, other))
        if a != b:
            lines += difflib.unified_diff(
                a, b, f"{one.parent.name}/{name}", f"{other.parent.name}/{name}", lineterm="", n=1
            )
    return lines


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


# --- in words -------------------------------------------------------------------------------------------------------


def words(made: Pair, by: str, width: int | None = None) -> str:
    """For people; one part for each kind of difference.

    Parameters
    ----------
    by: the metric whose curves are shown besides reward and validation

    Raises
    ------
    UserError: neither run has that metric
    """
    first, second = made.first, made.second
    titles = [run.id if first.name == second.name else f"{run.name}/{run.id}" for run in (first, second)]
    out = [text.table(("", *titles), _facts(first, second), indent="")]
    out += _part("config", made.config, titles)
    out += _part("versions and records", made.recorded, titles)
    if made.commits:
        out += ["", "commit of the project: " + " and ".join(commit[:12] or "none" for commit in made.commits)]
    if made.diff:
        out += ["", "code:", *(f"  {line}" for line in made.diff[:MOST_LINES])]
        out += [f"  ... and {len(made.diff) - MOST_LINES} more lines"] if len(made.diff) > MOST_LINES else []
    elif not made.commits:
        out += ["", "code: the same"]
    out += [f"not compared: {line}" for line in made.unread]
    for metric in _metrics(made, by):
        out += ["", *_curves(made, metric, width or 80)]
    return "\n".join(out)


def _facts(first: Run, second: Run) -> list[tuple[str, ...]]:
    pair = (first, second)
    return [
        ("state", *(run.state for run in pair)),
        ("step", *(f"{run.metrics.last_step}/{run.line.max_steps or '?'}" for run in pair)),
        ("GPU-hours", *(hours(run.cost.gpu_hours) for run in pair)),
        ("of them wasted", *(hours(run.cost.wasted_gpu_hours) for run in pair)),
        ("time", *(text.duration(run.cost.seconds) for run in pair)),
    ]


def _part(title: str, pairs: Mapping[str, tuple[Any, Any]], titles: list[str]) -> list[str]:
    if not pairs:
        return ["", f"{title}: the same"]
    rows = [(key, text.as_typed(a), text.as_typed(b)) for key, (a, b) in pairs.items()]
    return ["", f"{title}:", text.table(("key", *titles), rows)]


def _metrics(made: Pair, by: str) -> list[str]:
    names = {*made.first.metrics.names, *made.second.metrics.names}
    wanted = [NAMES["reward"], NAMES["validation"], *([metric_name(by, names)] if names else [])]
    return [name for name in dict.fromkeys(wanted) if name in names]


def _curves(made: Pair, metric: str, width: int) -> list[str]:
    """Both curves on one scale of values and steps, and their values at quarters of the way."""
    series = [run.metrics.series(metric) for run in (made.first, made.second)]
    far = max((one.steps[-1] for one in series if one.steps), default=0)
    label = max(len(run.id) for run in (made.first, made.second))
    room = max(10, min(60, width - label - 4))
    rooms = [max(1, round(room * one.steps[-1] / far)) if one.steps else 0 for one in series]
    drawn = _drawn([one.values for one in series], rooms)
    values = [v for one in series for v in one.values]
    scale = f"  {number(min(values))} to {number(max(values))}" if values else ""
    lines = [f"{short_name(metric)} ({metric}), steps to {far}{scale}"]
    for run, curve in zip((made.first, made.second), drawn, strict=True):
        lines.append(f"  {run.id:{label}}  {curve or '(none)'}")
    marks = sorted({max(1, round(far * part / 4)) for part in range(1, 5)}) if far else []
    if marks:
        cells = [[_at(one, mark) for mark in marks] for one in series]
        rows = [(run.id, *row) for run, row in zip((made.first, made.second), cells, strict=True)]
        lines.append(text.table(("at step", *map(str, marks)), rows))
    return lines


def _drawn(rows: list[tuple[float, ...]], rooms: list[int]) -> list[str]:
    """Sparklines of different lengths on one scale."""
    widest = max(rooms, default=0)
    if not widest:
        return ["" for _ in rows]
    stretched = [_resampled(values, room) for values, room in zip(rows, rooms, strict=True)]
    return spark.sparks(stretched, widest).lines


def _resampled(values: tuple[float, ...], room: int) -> list[float]:
    """As many values as there is room: means of shares, or each several times."""
    if not values or len(values) >= room:
        edges = [len(values) * i // room for i in range(room + 1)] if values else [0]
        return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    return [values[i * len(values) // room] for i in range(room)]


def _at(one: Series, step: int) -> str:
    """The last value up to a step; - where the run had not come so far."""
    cut = one.up_to(step)
    return number(cut.values[-1]) if len(cut) and (one.steps[-1] >= step) else "-"


def as_json(made: Pair, by: str) -> str:
    """The same as one object, with the curves in full."""
    curves = {
        metric: {run.id: _points(run.metrics.series(metric)) for run in (made.first, made.second)}
        for metric in _metrics(made, by)
    }
    whole = {
        "runs": [f"{run.name}/{run.id}" for run in (made.first, made.second)],
        "config": {key: list(pair) for key, pair in made.config.items()},
        "recorded": {key: list(pair) for key, pair in made.recorded.items()},
        "commits": list(made.commits) if made.commits else None,
        "diff": list(made.diff),
        "unread": list(made.unread),
        "curves": curves,
    }
    return json.dumps(whole, indent=1)


def _points(one: Series) -> list[list[float]]:
    return [[step, value] for step, value in zip(one.steps, one.values, strict=True)]
