"""In which phase a run of NeMo RL is: from what its driver prints, whose workers print, and what lies on disk.

Lines are those of v0.7.0 (examples/run_grpo.py, examples/nemo_gym/run_grpo_nemo_gym.py, nemo_rl/data/utils.py,
nemo_rl/algorithms/grpo.py with its lines in brackets); v0.5.0, v0.6.0 and main print the same ones:

    (nothing yet)                        the driver's interpreter and imports; with `uv run`, its environment
    Using log directory, Final config    the configuration is read; Ray comes next (the two scripts end with one each)
    Setting up data..., Setting up envs...
    Setting up compute cluster...        [453] Ray's placement groups
    Setting up model and training...     [806] vLLM's workers, then the policy's; side by side where they have GPUs of
                                         their own. The driver prints nothing in between: whose lines come tells
    SETUP COMPLETE                       [1231]
    Running initial validation, Starting validation at step N...   [2195, 3158]
    Processing rewards...                [2424] a rollout has ended
    Saving checkpoint for step N...      [2930, 4169]
    Training Results:                    [3044, 4269] a step has ended
    Buffer empty or not enough groups    [3685] async: waits for trajectories, with the step's line again each time

A worker's environment that is being made has a STARTED_ENV_BUILDER, a conversion that is being written lacks its last
file (nemo_rl/caches.py): both are silent on stdout.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nano_exp.engines import slots
from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl.caches import Conversion, Environments
from nano_exp.text import FROM_WORKER, plain

#: How often the disk is looked at, seconds.
DISK_S = 5.0
#: Set-up goes forwards only: two groups of workers that start side by side print in turn.
_ORDER = ("environment", "ray", "data", "cluster", "vllm", "policy")
#: A line of the driver's that begins a phase of set-up.
_SETUP = (
    ("📊 Using log directory:", "ray"),
    ("Final config:", "ray"),
    ("▶ Setting up envs", "data"),
    ("▶ Setting up data", "data"),
    ("▶ Setting up compute cluster", "cluster"),
    ("▶ Setting up model and training", "vllm"),
)
_LOOP = (
    ("🔍 Running initial validation", "validation"),
    ("▶ Starting validation at step", "validation"),
    ("Saving checkpoint for step", "save"),
    ("▶ Processing rewards", "step"),
)
_STEP = re.compile(r"={10,} Step (\d+)/\d+ ={10,}")
_POLICY_WORKER = re.compile(r"\(\w*PolicyWorker")
_STARVED = "⏳ Buffer empty or not enough groups"
#: The trajectory collector's last words: it goes over the data once (async_utils/trajectory_collector.py 304).
_NO_MORE_DATA = "Trajectory collection stopped"


class Phases:
    """Where a run is, line by line.

    Parameters
    ----------
    config: the frozen config
    attempt_dir: where nano-exp starts Ray, phases.json in it says whether Ray is up and the driver has started
    environ: of the attempt: says where environments and conversions lie
    clock: seconds; for how often the disk is looked at
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        attempt_dir: Path,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = caches.of(config, environ)
        self._whole = {id(cache): cache.lacks(_whole_entries(cache)) == [] for cache in self._shared}
        self._phases_file = attempt_dir / "phases.json"
        several = int((config.get("cluster") or {}).get("num_nodes") or 1) > 1
        self._ray_first = several or slots.told(environ) is not None
        self._clock, self._looked, self._on_disk = clock, float("-inf"), ""
        self._phase = "environment"
        self._in_setup = True
        self._first = True  # no rollout has ended yet
        self._printed = False
        self._starved = False
        self._data_ended = False
        #: How often something was finished: a step, or a batch that dynamic sampling dropped.
        self.moves = 0

    def feed(self, raw: str) -> None:
        """Take a line of stdout."""
        line = plain(raw)
        if not line.strip():
            return
        if FROM_WORKER.match(line):
            self._from_worker(line)
        elif self._in_setup:
            self._printed = True
            if "SETUP COMPLETE" in line:
                self._in_setup, self._phase = False, "rollout"
            elif phase := next((phase for words, phase in _SETUP if line.startswith(words)), ""):
                self._forward(phase)
        else:
            self._loop(line)

    def _forward(self, phase: str) -> None:
        # In Gym's script the configuration is read, then data, and Ray comes after them.
        if phase == "ray" and self._phase == "data":
            self._phase = "ray"
        elif _ORDER.index(phase) > _ORDER.index(self._phase):
            self._phase = phase

    def _from_worker(self, line: str) -> None:
        if _NO_MORE_DATA in line:
            self._data_ended = True
        if self._in_setup and self._phase in ("vllm", "policy") and _POLICY_WORKER.match(line):
            self._phase = "policy"

    def _loop(self, line: str) -> None:
        if line.startswith("📊 Training Results:"):
            self._move("step")
        elif _STEP.fullmatch(line):
            if not self._starved:  # or the same step is looked for again
                self._move("rollout" if self._first else "step")
        elif line.startswith("✅ Sampled "):
            self._starved = False
        elif line.startswith(_STARVED):
            self._starved = True
        elif line.startswith(("📊 Validation Results", "✅ Initial validation", "❌ Initial validation")):
            self._phase = "rollout" if self._first else "step"
        elif phase := next((phase for words, phase in _LOOP if line.startswith(words)), ""):
            self._first = self._first and phase != "step"
            self._phase = phase

    def _move(self, phase: str) -> None:
        self.moves += 1
        self._phase, self._starved = phase, False

    @property
    def starved(self) -> bool:
        """Whether it waits for data that cannot come: all of them are used up, and steps are left (async)."""
        return self._data_ended and self._starved

    def now(self) -> str:
        """A key of store.phase.LABELS."""
        if not self._in_setup:
            return self._phase
        if self._ray_first and not self._printed and not self._driver_started():
            return "ray"
        if self._clock() - self._looked >= DISK_S:
            self._looked, self._on_disk = self._clock(), self._being_made()
        return self._on_disk or ("ray" if self._phase == "cluster" else self._phase)

    def _driver_started(self) -> bool:
        try:
            return "driver" in json.loads(self._phases_file.read_text())
        except (OSError, ValueError):
            return False

    def _being_made(self) -> str:
        """The phase of what this run lacked at its start and is being made now; "" where there is nothing of it."""
        for cache in self._shared:
            if self._whole[id(cache)]:
                continue
            if isinstance(cache, Environments) and any(map(cache.busy, _named(cache))):
                return "environment"
            if isinstance(cache, Conversion) and cache.path.exists() and cache.entries().get(cache.name) is False:
                return "conversion"
        return ""


def _whole_entries(cache: caches.Cache) -> list[str]:
    return [name for name, whole in cache.entries().items() if whole]


def _named(cache: Environments) -> Iterable[str]:
    """The environments of the run's own workers that are not whole."""
    return [name for name, whole in cache.entries().items() if not whole and name.rpartition(".")[2] in cache.workers]
