"""Fit the constants that were assumed to peaks that runs recorded.

Each recorded peak is a known function of the constants (a phase's expected size) plus an error of PEAK_SD. The assumed
ranges are the prior: a normal distribution with `expected` as its mean and a quarter of the range as its standard
deviation. Linearised around the present estimate that is linear regression with a known prior, so few peaks move few
constants and leave the rest as assumed; each step is repeated until nothing moves (Gauss-Newton). Written are the
constants of which the peaks said something, as mean and two standard deviations to either side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.layout import models, workload
from nano_exp.layout.workload import Job
from nano_exp.nemo_rl import versions
from nano_exp.planner import gpus, phase_memory
from nano_exp.planner.gpus import NAMES, Constants, Gpu
from nano_exp.planner.ranges import GIB, Range, exactly
from nano_exp.store import runs

#: GiB. How far a recorded peak may be from the true one: samples are seconds apart.
PEAK_SD = 0.7
#: A constant is written when its standard deviation fell below this part of what was assumed.
LEARNED = 0.9
_STEPS = 6
_SHIFT = 0.01

Vector = list[float]
Matrix = list[list[float]]


@dataclass(frozen=True)
class Peak:
    """The most GiB that any GPU of a run had in use in a phase (phases.py's name)."""

    job: Job
    phase: str
    gib: float
    source: str


@dataclass(frozen=True)
class Fit:
    """Constants after the peaks, and how far the estimates were off before and are off after, GiB (RMS)."""

    constants: dict[str, Range]
    before: float
    after: float
    count: int


# --- reading --------------------------------------------------------------------------------------------------------


def collect(results: Path, gpu_name: str | None) -> tuple[dict[str, list[Peak]], list[str]]:
    """Every recorded peak below a results folder by GPU, and what was left out with the reason.

    Raises
    ------
    UserError: no such folder
    """
    if not results.is_dir():
        raise UserError(
            f"{results} is not a folder",
            "peaks are read from results/<name>/<run>/attempts/<n>/peaks.json",
            "--calibrate /path/to/results",
        )
    peaks_by_gpu: dict[str, list[Peak]] = {}
    skipped: list[str] = []
    for run in runs.find(results):
        for path in sorted(run.dir.glob(f"attempts/*/{runs.GPU_PEAKS}")):
            name = f"{run.id}, attempt {path.parent.name}"
            try:
                record = files.read_json(path)
                gpu = gpus.of_smi(str(record["gpu"]), float(record["total_mib"]))
                config = run.config()
                if gpu is None:
                    skipped.append(f"{name}: a {record['gpu']} is not in gpus.yaml")
                elif gpu_name is not None and gpu.name != gpu_name:
                    continue
                elif stranger := models.unknown(models.named(config)):
                    skipped.append(f"{name}: {stranger}")
                else:
                    peaks = list(peaks_of(workload.of_config(config), record["gib"], name))
                    peaks_by_gpu.setdefault(gpu.name, []).extend(peaks)
            except (files.Damaged, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                skipped.append(f"{name}: {error or type(error).__name__}")
            except UserError as error:
                skipped.append(f"{name}: {error.found}")
    return peaks_by_gpu, skipped


def peaks_of(job: Job, gib: dict[str, Any], source: str) -> Iterable[Peak]:
    """The phases of peaks.json that the planner knows too. `run`: the largest of all phases."""
    for name, each in gib.items():
        if name in (
            phase_memory.SETUP,
            phase_memory.REFIT,
            phase_memory.GENERATION,
            phase_memory.LOGPROB,
            phase_memory.TRAIN,
            "run",
        ):
            yield Peak(job, name, max(map(float, each)), source)


# --- fitting --------------------------------------------------------------------------------------------------------


def expected(peak: Peak, gpu: Gpu, values: Sequence[float]) -> float:
    """What the planner expects for a peak with these constants, GiB. Torch keeps what it reserved until the phase
    changes, so training includes the optimizer step."""
    constants = Constants(**{name: exactly(value) for name, value in zip(NAMES, values, strict=True)})
    same = {phase_memory.TRAIN: (phase_memory.TRAIN, phase_memory.STEP)}.get(peak.phase, (peak.phase,))
    sizes = [
        phase.size.expected
        for phase in phase_memory.phases(peak.job, gpu, constants)
        if phase.name != phase_memory.SHARE and (peak.phase == "run" or phase.name in same)
    ]
    return max(sizes, default=0.0) / GIB


def fit(peaks: Sequence[Peak], gpu: Gpu, prior: Constants) -> Fit:
    """The posterior of the constants."""
    ranges = [Range(*getattr(prior, name)) for name in NAMES]
    mean = [r.expected for r in ranges]
    sd = [max((r.high - r.low) / 4, 1e-9) for r in ranges]
    measured = [peak.gib for peak in peaks]

    def model(values: Sequence[float]) -> Vector:
        return [expected(peak, gpu, values) for peak in peaks]

    now, covariance = list(mean), [[0.0] * len(mean) for _ in mean]
    for _ in range(_STEPS):
        slopes, modelled = jacobian(model, now)
        weight = 1 / PEAK_SD**2
        precision = [
            [weight * sum(row[i] * row[j] for row in slopes) + (i == j) / sd[i] ** 2 for j in range(len(mean))]
            for i in range(len(mean))
        ]
        covariance = inverse(precision)
        pull = [
            weight * sum(row[i] * (m - s) for row, m, s in zip(slopes, measured, modelled, strict=True))
            + (mean[i] - now[i]) / sd[i] ** 2
            for i in range(len(mean))
        ]
        step = [sum(c * p for c, p in zip(row, pull, strict=True)) for row in covariance]
        now = [max(value + change, 0.0) for value, change in zip(now, step, strict=True)]
    learned = {}
    for i, name in enumerate(NAMES):
        deviation = covariance[i][i] ** 0.5
        if deviation < LEARNED * sd[i]:
            learned[name] = Range(max(now[i] - 2 * deviation, 0.0), now[i], now[i] + 2 * deviation)
    return Fit(learned, rms(model(mean), measured), rms(model(now), measured), len(peaks))


def jacobian(model: Callable[[Sequence[float]], Vector], at: Sequence[float]) -> tuple[Matrix, Vector]:
    """Slopes of the model by each value, forward differences; and the model itself."""
    base = model(at)
    columns = []
    for i, value in enumerate(at):
        shift = _SHIFT * max(abs(value), 1.0)
        moved = model([*at[:i], value + shift, *at[i + 1 :]])
        columns.append([(m - b) / shift for m, b in zip(moved, base, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)], base


def inverse(matrix: Matrix) -> Matrix:
    """Of a symmetric positive definite matrix, by Gauss-Jordan elimination."""
    n = len(matrix)
    rows = [[*row, *(1.0 if i == j else 0.0 for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = rows[i][i]
        rows[i] = [value / pivot for value in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                factor = rows[k][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


def rms(modelled: Sequence[float], measured: Sequence[float]) -> float:
    return (sum((a - b) ** 2 for a, b in zip(modelled, measured, strict=True)) / max(len(modelled), 1)) ** 0.5


# --- the command ----------------------------------------------------------------------------------------------------


def run(results: Path, name: str | None) -> str:
    """Fit and write calibration/<gpu>.yaml for each GPU with peaks, or for one. Returns what to print.

    Raises
    ------
    UserError: nothing to fit, an unknown GPU, or a folder that cannot be written
    """
    only_gpu = gpus.gpu(name).name if name else None
    peaks_by_gpu, skipped = collect(results, only_gpu)
    if not peaks_by_gpu:
        why = "; ".join(skipped[:3]) or "no attempt recorded peaks (they need nvidia-smi on the node)"
        raise UserError(
            f"no recorded peaks below {results}" + (f" for {only_gpu}" if only_gpu else ""),
            why,
            "run something on a GPU first, then: nano-exp plan --calibrate results/",
        )
    lines = [f"left out: {line}" for line in skipped]
    for gpu_name, peaks in peaks_by_gpu.items():
        gpu = gpus.gpu(gpu_name)
        fitted = fit(peaks, gpu, gpus.assumed())
        path = gpus.CALIBRATION / f"{gpu_name}.yaml"
        files.make_dir(path.parent)
        files.write_text(path, document(gpu_name, peaks, fitted, gpus.calibration(gpu_name)))
        lines.append(
            f"{gpu_name}: {fitted.count} peaks, off by {fitted.before:.2f} GiB before and {fitted.after:.2f} after "
            f"(RMS); {len(fitted.constants)} of {len(NAMES)} constants learned: {path}"
        )
    gpus.constants.cache_clear()
    return "\n".join(lines)


def _release(version: tuple[int, ...]) -> str:
    return "a branch" if version == versions.NEWEST else ".".join(map(str, version))


def document(gpu_name: str, peaks: Sequence[Peak], fitted: Fit, before: dict[str, Any] | None) -> str:
    """The calibration file. Constants that these peaks say nothing about stay as they were in the file."""
    old = dict((before or {}).get("constants") or {})
    unchanged = {name: values for name, values in old.items() if name in NAMES and name not in fitted.constants}
    learned = {name: [round(v, 4) for v in values] for name, values in fitted.constants.items()}
    earlier = map(str, (before or {}).get("sources") or []) if unchanged else ()
    sources = {*(peak.source for peak in peaks), *earlier}
    record = {
        "gpu": gpu_name,
        "date": time.strftime("%Y-%m-%d"),
        "observations": fitted.count,
        "backends": sorted({peak.job.layout.backend for peak in peaks}),
        "versions": {"nemo_rl": sorted({_release(peak.job.version) for peak in peaks})},
        "sources": sorted(sources),
        "rms_gib": {"before": round(fitted.before, 3), "after": round(fitted.after, 3)},
        "kept_from_before": sorted(unchanged),
        "constants": {**unchanged, **learned},
    }
    return "# Written by `nano-exp plan --calibrate`; without this file constants.yaml counts.\n" + files.dump_yaml(
        record
    )
