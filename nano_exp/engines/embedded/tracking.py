"""Where an engine's numbers go: metrics.jsonl in the run's folder, and W&B.

metrics.jsonl has one JSON object a line, {"step": N, "time": unix seconds, "prefix/metric": value, ...}; `step` is the
number of finished steps. What was NaN or infinite is null, and the row's `nonfinite` lists its name. W&B gets the same
rows, offline unless WANDB_API_KEY or WANDB_MODE says otherwise. The key stays in the environment: it is neither read
here nor written anywhere.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from nano_exp.credentials import redact
from nano_exp.store import metrics_file

#: How long W&B's server may take to answer before a run is recorded offline.
INIT_TIMEOUT_S = 30
#: How often wandb writes its own offline file, seconds. By itself it does every 15 s, and a kill loses what it held.
FLUSH_S = 0.1


class MetricsFile:
    """Appends rows to metrics.jsonl, each visible to readers at once."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a")
        self._clock = clock

    def write(self, step: int, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Append a row (metrics_file.line)."""
        row = {"step": step, "time": self._clock(), **metrics}
        self._file.write(metrics_file.line(row))
        self._file.flush()
        return row

    def sync(self) -> None:
        """Make what was written survive the loss of the machine."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Wandb:
    """A W&B run that can fail without harming training: the first failure is said, then it is left alone.

    Parameters
    ----------
    options: logger.wandb, passed whole to wandb.init as NeMo RL does (project, name, id, group, tags, resume, ...);
        None for no W&B at all
    config: what W&B shows as the run's config, with the options' own `config`
    folder: where wandb writes its wandb/ folder (logger.log_dir)
    run: the run's id, for what is said
    finished: steps that the run has finished and keeps; what W&B has beyond them is an abandoned stretch
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None,
        config: Mapping[str, Any],
        folder: Path,
        warn: Callable[[str], None] = _warn,
        run: str = "RUN",
        finished: int = 0,
    ) -> None:
        self._run: Any = None
        self._warn = warn
        if options is None:
            return
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault("WANDB_SILENT", "true")
            import wandb

            settings = wandb.Settings(
                console="off",
                x_disable_stats=True,
                disable_code=True,
                init_timeout=INIT_TIMEOUT_S,
                x_transaction_log_flush_interval=FLUSH_S,
            )
            chosen = {"mode": mode, **options}
            config = {**config, **(chosen.pop("config", None) or {})}
            try:
                self._run = wandb.init(**chosen, config=dict(config), dir=str(folder), settings=settings)
            except Exception as error:  # wandb raises many types; any of them must leave training alone
                if chosen["mode"] != "online":
                    raise
                self._warn(
                    f"W&B cannot be reached ({_short(error)}); recorded offline, to be sent by nano-exp sync {run}"
                )
                wandb.teardown()  # the attempt to start still holds the run's id
                offline = {**chosen, "mode": "offline"}
                self._run = wandb.init(**offline, config=dict(config), dir=str(folder), settings=settings)
            if self._run.starting_step > finished + 1:
                steps = f"{finished + 1}-{self._run.starting_step - 1}"
                self._warn(
                    f"W&B has steps {steps} of an abandoned stretch and does not take them twice; "
                    f"nano-exp sync {run} puts that right once the run has ended"
                )
        except Exception as error:
            self._give_up("cannot start", error)

    @property
    def active(self) -> bool:
        return self._run is not None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the row of a step, all of it: it is written at once, and W&B takes a step only once."""
        if self._run is not None:
            try:
                self._run.log(dict(metrics), step=step, commit=True)
            except Exception as error:
                self._give_up("stopped", error)

    def finish(self, summary: Mapping[str, Any], exit_code: int = 0) -> None:
        """Add `summary` to the run's summary and close it."""
        if self._run is not None:
            try:
                self._run.summary.update(dict(summary))
                self._run.finish(exit_code=exit_code)
            except Exception as error:
                self._give_up("could not be closed", error)
            self._run = None

    def _give_up(self, what: str, error: Exception) -> None:
        self._run = None
        self._warn(f"W&B {what} ({_short(error)}); training goes on, metrics.jsonl has every number")


def _short(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {redact(text)[:200]}"
