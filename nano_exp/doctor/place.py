"""What checks look at: the config of what would be launched, and what Slurm says, asked once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from nano_exp import slurm
from nano_exp.compose.freeze import Frozen
from nano_exp.doctor.check import Said
from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.launch import gather, points
from nano_exp.overrides import Override
from nano_exp.preflight import RULES
from nano_exp.preflight.answers import Answers
from nano_exp.preflight.facts import Facts
from nano_exp.preflight.run import applies, findings
from nano_exp.preflight.view import View
from nano_exp.store.results_folder import default_results

Value = TypeVar("Value")
#: How long one of Slurm's commands may take, seconds; the ping comes first, and where it fails nothing else is asked.
PING_S, QUESTION_S = 2.0, 2.0


class Once(Generic[Value]):
    """A value that is made by whoever asks first; the others wait for it."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: list[Value] = []

    def __call__(self) -> Value:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


def ping() -> str:
    """Why Slurm's controller cannot be asked; empty where it, or one that stands by for it, answers."""
    try:
        done = slurm.ask(["scontrol", "ping"], PING_S)
    except slurm.NoAnswer as problem:
        return str(problem)
    if " UP" in done.stdout:
        return ""
    told = [line for line in done.stdout.splitlines() if "DOWN" in line]
    return "; ".join(told) or slurm.words(done.stderr) or f"scontrol ping ended with {done.returncode}"


@dataclass
class Place:
    """One look at a place.

    Parameters
    ----------
    overrides: as for launch.py
    frozen: what would be launched; empty where it cannot be composed
    refused: why it cannot
    parameters: hydra.launcher's
    environ: the environment that a launch would hand on
    network: whether the hub may be asked
    ping: why Slurm's controller cannot be asked, empty where it answers; asked once
    """

    overrides: tuple[str, ...] = ()
    frozen: Sequence[Frozen] = ()
    refused: UserError | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    network: bool = False
    ping: Any = None

    def __post_init__(self) -> None:
        self.ping = self.ping or Once(ping)
        self.answers = Once(self._ask)
        self.facts = Facts(self.environ, self.parameters, True, None, {}, gather.env_names())

    @classmethod
    def of(cls, overrides: Sequence[str], network: bool = False) -> Place:
        """The place as a launch with these overrides would find it."""
        asked = Once(ping)
        threading.Thread(target=asked, daemon=True).start()  # a dead controller takes as long as composing does
        try:
            expanded = points.expanded(overrides)
        except UserError as refused:
            return cls(tuple(overrides), refused=refused, network=network, ping=asked)
        return cls(tuple(overrides), expanded.frozen, None, expanded.parameters, network=network, ping=asked)

    @property
    def config(self) -> Config:
        """What would be launched (of a sweep its first point); empty where it cannot be composed."""
        return Config(self.frozen[0].config if self.frozen else {})

    def typed(self, group: str) -> bool:
        """Whether a group was named."""
        return any(Override.parse(word).key == group for word in self.overrides)

    @property
    def on_slurm(self) -> bool:
        """Whether runs are to go to Slurm: the cluster says so, or a site is named."""
        return self.config.get("slurm.where") == "slurm" or self.typed("site")

    @property
    def nemo_rl(self) -> bool:
        """Whether the runs are NeMo RL's."""
        return self.config.get("engine.name") == "nemo_rl"

    @property
    def results(self) -> Path:
        return Path(str(self.config.get("run.results") or default_results())).expanduser().absolute()

    @property
    def site(self) -> Mapping[str, Any]:
        """The site's section; empty where nothing composes."""
        return dict(self.frozen[0].config.get("site") or {}) if self.frozen else {}

    def existing_path(self, key: str) -> str | None:
        """A path of the config; None where it is null."""
        value = self.config.get(key)
        return str(Path(str(value)).expanduser()) if value else None

    # --- Slurm ------------------------------------------------------------------------------------------------------

    def _ask(self) -> Answers:
        if not slurm.available():
            return Answers(available=False)
        if self.ping():
            return Answers(silent=(self.ping(),))
        sent = [one for one in self.frozen if one.config["slurm"]["where"] == "slurm"]
        return gather.ask(sent, self.parameters, QUESTION_S)

    # --- preflight --------------------------------------------------------------------------------------------------

    def rules(self, *names: str, ask: bool = False) -> Iterator[Said]:
        """What preflight's rules of these names say of what would be launched.

        Parameters
        ----------
        ask: whether they judge by Slurm's answers
        """
        facts = self.facts
        if ask:
            facts = replace(self.facts, answers=self.answers())
        said: dict[Said, None] = {}
        for frozen in self.frozen:
            view = View(frozen.config, frozen.overrides, facts)
            for finding in findings(view, [RULES[name] for name in names if applies(RULES[name], view)]):
                said[Said(finding.severity, finding.found, finding.cause, finding.fix)] = None
        yield from said
