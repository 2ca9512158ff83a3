"""python tests/bench/gpu/tables.py measured.jsonl

Reads what measure.py wrote: speeds against the machine's two ceilings, peaks against memory.py's estimates, as Markdown
tables; with --calibrate it writes that GPU's constants too. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cases
import memory
from memory import ASSUMED, FP32, Constants, Run

from nano_exp import files
from nano_exp.engines.embedded import settings
from nano_exp.errors import UserError
from nano_exp.layout import parameters
from nano_exp.layout.architecture import MAMBA
from nano_exp.planner import gpus, phase_memory, steptime
from nano_exp.planner.gpus import Gpu
from nano_exp.planner.ranges import GIB, Range

Record = dict[str, Any]
#: The estimates' phase of each phase that was watched. The reference's pass is the larger of the two.
PHASE = {
    "generation": phase_memory.GENERATION,
    "logprobs": phase_memory.LOGPROB,
    "reference": phase_memory.LOGPROB,
    "training": phase_memory.TRAIN,
    "optimizer": phase_memory.STEP,
}
#: Terms that torch.cuda.max_memory_allocated does not count.
NOT_ALLOCATED = ("CUDA context", "fragments")


def read(path: Path) -> list[Record]:
    """The records of a file, the machine's first.

    Raises
    ------
    UserError: it cannot be read, or is none of measure.py's
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        good = records[0]["kind"] == "machine" and records[0]["copy_bytes_per_s"] > 0
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}",
            "it is to hold what measure.py wrote",
            f"python tests/bench/gpu/measure.py --out {path}",
        ) from error
    except (ValueError, LookupError, TypeError):
        good = False
    if not good:
        raise UserError(
            f"{path} does not begin with a machine's record",
            "measure.py writes one JSON object a line, the machine's first",
            f"python tests/bench/gpu/measure.py --out {path}",
        )
    return records


def run_of(record: Record, base: Record) -> Run:
    """A measured config; `base` is the tiny run's."""
    folders = {"checkpointing.checkpoint_dir": "checkpoints", "logger.log_dir": "logs"}
    return Run(settings.from_config(cases.changed(base, cases.COMMON | folders | record["changes"])))


# --- memory ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A phase's peak. Terms: the estimate's, of those that torch's allocator counts."""

    name: str
    phase: str
    peak: float
    terms: dict[str, Range]

    def estimate(self, which: int = 1) -> float:
        """Bytes: 0 the low, 1 the expected, 2 the high one."""
        return math.fsum(sizes[which] for sizes in self.terms.values())

    @property
    def error(self) -> float:
        """Of the expected size, as a part of the measured one."""
        return self.estimate() / self.peak - 1

    def factor(self, term: str) -> float:
        """What a term would have to be multiplied with for the estimate to be the peak."""
        return 1 + (self.peak - self.estimate()) / self.terms[term][1]


def compare(records: Sequence[Record], base: Record, gpu: Gpu, constants: Constants) -> list[Compared]:
    """Every measured peak with its estimate; of several steps of a record the highest peak."""
    found = []
    for record in records:
        steps = [step["phases"] for step in record.get("steps", [])] or [record.get("phases", {})]
        peaks: dict[str, float] = {}
        for step in steps:
            for watched, seen in step.items():
                peaks[PHASE[watched]] = max(peaks.get(PHASE[watched], 0.0), seen["peak_bytes"])
        if record["kind"] not in ("speed", "peak", "rollout") or not any(peaks.values()):
            continue
        for phase in memory.phases(run_of(record, base), gpu, constants):
            if phase.name in peaks:
                terms = {t.name: t.size for t in phase.terms if t.name not in NOT_ALLOCATED}
                found.append(Compared(label(record), phase.name, peaks[phase.name], terms))
    return found


def label(record: Record) -> str:
    return f"{record['kind']}: {record['name']}"


def memory_table(compared: Iterable[Compared]) -> str:
    """A row for each config, a column for each phase: measured GiB, and the estimate's error."""
    rows: dict[str, dict[str, Compared]] = {}
    for one in compared:
        rows.setdefault(one.name, {})[one.phase] = one
    columns = (phase_memory.GENERATION, phase_memory.LOGPROB, phase_memory.TRAIN, phase_memory.STEP)

    def cell(one: Compared | None) -> str:
        return "" if one is None else f"{one.peak / GIB:.2f} ({one.error:+.1%})"

    return _table(
        ("config", *columns), ([name, *(cell(row.get(column)) for column in columns)] for name, row in rows.items())
    )


def error_table(compared: Sequence[Compared]) -> str:
    """The estimates' errors by phase: mean and largest."""
    names = dict.fromkeys(one.phase for one in compared)

    def row(name: str, chosen: list[float]) -> list[str]:
        return [name, str(len(chosen)), f"{math.fsum(chosen) / len(chosen):.1%}", f"{max(chosen):.1%}"]

    rows = [row(name, [abs(one.error) for one in compared if one.phase == name]) for name in names]
    return _table(("phase", "peaks", "mean error", "largest"), [*rows, row("all", [abs(c.error) for c in compared])])


#: Where each of these constants shows best: a phase and a term that is proportional to it.
_SHOWN = {
    "workspace": (phase_memory.STEP, "cuBLAS workspaces, rounding"),
    "activations": (phase_memory.TRAIN, "activations"),
    "temporaries": (phase_memory.GENERATION, "temporaries"),
}
#: A term says something about its constant where it is this part of a peak at least.
_SHARE = 0.3


def calibration(records: Sequence[Record], base: Record, gpu: Gpu, assumed: Constants) -> Record:
    """The calibration file of a GPU: of each constant the least, the mean and the greatest measured value,
    one after the other, each with those before it."""
    learned: dict[str, list[float]] = {}
    constants = assumed
    for name, (phase, term) in _SHOWN.items():
        compared = [c for c in compare(records, base, gpu, constants) if c.phase == phase and term in c.terms]
        if name != "workspace":
            compared = [c for c in compared if c.terms[term].expected > _SHARE * c.peak]
        if compared:
            factors = [c.factor(term) for c in compared]
            spread = Range(min(factors), math.fsum(factors) / len(factors), max(factors))
            found = spread.times(getattr(constants, name).expected)
            constants = replace(constants, **{name: found})
            learned[name] = [round(value, 4) for value in found]
    machine = records[0]
    return {
        "gpu": gpu.name,
        "date": machine["date"],
        "measured_on": machine["gpu"],
        "versions": {name: machine[name] for name in ("torch", "cuda", "transformers", "python")},
        "observations": len(compare(records, base, gpu, assumed)),
        "sources": ["python tests/bench/gpu/measure.py"],
        "constants": learned,
    }


# --- speed ----------------------------------------------------------------------------------------------------------


def flops(read: Run, tokens: float) -> float:
    """Of a forward pass over `tokens`, the useful ones: matrices, causal attention, the recurrence."""
    return steptime.flops_per_token(read.architecture, tokens / read.settings.answers) * tokens


def token_bytes(read: Run, length: float) -> float:
    """The fewest bytes that a new token of every sequence has to move: the computing copies of the weights, once;
    caches of sequences of `length`, read; Mamba states, read and written."""
    a, c = read.architecture, read.element
    weights = c * (parameters.total(a).total - a.vocab * a.hidden)
    states = a.count(MAMBA) * FP32 * a.d_inner * a.state * read.settings.answers
    return weights + memory.cache(a, read.settings.answers, round(length), c) + states


def update_bytes(read: Run) -> float:
    """The fewest bytes that training on a rollout has to move, activations not counted: for each micro batch float32
    weights read and their copies written and read twice, gradients read and written; then Adam's step, seven float32
    numbers a parameter."""
    count, fp32 = float(parameters.total(read.architecture).total), FP32
    copies = memory.weight_copies(read.architecture, read.element)
    micro = fp32 * count + 3 * copies + 2 * fp32 * count
    updates = read.settings.answers / read.settings.global_batch
    return updates * (read.micro_batches * micro + 7 * fp32 * count)


def speed_table(records: Sequence[Record], base: Record) -> str:
    """Whole steps: tokens a second in rollout and in training, and what part that is of each ceiling."""
    top, moved = records[0]["matmul_bf16_flops_per_s"], records[0]["copy_bytes_per_s"]
    rows = []
    for record in (one for one in records if one["kind"] == "speed"):
        read, steps = run_of(record, base), record["steps"]

        def mean(value: Callable[[Record], float], steps: list[Record] = steps) -> float:
            return math.fsum(map(value, steps)) / len(steps)

        generated, tokens = mean(lambda s: s["generated_tokens"]), mean(lambda s: s["all_tokens"])
        generating = mean(lambda s: s["phases"]["generation"]["seconds"])
        training = mean(lambda s: s["phases"]["training"]["seconds"] + s["phases"]["optimizer"]["seconds"])
        new = generated / read.settings.answers
        decode = (
            flops(read, generated) / top,
            new * token_bytes(read, tokens / read.settings.answers - new / 2) / moved,
        )
        learn = (3 * flops(read, tokens) / top, update_bytes(read) / moved)
        rows.append(
            [
                f"{record['name']}: {record['parameters'] / 1e6:,.0f}M",
                f"{mean(lambda s: s['seconds']):.1f}",
                f"{generated / generating:,.0f}",
                f"{generating / new * 1000:.1f}",
                f"{decode[1] / generating:.1%}",
                f"{decode[0] / generating:.2%}",
                f"{tokens / training:,.0f}",
                f"{learn[1] / training:.1%}",
                f"{learn[0] / training:.1%}",
            ]
        )
    head = ("model", "s a step", "rollout tokens/s", "ms a token", "of bytes", "of FLOPs")
    return _table((*head, "training tokens/s", "of bytes", "of FLOPs (MFU)"), rows)


def training_table(records: Sequence[Record], base: Record) -> str:
    """Forward and backward alone, over the grid."""
    top = records[0]["matmul_bf16_flops_per_s"]
    rows = []
    for record in (one for one in records if one["kind"] == "peak"):
        seconds, tokens = record["phases"]["training"]["seconds"], record["tokens"]
        share = 3 * flops(run_of(record, base), tokens) / top / seconds
        rows.append([record["name"], f"{tokens / seconds:,.0f}", f"{share:.1%}"])
    return _table(("config", "training tokens/s", "MFU"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(records: Sequence[Record], base: Record, gpu: Gpu) -> Iterator[str]:
    """Every table, with its heading. Estimates are those before any calibration."""
    machine, compared = records[0], compare(records, base, gpu, ASSUMED)
    yield (
        f"{machine['gpu']}: {machine['matmul_bf16_flops_per_s'] / 1e12:.0f} TFLOP/s in bfloat16 matrix products, "
        f"{machine['copy_bytes_per_s'] / 1e12:.2f} TB/s in a copy (bytes read and written). torch {machine['torch']}, "
        f"transformers {machine['transformers']}, Python {machine['python']}, {machine['date']}."
    )
    yield "## Speed\n\n" + speed_table(records, base)
    yield "## Training alone\n\n" + training_table(records, base)
    yield "## The estimates' errors\n\n" + error_table(compared)
    yield "## Peaks in GiB, with the estimate's error\n\n" + memory_table(compared)
    failed = [label(one) for one in records if one["kind"] in ("failed", "left out")]
    if failed:
        yield "Not measured: " + "; ".join(failed)


def write_calibration(records: Sequence[Record], base: Record, gpu: Gpu) -> Path:
    """Write the calibration file of this GPU; returns its path."""
    fitted = calibration(records, base, gpu, ASSUMED)
    path = memory.CALIBRATIONS / f"{gpu.name}.yaml"
    head = "# Written by `python tests/bench/gpu/tables.py --calibrate` (docs/gpu.md).\n"
    files.write_text(path, head + files.dump_yaml(fitted))
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what measure.py wrote")
    parser.add_argument("--calibrate", action="store_true", help="write this GPU's constants for memory.py")
    chosen = parser.parse_args(arguments)
    try:
        records = read(chosen.file)
        base = cases.base_config()
        printed, mib = str(records[0]["gpu"]), (records[0]["total_bytes"] or 0) / 2**20
        known = gpus.of_smi(printed, mib)
        if known is None:
            raise UserError(
                f"{chosen.file}: a machine with {printed}",
                "its memory is not known",
                "add it to nano_exp/planner/gpus.yaml",
            )
        print("\n\n".join(report(records, base, known)))
        if chosen.calibrate:
            print(f"\nwritten: {write_calibration(records, base, known)}")
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
