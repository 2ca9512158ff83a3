"""What a job takes before it trains: stock's to the call of its task function, nano-exp's to its engine's start.

Both are started here by their batch scripts' own commands, from what a launch has written.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: A job that takes longer is given up.
LIMIT_S = 300.0


class Start(NamedTuple):
    """From the start of a job's Python: wall time and CPU time, seconds (nano-exp's CPU to 10 ms)."""

    seconds: float
    cpu_seconds: float


def stock(out: Path, folder: Path, environment: Mapping[str, str]) -> Start:
    """The job that stock's launch of one point pickled in `out`, run in a folder of its own."""
    folder.mkdir()
    stamp = folder / "called"
    shutil.copy(next((out / ".submitit").rglob("*.pkl")), folder / "1_submitted.pkl")
    of_slurm = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    of_slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    command = [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)]
    began = time.time()
    _run(command, folder, {**environment, **of_slurm, "BENCH_CALLED": str(stamp)}).wait(LIMIT_S)
    if not stamp.exists():
        raise SystemExit(f"stock's job did not call its task function:\n{(folder / 'log').read_text()[-3000:]}")
    called, cpu = map(float, stamp.read_text().split())
    return Start(called - began, cpu)


def ours(launch: Path, run: Path, folder: Path, environment: Mapping[str, str]) -> Start:
    """One more attempt of a launch's only run; it is asked to end once its engine was started."""
    folder.mkdir()
    there = set(_engine_events(run))
    copy = {"PYTHONPATH": str(launch / "code"), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    began = time.time()
    process = _run([sys.executable, "-m", "nano_exp.job", str(launch), "--array", "0"], folder, {**environment, **copy})
    try:
        while not (new := set(_engine_events(run)) - there):
            if process.poll() is not None or time.time() - began > LIMIT_S:
                raise SystemExit(f"the attempt started no engine:\n{(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.002)
        cpu = _cpu_until_now(process.pid)
    finally:
        process.terminate()
        process.wait(LIMIT_S)
    return Start(int(new.pop().name.partition("-")[0]) / 1e9 - began, cpu)


def table(of_stock: Sequence[Start], of_ours: Sequence[Start]) -> str:
    """A Markdown table of the medians, with stock over ours."""
    lines = ["| a job's start | stock | nano-exp | ratio |", "|---|---|---|---|"]
    for what, field in (("time", "seconds"), ("CPU time", "cpu_seconds")):
        a, b = (statistics.median(getattr(one, field) for one in side) for side in (of_stock, of_ours))
        lines.append(f"| {what} | {a:.2f} s | {b:.2f} s | {a / b:.1f} |")
    return "\n".join(lines)


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=log, stderr=log)


def _engine_events(run: Path) -> list[Path]:
    return list((run / "events").glob("*-engine-*.json"))


def _cpu_until_now(pid: int) -> float:
    """Of a process and those of its children that have ended, seconds (proc(5): fields 14 to 17 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
