"""Replays recorded runs through a study's own decisions, 40 times: `python tests/bench/study_replay.py`.

Each study draws three of the recorded seeds for each of nine points, anew for each point, and runs them on four workers
in the order of a sweep whose first axis is the seed. Against the full grid of the same draw: is the winner as good, or
is its mean within the 95% interval of the grid's winner (over all its recorded seeds), and which part of the
GPU-seconds did it take. A step of a point costs what its quickest recorded seed's median step took: the runs were
recorded on a machine that others used.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nano_exp.results import certainty  # noqa: E402
from nano_exp.study.halving import Halving, Member, decide, target  # noqa: E402

DATA = Path(__file__).with_name("study_curves.jsonl")
RULES = Halving((20, 40), 0.34)
SEEDS, WORKERS, STUDIES = 3, 4, 40


@dataclass(frozen=True)
class Recorded:
    """One run: accuracy by step, and seconds a step."""

    accuracy: Mapping[int, float]
    step_s: float

    @property
    def steps(self) -> int:
        return max(self.accuracy)


@dataclass(frozen=True)
class Study:
    """What a replay gave: its winner and the grid's, whether it is as good, or within the interval, and its part of the
    cost."""

    winner: str
    best: str
    same: bool
    right: bool
    part: float


def load(path: Path = DATA) -> dict[str, list[Recorded]]:
    """Point -> its recorded seeds."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    points: dict[str, list[Recorded]] = {}
    for line in lines:
        same = [one for one in lines if (one["lr"], one["generations"]) == (line["lr"], line["generations"])]
        step_s = min(median(one["seconds"]) for one in same)
        accuracy = {int(step): value for step, value in line["accuracy"].items()}
        points.setdefault(f"lr={line['lr']:g} generations={line['generations']}", []).append(Recorded(accuracy, step_s))
    return points


def replay(runs: Mapping[tuple[str, int], Recorded], rules: Halving = RULES, workers: int = WORKERS) -> dict[str, int]:
    """A study on some workers; run -> the step that it was trained to. The decisions are the attempts' own."""
    order = [f"{point} {seed}" for point, seed in runs]
    curves = dict(zip(order, runs.values(), strict=True))
    point_of = dict(zip(order, (point for point, _ in runs), strict=True))
    level, values = dict.fromkeys(order, 0), {run: {} for run in order}
    trained = dict.fromkeys(order, 0)
    waiting, busy, now = list(order), [], 0.0
    while waiting or busy:
        while waiting and len(busy) < workers:
            run = waiting.pop(0)
            goal = target(rules, level[run], curves[run].steps)
            heapq.heappush(busy, (now + (goal - trained[run]) * curves[run].step_s, run, goal))
        now, run, goal = heapq.heappop(busy)
        trained[run] = goal
        if goal < curves[run].steps:
            values[run][level[run]] = curves[run].accuracy[goal]
        members = [Member(one, point_of[one], level[one], values[one]) for one in order]
        for promotion in decide(members, rules):
            seeds = [one for one in order if point_of[one] == promotion.point and level[one] == promotion.rung]
            for one in seeds:
                level[one] += 1
            waiting[:0] = seeds
    return trained


def drawn(points: Mapping[str, Sequence[Recorded]], chance: random.Random) -> dict[tuple[str, int], Recorded]:
    """The runs of one study, in the order of its launch."""
    return {(point, n): chance.choice(seeds) for n in range(SEEDS) for point, seeds in points.items()}


def study(points: Mapping[str, Sequence[Recorded]], chance: random.Random, rules: Halving = RULES) -> Study:
    """One study and its full grid."""
    draw = drawn(points, chance)
    finals = {point: [draw[point, n].accuracy[draw[point, n].steps] for n in range(SEEDS)] for point in points}
    means = {point: fmean(values) for point, values in finals.items()}
    best = max(means, key=lambda point: means[point])
    trained = replay(draw, rules)
    ended = [point for point in points if all(trained[f"{point} {n}"] == draw[point, n].steps for n in range(SEEDS))]
    winner = max(ended, key=lambda point: means[point])
    # Of all recorded seeds: a draw may have one of them three times, and then no interval at all.
    interval = certainty.interval([one.accuracy[one.steps] for one in points[best]])
    low = interval.low if interval is not None else means[best]
    cost = sum(trained[f"{point} {n}"] * one.step_s for (point, n), one in draw.items())
    part = cost / sum(one.steps * one.step_s for one in draw.values())
    return Study(winner, best, means[winner] == means[best], means[winner] >= low, part)


def studies(points: Mapping[str, Sequence[Recorded]]) -> list[Study]:
    """The forty."""
    return [study(points, random.Random(number)) for number in range(STUDIES)]


def main() -> None:
    points = load()
    made = studies(points)
    print(f"{len(points)} points, {sum(map(len, points.values()))} recorded runs, {STUDIES} studies of {SEEDS} seeds")
    print(f"as good as the full grid's winner: {sum(one.same for one in made)}")
    print(f"the same, or within its interval: {sum(one.right for one in made)}")
    parts = sorted(one.part for one in made)
    print(f"part of the GPU-seconds: {fmean(parts):.1%} on average, {parts[0]:.1%} to {parts[-1]:.1%}")


if __name__ == "__main__":
    main()
