"""What pictures show of the runs' metrics: which curves, over which clocks, and the phases of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nano_exp.results.curves import Metrics
from nano_exp.results.model import Run

#: A curve drawn over a clock -> what stands under it.
CLOCKS = {"steps": "step", "tokens": "tokens trained on", "gpu-hours": "GPU-hours", "time": "hours of the attempts"}
PHASE = "timing/train/"
TOTAL = "timing/train/total_step_time"
#: Tokens a second a GPU: NeMo RL's name, and an older one that the embedded engine writes too.
THROUGHPUT = ("performance/tokens_per_sec_per_gpu", "timing/train/valid_tokens_per_sec_per_gpu")


@dataclass(frozen=True)
class Chart:
    """A metric that a report shows where the runs log it.

    Parameters
    ----------
    sparse: measured every few steps; its points are shown and never smoothed
    zero: what it means when it is 0 throughout
    """

    metric: str
    title: str
    sparse: bool = False
    zero: str = ""


CHARTS = (
    Chart("train/reward", "reward"),
    Chart("validation/accuracy", "validation accuracy", sparse=True),
    Chart(
        "train/kl_penalty",
        "KL penalty",
        zero="0 throughout, because no penalty is set (loss_fn.reference_policy_kl_penalty=0)",
    ),
    Chart("train/gen_kl_error", "KL between generation and training", zero="0 throughout: both compute the same"),
    Chart("train/approx_entropy", "entropy"),
    Chart("train/mean_gen_tokens_per_sample", "tokens of an answer"),
    Chart("train/grad_norm", "gradient norm"),
    Chart("train/token_mult_prob_error", "token probability error"),
    Chart("train/loss", "loss"),
    Chart("train/truncation_rate", "truncated answers", zero="0 throughout: no answer was cut off"),
)


def charts(extra: Iterable[str] = ()) -> list[Chart]:
    """CHARTS, and further metrics after them."""
    known = {chart.metric for chart in CHARTS}
    return [
        *CHARTS,
        *(Chart(name, name, sparse=name.startswith("eval/")) for name in dict.fromkeys(extra) if name not in known),
    ]


def clock(metrics: Metrics) -> dict[str, list[float]]:
    """Clock -> its reading at each of the run's steps (hours, not seconds, of time); without those it does not have."""
    readings = {name: metrics.until(name) for name in CLOCKS}
    steps = sorted(readings["steps"])
    found: dict[str, list[float]] = {"steps": [float(step) for step in steps]}
    for name in ("tokens", "gpu-hours", "time"):
        if readings[name]:
            unit = 3600 if name == "time" else 1
            found[name] = [value / unit for value in _filled(steps, readings[name])]
    return found


def _filled(steps: Sequence[int], reading: Mapping[int, float]) -> list[float]:
    """A reading at each step: the last one before it where it has none."""
    values = []
    last = 0.0
    for step in steps:
        last = reading.get(step, last)
        values.append(last)
    return values


def phases(runs: Sequence[Run]) -> dict[str, float]:
    """Phase of a step -> mean seconds over the steps of these runs; what no phase names is `other`.

    A name with a slash is a part of the phase before the slash, whose whole is its `total`.
    """
    totals: dict[str, list[float]] = {}
    for run in runs:
        for name in run.metrics.names:
            if name.startswith(PHASE):
                totals.setdefault(name.removeprefix(PHASE), []).extend(run.metrics.series(name).values)
    steps = len(totals.get("total_step_time", ()))
    if not steps:
        return {}
    parts = {
        name.removesuffix("/total"): sum(values) / steps
        for name, values in totals.items()
        if name != "total_step_time" and "per_sec" not in name and ("/" not in name or name.endswith("/total"))
    }
    rest = sum(totals["total_step_time"]) / steps - sum(parts.values())
    return {name: value for name, value in parts.items() if value > 0} | ({"other": rest} if rest > 0 else {})


def mean_of(runs: Sequence[Run], *names: str) -> float | None:
    """The mean over all steps of the first of these metrics that the runs have."""
    for name in names:
        values = [value for run in runs for value in run.metrics.series(name).values]
        if values:
            return fmean(values)
    return None


def large_phases(by_point: Sequence[Mapping[str, float]]) -> list[str]:
    """The phases that take more than a hundredth of a step somewhere, as they come; the others are shown as `other`."""
    names = dict.fromkeys(name for phases in by_point for name in phases if name != "other")
    return [name for name in names if any(one.get(name, 0) > 0.01 * sum(one.values()) for one in by_point if one)]
