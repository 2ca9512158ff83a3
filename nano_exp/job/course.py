"""How far an attempt trains, and what ends it early: the rules of its launch's `stop`, looked at while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nano_exp.store import metrics_file, runs
from nano_exp.study import halving, pausing, peers, stop_rules
from nano_exp.study.halving import Halving
from nano_exp.text import Say


@dataclass(frozen=True)
class Course:
    """What the launch wants of an attempt.

    Parameters
    ----------
    stop: the launch's `stop` section; empty: no rule ends it
    rungs: those of its study; None: it trains to its end
    level: from how many of them the run was promoted
    """

    stop: Mapping[str, Any] = field(default_factory=dict)
    rungs: Halving | None = None
    level: int = 0

    @staticmethod
    def of(manifest: Mapping[str, Any], run: runs.Run, canary: bool = False) -> Course:
        """From a launch's manifest. A canary ends by itself: its launch waits for that."""
        if canary:
            return Course()
        terms = manifest.get("terms") or {}
        return Course(terms.get("stop") or {}, halving.of(terms.get("halving")), runs.rungs_left(run))

    def goal(self, max_steps: int) -> int:
        """The step that the attempt trains to."""
        return halving.target(self.rungs, self.level, max_steps)

    def overlay(self, config: Mapping[str, Any]) -> dict[str, object]:
        """What its engine reads otherwise than the config has it."""
        whole = int(config["grpo"]["max_num_steps"])
        return pausing.overlay(config, self.goal(whole), whole) if self.rungs is not None else {}

    def judge(self, run: runs.Run, config: Mapping[str, Any], last_step: Callable[[], int], say: Say) -> Judge:
        """The rules over this run."""
        return Judge(self.stop, run, config, last_step, say)


class Judge:
    """Looks at a run's new steps. Once a rule holds, the next whole checkpoint ends it: NeMo RL saves on no signal.

    Parameters
    ----------
    last_step: of the newest whole checkpoint
    """

    def __init__(
        self,
        stop: Mapping[str, Any],
        run: runs.Run,
        config: Mapping[str, Any],
        last_step: Callable[[], int],
        say: Say,
    ) -> None:
        self.stop, self.run, self.config, self.last_step, self.say = stop, run, config, last_step, say
        self.verdict: stop_rules.Verdict | None = None
        self._seen = 0

    def is_over(self) -> bool:
        """Whether the engine is to be ended now."""
        if not stop_rules.on(self.stop):
            return False
        if self.verdict is None:
            self.verdict = self._judge()
            if self.verdict is None:
                return False
            saves = self.config["checkpointing"].get("enabled") is True
            runs.record_event(self.run.dir, "note", durable=False, text=f"ends at its next checkpoint: {self.verdict}")
            self.say(f"{self.verdict}; it ends {'at its next checkpoint' if saves else 'now, without a checkpoint'}")
        return not self.config["checkpointing"].get("enabled") or self.last_step() >= self.verdict.step

    def _judge(self) -> stop_rules.Verdict | None:
        newest = metrics_file.read(self.run.dir, tail_bytes=64 * 1024)
        step = max((row["step"] for row in newest if stop_rules.REWARD in row), default=0)
        if step <= self._seen:
            return None
        self._seen = step
        rows = stop_rules.merged(metrics_file.read(self.run.dir))
        others = peers.others(self.run, self.config) if stop_rules.on(self.stop).get("behind") else {}
        return stop_rules.judge(stop_rules.Curve(rows, peers.gpus(self.config), others), self.stop)

    def facts(self, end: Mapping[str, Any]) -> dict[str, Any]:
        """What an end by a rule says of it."""
        if self.verdict is None:
            return {}
        return {**vars(self.verdict), "exit_code": 0, "why": f"{self.verdict}; {end['why']}"}
