"""The most memory that this host's GPUs had in use in each phase of an attempt, asked of nvidia-smi while it runs.

`attempts/<n>/peaks.json` has it, for `nano-exp plan --calibrate`:

    {"gpu": "NVIDIA H100 80GB HBM3", "total_mib": 81559, "gpus": 8, "every_s": 5.0, "samples": 812,
     "date": "2026-11-24", "versions": {"nemo_rl": "v0.7.0", "driver": "550.54.15"},
     "gib": {"setup": [..one number for each GPU..], "generation": [..], "train": [..]}}

Phases are triage's (setup, generation, logprob, train, refit, ...), by what the engine's output said last; an engine
that says nothing has the phase `run`. A phase shorter than the time between two samples may be missed. On several nodes
only the first is sampled. Where there is no nvidia-smi there is no file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.store import runs
from nano_exp.triage import phases

EVERY_S = 5.0
#: The file is written at the end, and this often before: an attempt may be killed.
WRITE_S = 60.0
_FIELDS = "index,name,memory.total,memory.used,driver_version"


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi; MiB."""

    index: int
    name: str
    total: float
    used: float
    driver: str


def ask() -> list[Gpu] | None:
    """This host's GPUs; None where nvidia-smi is missing, fails or hangs."""
    command = ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return mine(parse(output), os.environ)


def parse(output: str) -> list[Gpu]:
    """The lines that are whole; a GPU in an error state prints words for numbers."""
    processes = []
    for line in output.splitlines():
        parts = [part.strip() for part in line.split(",")]
        with contextlib.suppress(ValueError, IndexError):
            processes.append(Gpu(int(parts[0]), parts[1], float(parts[2]), float(parts[3]), parts[4]))
    return processes


def mine(gpus: list[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Of a host's GPUs those that CUDA_VISIBLE_DEVICES names by number: the others are other jobs'."""
    named = {int(word) for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip().isdigit()}
    return [gpu for gpu in gpus if gpu.index in named] or gpus


class Phase:
    """The phase that the engine is in, by the lines that its output got since it was asked last."""

    def __init__(self, stdout: Path) -> None:
        self.path, self.read, self.now = stdout, 0, ""

    def __call__(self) -> str:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(self.read)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self.read += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self.now = phases.marker(line) or self.now
        return self.now or "run"


class Sampler:
    """A thread that asks until it is stopped, and writes the peaks. It never raises: a run does not depend on it."""

    def __init__(
        self,
        folder: Path,
        versions: Mapping[str, str],
        phase: Callable[[], str],
        every_s: float = EVERY_S,
        asking: Callable[[], list[Gpu] | None] = ask,
    ) -> None:
        self.path, self.versions, self.phase, self.every_s, self.asking = (
            folder / runs.GPU_PEAKS,
            versions,
            phase,
            every_s,
            asking,
        )
        self.peaks: dict[str, dict[int, float]] = {}
        self.samples = 0
        self._last: list[Gpu] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peaks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End, with a last write."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        if not self.sample():  # no nvidia-smi here; one that fails later may answer again
            return
        written = time.monotonic()
        while not self._stop.wait(self.every_s):
            self.sample()
            if time.monotonic() - written > WRITE_S:
                self.write()
                written = time.monotonic()
        self.write()

    def sample(self) -> bool:
        """Ask once. False where there is nothing to ask."""
        phase, gpus = self.phase(), self.asking()
        if not gpus:
            return False
        self._last, self.samples = gpus, self.samples + 1
        peaks = self.peaks.setdefault(phase, {})
        for gpu in gpus:
            peaks[gpu.index] = max(peaks.get(gpu.index, 0.0), gpu.used)
        return True

    def write(self) -> None:
        """Nothing where nothing was seen; a full disk costs the file, not the run."""
        if self._last:
            with contextlib.suppress(OSError, UserError):
                files.write_json(self.path, self.record())

    def record(self) -> dict[str, Any]:
        """What peaks.json holds."""
        first = self._last[0]
        return {
            "gpu": first.name,
            "total_mib": first.total,
            "gpus": len(self._last),
            "every_s": self.every_s,
            "samples": self.samples,
            "date": time.strftime("%Y-%m-%d"),
            "versions": {**self.versions, "driver": first.driver},
            "gib": {
                phase: [round(peaks[index] / 1024, 3) for index in sorted(peaks)] for phase, peaks in self.peaks.items()
            },
        }


@contextmanager
def recorded(attempt_dir: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """While this is entered, the peaks of an attempt are recorded in its folder."""
    versions = {"engine": str(config["engine"]["name"]), "nemo_rl": str((config.get("nemo_rl") or {}).get("version"))}
    sampler = Sampler(attempt_dir, versions, Phase(attempt_dir / "stdout.log"))
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()
