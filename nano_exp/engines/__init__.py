"""Engines: what trains a run. The attempt (nano_exp.job.attempt) drives one through the functions of `Engine`.

An engine is a module with those functions at its top level. Importing this package, or asking for an engine by name,
imports neither torch nor wandb: the launch path and the attempt run without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from nano_exp.engines.origin import Origin
from nano_exp.errors import UserError, choice, nearest
from nano_exp.text import as_typed

MODULES = {
    "nemo_rl": "nano_exp.engines.nemo_rl.engine",
    "embedded": "nano_exp.engines.embedded",
}


@dataclass(frozen=True)
class Context:
    """What one attempt knows beyond its run's frozen config.

    Parameters
    ----------
    run_dir: the run's folder in the store
    attempt_dir: attempts/<n> inside it
    number: which attempt of the run this is, from 1
    config_path: the flat YAML that the engine reads (attempts/<n>/nemo_rl.yaml)
    deadline: unix time at which the allocation ends; None when nothing ends it
    setup_s: the longest that an earlier attempt took from the engine's start to its first step's, seconds; None before
        one was measured
    resumes_from: the step of the checkpoint that it goes on from; 0 where it starts at the beginning
    """

    run_dir: Path
    attempt_dir: Path
    number: int
    config_path: Path
    deadline: float | None = None
    setup_s: float | None = None
    resumes_from: int = 0


@dataclass(frozen=True)
class Command:
    """The child process that trains.

    Parameters
    ----------
    argv: program and arguments
    env: the complete environment of the child, not an addition to the attempt's
    cwd: its working folder
    open_files: the soft limit of open files that the child should have; None leaves it. The starter raises the soft
        limit up to the hard one (`raise_open_files` is made for Popen's preexec_fn).
    scratch: folders outside the run that the child's life ends with; the starter removes them after it
    """

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    open_files: int | None = None
    scratch: tuple[Path, ...] = ()


class Phases(Protocol):
    """In which phase a run is, for its watchdog and for those who look.

    Attributes
    ----------
    moves: how often it got on within its training loop: a step was finished, or a batch
    starved: whether it waits for data that cannot come
    """

    moves: int

    @property
    def starved(self) -> bool: ...

    def feed(self, line: str) -> None:
        """Take a line of the engine's stdout."""

    def now(self) -> str:
        """A key of store.phase.LABELS."""


class Mistake(UserError):
    """One thing in a config that an engine cannot run.

    Parameters
    ----------
    keys: the dotted keys involved, with their values
    found: what was found, where that is not these keys' values
    """

    def __init__(self, keys: Mapping[str, Any], why: str, fix: str, found: str = "") -> None:
        super().__init__(found or ", ".join(f"{key}={as_typed(value)}" for key, value in keys.items()), why, fix)
        self.keys = tuple(keys)


class Refused(UserError):
    """Everything in a config that an engine cannot run; as a single error it is the first of it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(mistakes[0].found, mistakes[0].why, mistakes[0].fix)
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.mistakes))


class Engine(Protocol):
    """The functions of an engine module. `config` is always the run's frozen config as plain dicts and lists."""

    def check(self, config: dict[str, Any]) -> None:
        """Refuse what this engine cannot run, with Refused where a config's keys are wrong, else with UserError. Called
        at launch; imports no torch."""

    def fits(self, config: dict[str, Any], origin: Origin, source: Mapping[str, Any]) -> None:
        """Refuse a run that cannot start from the checkpoint of `origin`, or go on with it. Called at launch.

        `source`: the config that the checkpoint was trained with. Of an open origin only the configs are compared.
        Raises UserError."""

    def readable(self, config: dict[str, Any], origin: Origin) -> bool:
        """Whether a checkpoint is there in a form that a run with `init_from` can start from; else an export of it
        is."""

    def initial(self, config: dict[str, Any]) -> dict[str, object]:
        """Dotted key -> value of what names the first weights of a run that has `init_from`; nothing for others.
        UserError where they are not there."""

    def overlay(self, config: dict[str, Any], ctx: Context) -> dict[str, object]:
        """Dotted key -> value for what the attempt alone knows (deadline, parser's path)."""

    def command(self, config: dict[str, Any], ctx: Context) -> Command:
        """What to start. UserError names what is missing on this host."""

    def follow(self, config: dict[str, Any], ctx: Context, lines: Iterable[str | None]) -> Iterator[dict[str, Any]]:
        """Rows for metrics.jsonl while the engine trains; nothing for an engine that writes the file itself. `lines`
        are those of its stdout as they appear, and None each time that there are no more for now."""

    def trains(self, line: str) -> bool:
        """Whether a line of stdout says that set-up is over: all that it makes on shared disks is made."""

    def checkpoint_folder(self, config: dict[str, Any], ctx: Context) -> Path:
        """Where this run's step_N lie (engines.checkpoints)."""

    def phases(self, config: dict[str, Any], ctx: Context) -> Phases | None:
        """What tells the attempt's phase, made before the engine starts; None for an engine whose steps alone count."""

    def last_step(self, config: dict[str, Any], ctx: Context) -> int:
        """The last finished step that survives this attempt's end: that of the newest whole checkpoint, or 0."""

    def export(self, config: dict[str, Any], checkpoint_path: Path, target: Path) -> Command:
        """What writes a checkpoint's Hugging Face weights into a folder that is not there yet. UserError where this
        engine and version have no converter for it."""

    def evaluate(self, config: dict[str, Any], checkpoint_path: Path, data: str, target: Path) -> Command:
        """What evaluates a checkpoint on `data` (empty: this engine's own held-out data) and writes into `target`,
        which is not there yet. UserError where it cannot."""

    def scores(self, config: dict[str, Any], target: Path, printed: Iterable[str]) -> dict[str, float]:
        """What an evaluation found: name -> value, from its folder and the lines of its stdout. Raises OSError, Damaged
        or ValueError where there is nothing."""

    def torn(self, config: dict[str, Any], ctx: Context) -> list[Path]:
        """What kills left of this run's checkpoints, is never read again, and the engine would leave there for ever."""

    def end_of(
        self,
        config: dict[str, Any],
        exit_code: int,
        last_step: int,
        finished_steps: int = 0,
        printed: Iterable[str] = (),
        asked_to_stop: bool = False,
    ) -> Literal["done", "stopped", "failed"]:
        """What kind of end an attempt had, from its exit code (negative: a signal), how far it came, and the lines of
        its stdout."""


def get(name: str) -> Engine:
    """The engine module called `name`.

    Raises
    ------
    UserError: no engine has that name
    """
    if name not in MODULES:
        raise UserError(
            f"engine.name={name}",
            "there is no engine of that name",
            choice("engine=", nearest(str(name), MODULES), sorted(MODULES)),
        )
    return cast(Engine, importlib.import_module(MODULES[name]))


def raise_open_files(limit: int) -> None:
    """Raise this process's soft limit of open files to `limit`, or to the hard limit where that is lower."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft_limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    if soft == resource.RLIM_INFINITY or soft >= soft_limit:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard))
