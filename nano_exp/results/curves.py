"""The metrics of one run, by step; and the words for those that everybody asks for, whichever engine wrote them.

Both engines use NeMo RL's names: `train/...`, `validation/...`, `timing/train/...`, `performance/...`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError, choice, nearest
from nano_exp.store import evaluations, metrics_file, runs
from nano_exp.store.spells import Spell

#: Word -> the metric that it stands for. NeMo RL v0.5.0 to main and the embedded engine have all of them.
NAMES = {
    "reward": "train/reward",
    "validation": "validation/accuracy",
    "loss": "train/loss",
    "tokens": "train/total_num_tokens",
    "step-time": "timing/train/total_step_time",
    "length": "train/mean_gen_tokens_per_sample",
    "kl": "train/kl_penalty",
}
#: What a comparison can be at equal amounts of -> its unit in words.
COSTS = {"steps": "steps", "tokens": "tokens", "gpu-hours": "GPU-hours", "time": "s"}


@dataclass(frozen=True)
class Series:
    """One metric over the steps that have it.

    Parameters
    ----------
    name: the metric's own
    nonfinite: steps at which it was NaN or infinite; they are left out
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    nonfinite: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def up_to(self, step: int) -> Series:
        """The same, cut after a step."""
        count = sum(one <= step for one in self.steps)
        return Series(self.name, self.steps[:count], self.values[:count], tuple(s for s in self.nonfinite if s <= step))


class Metrics:
    """The metrics of one run.

    Parameters
    ----------
    rows: one a step, first to last: `step`, `time` (unix seconds) and each metric by its own name
    damaged: lines of the file that are no rows (one that is being written is none)
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], spells: Sequence[Spell] = (), damaged: int = 0) -> None:
        self.rows = tuple(rows)
        self.damaged = damaged
        self._spells = tuple(spells)

    @staticmethod
    def read(run_dir: Path, spells: Sequence[Spell] = ()) -> Metrics:
        """From metrics.jsonl and the evaluations after training; rows of one step are one row."""
        every, damaged = metrics_file.read_counting(run_dir)
        rows: dict[int, dict[str, Any]] = {}
        for row in every:
            rows.setdefault(row["step"], {}).update(row)
        for row in evaluations.rows(run_dir):
            rows.setdefault(row["step"], {}).update(row)
        return Metrics([rows[step] for step in sorted(rows)], spells, damaged)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every metric's own name, sorted."""
        return tuple(sorted(set().union(*self.rows) - {"step", "time", "nonfinite"}))

    def series(self, name: str) -> Series:
        """One metric, by a word of NAMES or its own name; empty where no step has it."""
        own = NAMES.get(name, name)
        steps, values, broken = [], [], []
        for row in self.rows:
            if own in row:
                value = runs.number(row[own])
                if value is None or not math.isfinite(value):
                    broken.append(row["step"])
                else:
                    steps.append(row["step"])
                    values.append(value)
        return Series(own, tuple(steps), tuple(values), tuple(broken))

    @cached_property
    def times(self) -> tuple[tuple[int, float], ...]:
        """Step and unix time of every row that says when it was written."""
        pairs = ((row["step"], runs.number(row.get("time"))) for row in self.rows)
        return tuple((step, moment) for step, moment in pairs if moment is not None and math.isfinite(moment))

    @property
    def last_step(self) -> int:
        """The last training step; 0 before the first."""
        return max((row["step"] for row in self.rows if NAMES["reward"] in row), default=0)

    def until(self, cost: str) -> dict[int, float]:
        """Step -> what the run had cost when it was finished, since the run's first start; empty where nothing says.

        GPU-hours and time count everything up to then: set-up, steps that were trained again, failed attempts; not the
        queue. Tokens are those of all rollouts, prompts included; global_valid_toks is a mean over a step's updates.
        """
        if cost == "steps":
            return {row["step"]: float(row["step"]) for row in self.rows}
        if cost == "tokens":
            return self._tokens()
        taken = {step: _taken(self._spells, moment, gpus=cost == "gpu-hours") for step, moment in self.times}
        return {step: amount for step, amount in taken.items() if amount is not None}

    def _tokens(self) -> dict[int, float]:
        found, total = {}, 0.0
        for row in self.rows:
            value = runs.number(row.get(NAMES["tokens"]))
            if value is not None and math.isfinite(value):
                total += value
            if total:
                found[row["step"]] = total
        return found


def _taken(spells: Sequence[Spell], moment: float, gpus: bool) -> float | None:
    """GPU-hours, or seconds, of all attempts up to a moment."""
    if gpus and any(spell.gpus is None for spell in spells):
        return None
    parts = [(max(0.0, min(moment, s.ended) - s.began), s.gpus or 0) for s in spells if s.began <= moment]
    if not parts:
        return None
    return sum(seconds * count for seconds, count in parts) / 3600 if gpus else sum(seconds for seconds, _ in parts)


def metric_name(word: str, names: Collection[str], option: str = "--by ") -> str:
    """A metric's own name for a word of NAMES, its own name, or an end of it that no other has (`loss`, `kl_penalty`).

    Raises
    ------
    UserError: there is none, with the nearest
    """
    own = NAMES.get(word, word)
    if not names:
        raise UserError(
            "no step has been logged by these runs yet",
            f"{option.strip()} names a metric of metrics.jsonl, and there is none",
            "nano-exp status, which says how far they are",
        )
    if own in names:
        return own
    ends = [name for name in names if name.endswith(f"/{own}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        listed = ", ".join(sorted(ends))
        raise UserError(
            f"{option}{word}", f"{len(ends)} metrics end so: {listed}", choice(option, sorted(ends)[:3], ())
        )
    if word in NAMES:
        raise UserError(
            f"{option}{word}: no step has {own}",
            "it is logged by both engines, but not by these runs so far",
            choice(option, [known for known, name in NAMES.items() if name in names][:3], sorted(names)[:8]),
        )
    tails = {name.rpartition("/")[2]: name for name in sorted(names)}
    near = [one if one in NAMES else tails.get(one, one) for one in nearest(word, {*tails, *names, *NAMES})]
    near = [one for one in near if NAMES.get(one, one) in names]
    raise UserError(
        f"{option}{word}", f"these runs log {len(names)} metrics, and none of that name", choice(option, near, NAMES)
    )
