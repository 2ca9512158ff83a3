"""Peaks that were measured on an H200 beside the planner's: python tests/planner/measured.py [--write]

Prints how far the estimates are off by phase, and what becomes of each family of runs when the constants are fitted
without it. --write writes nano_exp/planner/calibration/h200-141.yaml from all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from planner_case import read

from nano_exp import files
from nano_exp.layout.architecture import Architecture
from nano_exp.layout.layouts import FSDP2, FULL, NONE, Layout
from nano_exp.layout.workload import Job
from nano_exp.planner import calibrate, gpus, phase_memory
from nano_exp.planner.calibrate import Peak
from nano_exp.planner.gpus import Constants
from nano_exp.planner.ranges import GIB, Range, exactly, largest

DATA = json.loads(Path(__file__).with_name("measured_h200.json").read_text())
H200 = gpus.gpu("h200-141")
#: Families, of which one at a time is left out of the fit.
FAMILIES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "dense, up to 0.3 B": lambda run: run["model"] in ("d1", "d2") and run["world"] == 1,
    "dense, from 0.6 B": lambda run: run["model"] in ("d3", "d4", "d5"),
    "hybrid": lambda run: run["model"].startswith("h"),
    "vocabulary 2,048": lambda run: DATA["models"][run["model"]]["vocab"] == 2048,
    "vocabulary 131,072": lambda run: DATA["models"][run["model"]]["vocab"] != 2048,
    "recompute": lambda run: run["recompute"],
    "offload": lambda run: run["offload"],
    "two GPUs": lambda run: run["world"] == 2,
}


class Seen(NamedTuple):
    """A phase of a run: what was measured, and what is expected, GiB."""

    run: str
    phase: str
    measured: float
    estimate: Range

    @property
    def off(self) -> float:
        """Part of what was measured: above 0 the planner expects too much."""
        return self.estimate.expected / self.measured - 1


def job(run: dict[str, Any]) -> Job:
    """The run as the planner sees it. DTensor's first worker with Hugging Face's modules, vLLM without graphs."""
    layout = Layout(
        FSDP2,
        tensor=run["tensor"],
        recompute=FULL if run["recompute"] else NONE,
        offload=run["offload"],
        micro_batch=run["micro"],
        logprob_batch=run["micro"],
        train_tokens=run["micro"] * run["length"],
        logprob_tokens=run["micro"] * run["length"],
        force_hf=True,
        second_worker=False,
    )
    base = read("model=nano_9b", "cluster=1n8g")
    gpus_, batch = run["world"], run["batch"]
    shape = base.shape._replace(world=gpus_, gpus_per_node=gpus_, prompts=4, generations=batch // 4, global_batch=batch)
    generation = replace(
        base.generation, world=run["world"], tensor=1, utilization=run["share"], graphs=False, max_length=run["length"]
    )
    return replace(
        base,
        architecture=Architecture(run["model"], **DATA["models"][run["model"]]),
        layout=layout,
        generation=generation,
        shape=shape,
        nodes=1,
        max_length=run["length"],
        mean_length=run["length"],
        chunk=0,
        lora=0,
    )


def seen(constants: Constants, runs: Sequence[dict[str, Any]] = DATA["runs"]) -> Iterator[Seen]:
    """Every phase that was measured. Torch keeps what it reserved until the phase changes: training has the step in."""
    for run in runs:
        sizes = {phase.name: phase.size for phase in phase_memory.phases(job(run), H200, constants)}
        sizes[phase_memory.TRAIN] = largest(sizes[phase_memory.TRAIN], sizes.get(phase_memory.STEP, Range(0, 0, 0)))
        for name, gib in run["peaks"].items():
            yield Seen(run["run"], name, gib, sizes[name].times(1 / GIB))
        if step := sizes.get(phase_memory.STEP):
            yield Seen(run["run"], phase_memory.STEP, run["allocated"][phase_memory.STEP], step.times(1 / GIB))


def peaks(runs: Sequence[dict[str, Any]]) -> list[Peak]:
    return [
        Peak(job(run), name, gib, f"tests/planner/measured_h200.json, {run['run']}")
        for run in runs
        for name, gib in run["peaks"].items()
    ]


#: Constants that Megatron's estimates have too: DTensor's peaks say nothing of its fused kernels, so they stay.
SHARED = ("activation_scale", "transient_blocks", "fragments")


def fit(runs: Sequence[dict[str, Any]]) -> calibrate.Fit:
    assumed = vars(gpus.assumed())
    prior = {**assumed, **{name: exactly(assumed[name].expected) for name in SHARED}}
    made = calibrate.fit(peaks(runs), H200, Constants(**prior))
    return replace(made, constants={name: value for name, value in made.constants.items() if name not in SHARED})


def fitted(runs: Sequence[dict[str, Any]]) -> Constants:
    return Constants(**{**vars(gpus.assumed()), **fit(runs).constants})


def row(name: str, found: list[Seen]) -> str:
    offs = [abs(one.off) for one in found]
    out = sum(not one.estimate.low <= one.measured <= one.estimate.high for one in found)
    worst = max(found, key=lambda one: abs(one.off))
    mean = 100 * sum(offs) / len(offs)
    within = sum(off <= 0.1 for off in offs)
    return (
        f"| {name} | {len(found)} | {mean:.1f}% | {100 * worst.off:+.0f}% ({worst.run}) | {within} of {len(found)} |"
        f" {out} |"
    )


def table(found: list[Seen]) -> list[str]:
    phases = (phase_memory.REFIT, phase_memory.GENERATION, phase_memory.LOGPROB, phase_memory.TRAIN, phase_memory.STEP)
    return [row(name, mine) for name in phases if (mine := [one for one in found if one.phase == name])]


def main() -> None:
    runs = DATA["runs"]
    head = ["| | peaks | mean error | largest | within 10% | outside low-high |", "| --- " * 6 + "|"]
    for title, constants in (("as assumed", gpus.assumed()), ("fitted to all", fitted(runs))):
        print(f"\n{title}\n", *head, *table(list(seen(constants))), sep="\n")
    print("\nleft out of the fit\n", *head, sep="\n")
    for name, belongs in FAMILIES.items():
        mine = [run for run in runs if belongs(run)]
        constants = fitted([run for run in runs if not belongs(run)])
        print(row(name, [one for one in seen(constants, mine) if one.phase != phase_memory.STEP]))
    if "-v" in sys.argv:
        for one in seen(fitted(runs)):
            print(f"{one.run} {one.phase:15} {one.measured:7.2f} {one.off:+.1%}", *(round(x, 2) for x in one.estimate))
    if "--write" in sys.argv:
        files.make_dir(gpus.CALIBRATION)
        text = calibrate.document("h200-141", peaks(runs), fit(runs), None)
        text = text.replace("`nano-exp plan --calibrate`", "`python tests/planner/measured.py --write`", 1)
        files.write_text(gpus.CALIBRATION / "h200-141.yaml", text)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
