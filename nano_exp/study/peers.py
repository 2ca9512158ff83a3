"""The other points of a run's name, as the rule `behind` compares with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nano_exp.files import Damaged
from nano_exp.store import axes, metrics_file, runs
from nano_exp.study.stop_rules import Curve, merged


def gpus(config: Mapping[str, Any]) -> int:
    """GPUs that a run trains on, over all nodes; at least 1, which an engine without any counts as."""
    cluster = config.get("cluster") or {}
    return max(1, int(cluster.get("num_nodes") or 1) * int(cluster.get("gpus_per_node") or 1))


def point_of(run: runs.Run) -> str:
    """The point that a run is a repeat of: what was typed for it, but for its seed. Its config does not tell: what
    follows from a seed by interpolation is another key."""
    return point(run.overrides)


def point(overrides: Sequence[str]) -> str:
    """The same of what was typed."""
    values = axes.typed(overrides)
    return " ".join(f"{key}={axes.as_typed(values[key])}" for key in sorted(values) if key.split(".")[-1] != "seed")


def others(run: runs.Run, config: Mapping[str, Any]) -> dict[str, list[Curve]]:
    """Point -> the curves of its runs, of all other points of the name."""
    own = point_of(run)
    curves: dict[str, list[Curve]] = {}
    for folder in runs.folders(run.dir.parent):
        other = runs.load(folder, events=False)
        point = point_of(other)
        if point != own and folder != run.dir:
            rows = merged(metrics_file.read(folder))
            curves.setdefault(point, []).append(Curve(rows, _gpus_of(other, config)))
    return curves


def _gpus_of(run: runs.Run, config: Mapping[str, Any]) -> int:
    try:
        return gpus(run.config())
    except (Damaged, OSError):
        return gpus(config)
