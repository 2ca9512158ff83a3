"""A phase of a run that takes longer than it may: reported, reported again, and then ended for the next attempt.

Pure: what is looked at and what time it is are given. Which phase a run is in, its engine says (engines.Phases).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.store.phase import LABELS, SETUP
from nano_exp.text import duration

ACTIONS = ("report", "restart")
AUTO = "auto"
#: Minutes that a phase may take where nothing was measured and nothing is set. They are long: what is ended by mistake
#: costs more than what is noticed late.
PATIENCE_MIN: dict[str, float] = {
    "environment": 60,  # `uv sync` compiles
    "ray": 15,
    "data": 45,
    "vllm": 30,
    "policy": 45,
    "conversion": 90,
    "rollout": 60,  # kernels are compiled; with NeMo Gym its servers start
    "step": 90,
    "validation": 150,
    "save": 60,
}
#: Where it was measured: so many times the longest, but no less than this part of PATIENCE_MIN, and no more.
LEARNED, LEAST, MOST = 3.0, 0.5, 4.0
#: A stall is reported at these multiples of the patience; at the last one, with `restart`, the engine is ended.
TIMES = (1.0, 1.5, 2.0)
#: What waits for data that cannot come has this long, seconds, or three steps: trajectories may be under way still.
HOPELESS_S, HOPELESS_STEPS = 600.0, 3.0


@dataclass(frozen=True)
class Rule:
    """When a run counts as stalled, and what follows.

    Parameters
    ----------
    action: report, or restart: report twice, then end the engine
    factor, minimum_s: a step may take `factor` times the median, and `minimum_s` at least, once there are three
    patience: phase -> seconds that it may take; others are not watched
    exact: those of them that somebody set: a step's then counts whatever its median is
    """

    action: str = "restart"
    factor: float = 10.0
    minimum_s: float = 1800.0
    patience: Mapping[str, float] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: Mapping[str, Any], longest: Mapping[str, float] | None = None) -> Rule:
        """From the config's `site` and `engine.patience_min`.

        Parameters
        ----------
        longest: phase -> the longest that it took in attempts like this one, seconds

        Raises
        ------
        UserError: an action that there is not
        """
        site, engine = config.get("site") or {}, config.get("engine") or {}
        action = str(site.get("on_stall") or cls.action)
        if action not in ACTIONS:
            raise UserError(
                f"site.on_stall={action}",
                "a stalled run is reported, or ended and started again",
                "site.on_stall=report or site.on_stall=restart",
            )
        known, asked = longest or {}, engine.get("patience_min") or {}
        patience, exact = {}, set()
        for phase in PATIENCE_MIN if engine.get("name") == "nemo_rl" else ():
            value = asked.get(phase, AUTO)
            if value == AUTO:
                patience[phase] = learned(phase, known.get(phase))
            elif value:
                patience[phase] = 60.0 * float(value)
                exact.add(phase)
            elif phase == "step":
                exact.add(phase)  # off
        return cls(
            action,
            float(site.get("stall_factor") or cls.factor),
            60.0 * float(Config(site).get("stall_minutes", cls.minimum_s / 60)),
            patience,
            frozenset(exact),
        )

    def seconds(self, phase: str, median_s: float | None) -> float | None:
        """How long a phase may take; None where it is not watched.

        Parameters
        ----------
        median_s: of this attempt's steps; None before there are three
        """
        if phase == "step" and phase not in self.exact and median_s is not None:
            return max(self.minimum_s, self.factor * median_s)
        return self.patience.get(phase)


def learned(phase: str, longest_s: float | None) -> float:
    """Seconds that a phase may take which nobody set, from the longest that it took."""
    usual = 60.0 * PATIENCE_MIN[phase]
    return usual if longest_s is None else min(max(LEARNED * longest_s, LEAST * usual), MOST * usual)


@dataclass(frozen=True)
class Stall:
    """A phase takes longer than it may.

    Parameters
    ----------
    phase: a key of store.phase.LABELS
    step: the last one that was finished, 0 before the first
    seconds: how long the phase has taken
    patience_s: how long it may
    number: the how manieth report of it, from 1
    median_s: of the attempt's steps; None before there are three
    hopeless: it waits for data that cannot come
    """

    phase: str
    step: int
    seconds: float
    patience_s: float
    number: int = 1
    median_s: float | None = None
    hopeless: bool = False

    def __str__(self) -> str:
        if self.hopeless:
            return f"stalled: the training data are used up after step {self.step}, and it waits for more"
        if self.phase == "step" and self.median_s is not None:
            took = f"after step {self.step}, which took {self.median_s:.1f} s"
            return f"stalled: no new step for {self.seconds:.0f} s {took}"
        after = f" after step {self.step}" if self.step else ""
        label = LABELS.get(self.phase, self.phase)
        return f"stalled: {label}{after} for {duration(self.seconds)}, longer than {duration(self.patience_s)}"


class Watchdog:
    """What an attempt's phases take, look by look.

    Parameters
    ----------
    began: unix time of the engine's start

    Attributes
    ----------
    phase, since: where the attempt is, and since when (unix time)
    took: phase -> seconds, of those that were left: a phase of set-up in all, of others the longest
    """

    def __init__(self, rule: Rule, began: float) -> None:
        self.rule, self.phase, self.since = rule, "", began
        self.took: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._moves = 0
        self._reports: dict[str, int] = {}
        self._began = began

    def look(
        self, phase: str, steps: Sequence[tuple[int, float]], now: float, moves: int = 0, hopeless: bool = False
    ) -> Stall | None:
        """Whether there is something to report now.

        Parameters
        ----------
        phase: where the engine is; "" where it does not say: then steps alone are watched, from the third on
        steps: (step, unix time of its end) of this attempt, oldest first
        moves: how often it got on within the training loop; each begins the phase anew
        hopeless: it waits for data that cannot come
        """
        self._enter(phase, moves, now)
        durations = [b - a for (_, a), (_, b) in itertools.pairwise(steps)]
        median = statistics.median(durations) if len(durations) > 1 else None
        name, silent = phase, now - self.since + self._spent.get(phase, 0.0)
        if steps and phase in ("", "step"):
            name, silent = "step", now - max(steps[-1][1], self.since if phase else 0.0)
        patience = self.rule.seconds(name, median)
        if patience is not None and hopeless:
            patience = min(patience, max(HOPELESS_S, HOPELESS_STEPS * (median or 0.0)))
        if patience is None or not name:
            return None
        if silent < patience:
            self._reports.pop(name, None)
            return None
        number = self._reports.get(name, 0)
        last = len(TIMES) if self.rule.action == "restart" else len(TIMES) - 1
        if number >= last or silent < TIMES[number] * patience:
            return None
        self._reports[name] = number + 1
        step = steps[-1][0] if steps else 0
        return Stall(name, step, silent, patience, number + 1, median if name == "step" else None, hopeless)

    def _enter(self, phase: str, moves: int, now: float) -> None:
        if phase == self.phase and (moves == self._moves or phase in SETUP):
            self._moves = moves
            return
        if self.phase:
            stay = now - self.since
            if self.phase in SETUP:
                stay += self._spent.get(self.phase, 0.0)
                self._spent[self.phase] = stay
            self.took[self.phase] = max(self.took.get(self.phase, 0.0), stay)
        if phase not in SETUP:
            self._reports.pop(phase, None)
        self.phase, self.since, self._moves = phase, now if self.phase else self._began, moves

    def ends(self, stall: Stall) -> bool:
        """Whether the engine is to be ended for this one."""
        return self.rule.action == "restart" and stall.number >= len(TIMES)
