"""How long `nano-exp status` takes over many runs: makes a store of them, and times the command.

    python tests/report/many_runs.py FOLDER [--runs 10000] [--repeat 5]

The store is made by the store's own functions; squeue and sacct are scripts that print what such a store's queue
would be. Of each hundred runs, which are one launch, 90 are done, 4 failed, 2 run, 3 wait and 1 was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from nano_exp import files
from nano_exp.store import runs, state
from nano_exp.store.runs import Owner

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = 100
STEPS = 60
#: Names of one row, as NeMo RL logs them; with the numbers a row is about 1 KB.
KEYS = [f"train/{name}_{part}" for name in ("loss", "kl", "length", "timing", "grad") for part in ("a", "b", "c", "d")]


def make(results: Path, count: int) -> list[str]:
    """Runs of one launch a hundred; squeue's lines for those that are active."""
    lines: list[str] = []
    metrics = "".join(json.dumps(row) + "\n" for step in range(1, STEPS + 1) for row in _rows(step))
    for first in range(0, count, LAUNCH):
        launch, job, name = f"L{first:06d}", str(1000 + first // LAUNCH), f"sweep{first // LAUNCH // 10:03d}"
        members = range(first, min(first + LAUNCH, count))
        folders = [results / name / f"r{number:010x}" for number in members]
        files.make_dir(runs.launch_dir(results, launch))
        arrays = [{"shape": {"nodes": 2, "gpus_per_node": 8}, "runs": [str(f) for f in folders]}]
        files.write_json(runs.launch_dir(results, launch) / "manifest.json", {"launch": launch, "arrays": arrays})
        runs.record_job(results, launch, 0, job)
        for task, folder in enumerate(folders):
            _make_one(folder, launch, task, job, metrics)
        job_name = state.job_name(launch, 0, name)
        lines += [f"{job}_{task}|RUNNING|{job_name}|None" for task in (94, 95) if task < len(folders)]
        lines += [f"{job}_[96-98%4]|PENDING|{job_name}|Priority"]
    return lines


def _make_one(folder: Path, launch: str, task: int, job: str, metrics: str) -> None:
    overrides = ["model=nano_9b", "cluster=2n8g", f"optimizer.lr={1e-6 * (task + 1):.2e}", f"grpo.seed={task}"]
    record = {"id": folder.name, "name": folder.parent.name, "digest": "d" * 64, "overrides": overrides}
    record |= {"launch": launch, "created": time.time(), "user": "root", "max_steps": STEPS}
    assert runs.create(folder, {"grpo": {"max_num_steps": STEPS}}, record)
    runs.record_event(folder, "submit", durable=False, launch=launch, array=0, task=task, after_attempt=0, local=None)
    if 96 <= task % LAUNCH <= 98:
        return
    attempt = runs.claim(folder, 1, Owner(f"{job}_{task}", 0, "node1", 7, 1.0))
    assert attempt is not None
    runs.record_event(
        folder, "start", durable=False, attempt=1, job=f"{job}_{task}", host="node1", pid=7, launch=launch
    )
    (folder / runs.METRICS).write_text(metrics)
    kind = "done" if task % LAUNCH < 90 else "failed" if task % LAUNCH < 94 else ""
    if kind:
        end = {"kind": kind, "why": "" if kind == "done" else "engine: exit code 1", "seconds": 3600.0, "attempt": 1}
        files.write_json(attempt / "end.json", end)
        runs.record_event(folder, "end", durable=False, end=end)


def _rows(step: int) -> list[dict[str, float | int]]:
    row: dict[str, float | int] = {"step": step, "time": 1.7e9 + 60 * step, "train/reward": step / STEPS}
    validated = {"step": step, "time": 1.7e9 + 60 * step, "validation/accuracy": step / STEPS}
    return [row | dict.fromkeys(KEYS, step * 0.123456789)] + ([validated] if step % 10 == 0 else [])


def slurm_commands(folder: Path, lines: list[str]) -> None:
    """squeue and sacct that print what they would, and note that they were called."""
    folder.mkdir(exist_ok=True)
    (folder / "squeue.txt").write_text("\n".join(lines) + "\n")
    for name, text in (("squeue", f"cat {folder}/squeue.txt"), ("sacct", ":")):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {folder}/calls\n{text}\n")
        (folder / name).chmod(0o755)


def timed(folder: Path, *arguments: str) -> tuple[float, float, int, int]:
    """Seconds and CPU seconds of `nano-exp status`, its lines, and how many questions it asked of Slurm."""
    calls = folder / "bin" / "calls"
    calls.unlink(missing_ok=True)
    environment = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    code = "import sys; from nano_exp.cli import main; sys.exit(main())"
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--results", folder / "results", *arguments],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, done.stdout.count("\n"), len(calls.read_text().split()) if calls.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not (folder / "results").exists():
        began = time.perf_counter()
        slurm_commands(folder / "bin", make(folder / "results", given.runs))
        print(f"made {given.runs} runs in {time.perf_counter() - began:.1f} s")
    for what, arguments in (("table", ()), ("--json", ("--json",)), ("one name", ("sweep000",))):
        for number in range(given.repeat):
            seconds, cpu, lines, calls = timed(folder, *arguments)
            print(f"{what:9} #{number}: {seconds:.2f} s ({cpu:.2f} s of CPU), {lines} lines, {calls} calls of Slurm")


if __name__ == "__main__":
    main()
