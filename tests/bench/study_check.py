"""What became of a study of recorded points, on the mini cluster say: `python tests/bench/study_check.py RESULTS NAME`.

    python launch.py -m model=nano_tiny cluster=1n1g site=minicluster slurm.cpus_per_node=1 grpo.seed=1,2,3 \\
        optimizer.lr=5e-4,1e-3,2e-3 grpo.num_generations_per_prompt=4,8,16 grpo.max_num_steps=120 grpo.val_period=10 \\
        'halving.rungs=[20,40]' parallel=2 canary=false run.name=NAME

From its events: whether a run was lost or executed twice, and whether the same points go on where what they reached is
decided again, rung by rung in the order of time. A step costs what it does in study_replay, so that what else ran on
the machine is not in the figures; accuracies are compared with those of recorded runs of the same seed.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import study_replay
from study_replay import ROOT

sys.path.insert(0, str(ROOT))

from nano_exp.store import metrics_file, runs
from nano_exp.study import book
from nano_exp.study.halving import Halving, Member, decide

ACCURACY = "validation/accuracy"
Pair = tuple[runs.Run, Member]


def key(run: runs.Run) -> tuple[int, float, int]:
    """Its seed, rate and generations."""
    return (
        run.value("grpo.seed"),
        float(run.value("optimizer.lr")),
        int(run.value("grpo.num_generations_per_prompt")),
    )


def steps(run: runs.Run) -> list[int]:
    return [row["step"] for row in metrics_file.read(run.dir) if "train/reward" in row]


def accuracies(run: runs.Run) -> dict[int, float]:
    return {row["step"]: row[ACCURACY] for row in metrics_file.read(run.dir) if ACCURACY in row}


def lost(pairs: Sequence[Pair], rules: Halving, most: int) -> list[str]:
    """Runs that did not come where they were to train."""
    goals = [*rules.rungs, most]
    return [run.id for run, member in pairs if max(steps(run), default=0) != goals[member.level]]


def twice(pairs: Sequence[Pair]) -> list[str]:
    """Runs with a step twice, or an attempt that began before the one before it had ended."""
    found = []
    for run, _ in pairs:
        again = len(steps(run)) != len(set(steps(run)))
        spans = [(a.number, (a.end or {}).get("time")) for a in runs.attempts(run.dir)]
        begins = {e.data["attempt"]: e.time for e in run.events if e.kind == "start"}
        early = any(end and begins[later] < end for (_, end), (later, _) in itertools.pairwise(spans))
        found += [run.id] if again or early or len(begins) != len(spans) else []
    return found


def decided_again(pairs: Sequence[Pair], rules: Halving) -> set[tuple[str, int]]:
    """The points that go on from each rung, decided after each of what was reached, in the order of time."""
    members = {run.id: replace(member, level=0, values={}, out=False) for run, member in pairs}
    reached = sorted((e.time, run.id, e.data["rung"]) for run, _ in pairs for e in run.events if e.kind == "rung")
    values = {(run.id, rung): value for run, member in pairs for rung, value in member.values.items()}
    told: set[tuple[str, int]] = set()
    for _, run, rung in reached:
        members[run] = replace(members[run], values={**members[run].values, rung: values[run, rung]})
        while news := decide(list(members.values()), rules):
            told |= {(one.point, one.rung) for one in news}
            for one in news:
                for name, member in members.items():
                    if member.point == one.point and member.level == one.rung:
                        members[name] = replace(member, level=one.rung + 1)
    return told


def main(results: Path, name: str) -> None:
    """Print it."""
    rules = book.read(results, name)
    assert rules is not None, f"{name} is no study"
    pairs = book.members(results, name, rules)
    most = max(int(run.record["max_steps"]) for run, _ in pairs)
    kinds = Counter(str((runs.attempts(run.dir)[-1].end or {}).get("kind")) for run, _ in pairs)
    told = {(m.point, e.data["rung"]) for run, m in pairs for e in run.events if e.kind == "promote"}
    print(f"{len(pairs)} runs: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    print(f"lost: {lost(pairs, rules, most) or 0}; executed twice: {twice(pairs) or 0}")
    print(f"decided again, the same {len(told)} go on: {decided_again(pairs, rules) == told}")
    _cost(pairs, most)
    _winner(pairs, most)
    _recorded(pairs)


def _cost(pairs: Sequence[Pair], most: int) -> None:
    recorded = study_replay.load()
    step_s = {run.id: recorded["lr={1:g} generations={2}".format(*key(run))][0].step_s for run, _ in pairs}
    trained = sum(len(steps(run)) for run, _ in pairs)
    seconds = sum(len(steps(run)) * step_s[run.id] for run, _ in pairs)
    grid = sum(most * each for each in step_s.values())
    tried = [attempt for run, _ in pairs for attempt in runs.attempts(run.dir)]
    print(f"trained {trained:,} of the grid's {most * len(pairs):,} steps ({trained / (most * len(pairs)):.0%})")
    print(
        f"at the recorded pace {seconds:,.0f} of {grid:,.0f} CPU-seconds ({seconds / grid:.0%}); {len(tried)} attempts"
    )


def _winner(pairs: Sequence[Pair], most: int) -> None:
    points: dict[str, list[float]] = {}
    for run, member in pairs:
        if most in accuracies(run):
            points.setdefault(member.point, []).append(accuracies(run)[most])
    for point, values in sorted(points.items(), key=lambda one: -fmean(one[1])):
        print(f"step {most}: {fmean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)}) {point}")


def _recorded(pairs: Sequence[Pair]) -> None:
    curves = {(line["seed"], line["lr"], line["generations"]): line["accuracy"] for line in _lines()}
    both = [
        (value, curves[key(run)].get(str(step)))
        for run, _ in pairs
        if key(run) in curves
        for step, value in accuracies(run).items()
    ]
    same = sum(other is not None and abs(value - other) < 1e-3 for value, other in both)
    print(f"accuracies that are those of a recorded run: {same} of {len(both)}")


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in study_replay.DATA.read_text().splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
