"""How long a launch takes, beside hydra-submitit-launcher composing the same conf tree for the same points.

Both sides submit to a real Slurm (a mini cluster of the bench's own, so it needs root), with their jobs held, and are
measured from the command to the answer of their last sbatch. With --stub a script answers in sbatch's place.

    make bench                          1, 10, 100 and 1,000 points
    make bench ARGS="--points 10 --json bench.json"
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MINICLUSTER = ROOT / "slurm" / "minicluster"
SIDES = ("stock", "nano-exp")
#: A launch that takes longer is given up.
LIMIT_S = 1800.0
#: Stands in sbatch's place, asks the real one, and writes down when it answered.
WRAPPER = """#!/bin/sh
answer=$({sbatch} "$@"); code=$?
echo "$answer"
[ $code = 0 ] && [ -n "$answer" ] && echo "$(date +%s.%N) $answer" >> {stamps}  # sbatch --test-only answers nothing
exit $code
"""


@dataclass(frozen=True)
class Measured:
    """One launch.

    Parameters
    ----------
    seconds: from the command to the answer of the last sbatch
    cpu_seconds: user and system time of the process until it ended (stock: until it was ended, right after sbatch)
    peak_mb: largest resident size, 10^6 bytes
    files, size: what it wrote, in number and bytes
    """

    side: str
    points: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    files: int
    size: int


def command(side: str, points: int, out: Path) -> list[str]:
    """The launch of `points` points (learning rates x seeds; one point has neither)."""
    python = sys.executable
    words = ["model=nano_12b", "cluster=1n8g", "site=minicluster", f"site.checkout={ROOT / 'tests' / 'standin'}"]
    words += [f"site.python={python}"]
    if points > 1:
        rates, seeds = (10, points // 10) if points >= 10 else (points, 1)
        words += ["optimizer.lr=" + ",".join(f"{i + 1}e-7" for i in range(rates)), f"grpo.seed=range(0,{seeds})"]
    if side == "nano-exp":
        hold = "++hydra.launcher.additional_parameters={hold: true}"
        return [python, str(ROOT / "launch.py"), "-m", *words, f"run.results={out}", hold, "yes=true"]
    words += ["hydra/launcher=submitit_slurm", "hydra/sweeper=basic", f"hydra.sweep.dir={out}"]
    asked = {"partition": "batch", "nodes": 1, "gpus_per_node": 8, "cpus_per_task": 16, "timeout_min": 240}
    words += [f"hydra.launcher.{key}={value}" for key, value in asked.items()]
    words += ["+hydra.launcher.additional_parameters={hold: true}"]
    return [python, str(ROOT / "tests" / "bench" / "stock.py"), "-m", *words]


def measure(side: str, points: int, folder: Path, environment: dict[str, str]) -> Measured:
    """Launch once, in a folder of its own; its jobs are cancelled afterwards."""
    folder.mkdir(parents=True)
    stamps, out, log = folder / "stamps", folder / "out", folder / "log"
    tools = folder / "bin"
    tools.mkdir()
    sbatch = tools / "sbatch"
    sbatch.write_text(WRAPPER.format(sbatch=environment["BENCH_SBATCH"], stamps=stamps))
    sbatch.chmod(0o755)
    env = {**environment, "PATH": f"{tools}{os.pathsep}{environment['PATH']}"}
    began = time.time()
    with log.open("w") as file:
        process = subprocess.Popen(
            command(side, points, out), cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True
        )
    ended = False
    while not ended and time.time() - began < LIMIT_S:
        time.sleep(0.02 if points < 100 else 0.2)
        if side == "stock" and stamps.exists() and stamps.read_text().endswith("\n"):
            os.killpg(process.pid, signal.SIGKILL)  # it would wait for its jobs
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        ended = pid != 0
        _progress(f"{side}: {points} points, {time.time() - began:.0f} s")
    if not ended or not stamps.exists() or (side == "nano-exp" and status):
        process.kill()
        raise SystemExit(f"{side} with {points} points did not submit:\n{log.read_text()[-3000:]}")
    answers = [line.split() for line in stamps.read_text().splitlines()]
    subprocess.run(["scancel", *(words[-1] for words in answers)], env=environment, check=False)
    written = [p for p in out.rglob("*") if p.is_file()]
    return Measured(
        side,
        points,
        float(answers[-1][0]) - began,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024 / 1e6,
        len(written),
        sum(p.stat().st_size for p in written),
    )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def slurm(folder: Path, stub: bool) -> Iterator[dict[str, str]]:
    """The environment of a launch: with a mini cluster, or with a stub that answers in Slurm's place."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "NANO_EXP_", "HYDRA_"))}
    if stub:
        tools = folder / "stub"
        tools.mkdir()
        answer = '[ "$1" = --parsable ] && echo 1 || echo Submitted batch job 1'
        for name in ("squeue", "sacct", "scancel", "srun", "stub-of-sbatch"):
            (tools / name).write_text(f"#!/bin/sh\n{answer if 'sbatch' in name else 'exit 0'}\n")
            (tools / name).chmod(0o755)
        yield {**kept, "PATH": f"{tools}{os.pathsep}{kept['PATH']}", "BENCH_SBATCH": str(tools / "stub-of-sbatch")}
        return
    state = folder / "minicluster"
    subprocess.run([MINICLUSTER, "up", "--fast", "--state", state], check=True, stdout=subprocess.DEVNULL)
    try:
        said = subprocess.run([MINICLUSTER, "env", "--state", state], check=True, stdout=subprocess.PIPE, text=True)
        lines = [line.removeprefix("export ") for line in said.stdout.splitlines() if line.startswith("export ")]
        exported = dict(line.split("=", 1) for line in lines)
        yield {**kept, **{k: v.strip("'\"") for k, v in exported.items()}, "BENCH_SBATCH": "/usr/bin/sbatch"}
    finally:
        subprocess.run([MINICLUSTER, "down", "--state", state], check=False, stdout=subprocess.DEVNULL)


def median(found: Sequence[Measured]) -> Measured:
    """The launch in the middle by its time."""
    return sorted(found, key=lambda m: m.seconds)[len(found) // 2]


def table(found: Sequence[Measured]) -> str:
    """A Markdown table: each number of both sides, with stock over ours."""
    lines = [
        "| points | | stock | nano-exp | ratio |",
        "|---|---|---|---|---|",
    ]
    by = {(m.side, m.points): m for m in found}
    for points in dict.fromkeys(m.points for m in found):
        stock, ours = (by[side, points] for side in SIDES)
        rows = (
            (
                "time to the last sbatch",
                f"{stock.seconds:.2f} s",
                f"{ours.seconds:.2f} s",
                stock.seconds / ours.seconds,
            ),
            (
                "CPU time",
                f"{stock.cpu_seconds:.2f} s",
                f"{ours.cpu_seconds:.2f} s",
                stock.cpu_seconds / ours.cpu_seconds,
            ),
            ("peak memory", f"{stock.peak_mb:.0f} MB", f"{ours.peak_mb:.0f} MB", stock.peak_mb / ours.peak_mb),
            ("files", f"{stock.files}", f"{ours.files}", stock.files / ours.files),
            (
                "written for each point",
                f"{stock.size / points / 1e3:.1f} kB",
                f"{ours.size / points / 1e3:.1f} kB",
                stock.size / ours.size,
            ),
        )
        for i, (what, a, b, ratio) in enumerate(rows):
            lines.append(f"| {points if i == 0 else ''} | {what} | {a} | {b} | {ratio:.1f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="launches of each, the one in the middle counts (3; stock from 100 points on: 1)",
    )
    parser.add_argument("--json", type=Path, help="write every launch's numbers there too")
    parser.add_argument("--stub", action="store_true", help="without Slurm: a script answers in sbatch's place")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the mini cluster goes down with it
    found: list[Measured] = []
    every: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="nano-exp-bench-") as made, slurm(Path(made), given.stub) as environment:
        for points in given.points:
            for side in SIDES:
                repeat = 1 if side == "stock" and points >= 100 else given.repeat  # minutes each
                runs = [measure(side, points, Path(made) / f"{side}-{points}-{i}", environment) for i in range(repeat)]
                every += [asdict(one) for one in runs]
                found.append(median(runs))
                spread = statistics.pstdev([one.seconds for one in runs])
                _progress("")
                print(f"{side}: {points} points, {found[-1].seconds:.2f} s (+- {spread:.2f})", file=sys.stderr)
    cores = len(os.sched_getaffinity(0))
    print(f"\non {cores} CPU cores, with {'a stub of sbatch' if given.stub else 'Slurm on the same machine'}\n")
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps({"cores": cores, "launches": every}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
