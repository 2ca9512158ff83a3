"""One of the replayed studies of docs/studies.md: how far each of its points was trained.

study.py OUT.png [NUMBER]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib import pyplot, rc_context

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests" / "bench")]

import study_replay  # noqa: E402
from study_replay import RULES, SEEDS, Recorded  # noqa: E402

from nano_exp.figures.palette import SERIES  # noqa: E402
from nano_exp.figures.save import SETTINGS  # noqa: E402

#: Of forty, one that is as most are: 38% of the grid's GPU-seconds.
TYPICAL = 7


def main() -> None:
    output, number = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else TYPICAL
    points = study_replay.load()
    draw = study_replay.drawn(points, random.Random(number))
    trained = study_replay.replay(draw)
    with rc_context(SETTINGS):
        figure, place = pyplot.subplots(figsize=(5.8, 3.3), layout="constrained")
        for step in RULES.rungs:
            place.axvline(step, color="black", linewidth=0.8, linestyle=":")
            place.annotate(f"rung {step}", (step, 1.04), (2, 0), textcoords="offset points", va="top", fontsize=7)
        labels: dict[int, int] = {}
        for point in points:
            seeds = [draw[point, n] for n in range(SEEDS)]
            goal = min(trained[f"{point} {n}"] for n in range(SEEDS))
            colour = SERIES[sum(goal > step for step in RULES.rungs)]
            labels[goal] = labels.get(goal, 0) + 1
            _line(place, seeds, 0, goal, color=colour, linewidth=1.4, marker=".", markersize=4)
            _line(place, seeds, goal, seeds[0].steps, color=colour, linewidth=0.7, alpha=0.35)
        for goal, count in sorted(labels.items()):
            colour = SERIES[sum(goal > step for step in RULES.rungs)]
            name = f"{count} point{'s' * (count != 1)} trained to step {goal}"
            place.plot([], [], color=colour, label=name)
        place.plot([], [], color="grey", linewidth=0.7, alpha=0.6, label="what the full grid trains besides")
        finals = {point: fmean(draw[point, n].accuracy[draw[point, n].steps] for n in range(SEEDS)) for point in points}
        for point, align in zip(sorted(finals, key=lambda point: -finals[point]), ("bottom", "top"), strict=False):
            end = max(draw[point, 0].accuracy), finals[point]
            text = point.replace(" generations=", ", ") + " generations"
            place.annotate(text, end, (4, 0), textcoords="offset points", fontsize=7, va=align)
        place.set(xlabel="step", ylabel="validation accuracy, mean of three seeds", xlim=(0, 121), ylim=(0, 1.06))
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(output, dpi=130)


def _curve(seeds: Sequence[Recorded], first: int, last: int) -> list[tuple[int, float]]:
    steps = [step for step in seeds[0].accuracy if first <= step <= last]
    return [(step, fmean(seed.accuracy[step] for seed in seeds)) for step in steps]


def _line(place: pyplot.Axes, seeds: Sequence[Recorded], first: int, last: int, **style: object) -> None:
    place.plot(*zip(*_curve(seeds, first, last), strict=True), **style)


if __name__ == "__main__":
    main()
