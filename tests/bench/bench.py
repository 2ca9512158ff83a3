"""How long a launch takes, beside hydra-submitit-launcher composing the same conf tree for the same points.

Both sides submit to a real Slurm (a mini cluster of the bench's own, so it needs root), with their jobs held, and are
measured from the command to the answer of their last sbatch. With --stub a script answers in sbatch's place.

    make bench                          1 to 1,000 points, and 10,000 of ours alone (--write: into docs/speed.md)
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

import job_start

ROOT = Path(__file__).resolve().parents[2]
MINICLUSTER = ROOT / "slurm" / "minicluster"
SIDES = ("stock", "nano-exp")
#: Of more points only ours are launched: stock would take an hour and more.
MOST_OF_STOCK = 1000
#: Where the tables stand in docs/speed.md.
PAGE, BEGIN, END = ROOT / "docs" / "speed.md", "<!-- measured -->", "<!-- /measured -->"
#: A launch that takes longer is given up.
LIMIT_S = 1800.0
#: Stands in sbatch's place, asks the real one to hold the job, and writes down when it answered.
WRAPPER = """#!/bin/sh
answer=$({sbatch} --hold "$@"); code=$?
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
        return [python, str(ROOT / "launch.py"), "-m", *words, f"run.results={out}", "yes=true"]
    words += ["hydra/launcher=submitit_slurm", "hydra/sweeper=basic", f"hydra.sweep.dir={out}"]
    asked = {"partition": "batch", "nodes": 1, "gpus_per_node": 8, "cpus_per_task": 16, "timeout_min": 240}
    words += [f"hydra.launcher.{key}={value}" for key, value in asked.items()]
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
    foreign = ("SLURM_", "NANO_EXP_", "HYDRA_", "PYTHONDONTWRITEBYTECODE")  # a user's modules are compiled once
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    if stub:
        tools = folder / "stub"
        tools.mkdir()
        answer = '[ "$2" = --parsable ] && echo 1 || echo Submitted batch job 1'
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
        ours = by["nano-exp", points]
        stock = by.get(("stock", points))
        if stock is None:
            lines.append(f"| {points} | time to the last sbatch | - | {ours.seconds:.2f} s | |")
            lines.append(f"|  | CPU time | - | {ours.cpu_seconds:.2f} s | |")
            lines.append(f"|  | peak memory | - | {ours.peak_mb:.0f} MB | |")
            lines.append(f"|  | written for each point | - | {ours.size / points / 1e3:.1f} kB | |")
            continue
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


def growth(found: Sequence[Measured]) -> str:
    """How ours grows with the points: CPU time of each one more."""
    ours = [one for one in found if one.side == "nano-exp"]
    lines = ["| points | CPU time | CPU time of each point more |", "|---|---|---|"]
    for i, one in enumerate(ours):
        more = (one.cpu_seconds - ours[i - 1].cpu_seconds) / (one.points - ours[i - 1].points) if i else None
        lines.append(
            f"| {one.points} | {one.cpu_seconds:.2f} s | {f'{more * 1e3:.1f} ms' if more is not None else ''} |"
        )
    return "\n".join(lines)


def others(results: Path, folder: Path, environment: dict[str, str], repeat: int) -> str:
    """What else a user waits for, as a Markdown table of CPU seconds: the least of some runs.

    Parameters
    ----------
    results: of a launch of many points
    """
    launch = [sys.executable, str(ROOT / "launch.py"), "model=nano_9b", "cluster=1n8g", "dry_run=true"]
    status = [sys.executable, "-m", "nano_exp.cli", "status", "--results", str(results)]
    runs = sum(1 for _ in results.glob("*/*/run.json"))
    copy = next(results.glob(".launches/*/code"))
    cases = {
        "a dry run": (launch, {}),
        "the same, nothing kept on disk": (launch, {"NANO_EXP_CACHE": ""}),
        "a mistyped key": ([*launch, "grpo.num_prompt_per_step=3"], {}),
        "a mistyped option": ([word.replace("nano_9b", "nano_9") for word in launch], {}),
        f"status of {runs:,} runs, with its cache": (status, {}),
        "an attempt: its imports, from the launch's copy": (
            [sys.executable, "-c", "import nano_exp.job.attempt"],
            {"PYTHONPATH": str(copy), "PYTHONSAFEPATH": "1"},
        ),
    }
    first = _cpu(status, folder, environment)
    lines = ["| what | CPU time |", "|---|---|", f"| status of {runs:,} runs, for the first time | {first:.2f} s |"]
    for what, (words, more) in cases.items():
        least = min(_cpu(words, folder, {**environment, **more}) for _ in range(max(repeat, 3)))
        lines.append(f"| {what} | {least:.2f} s |")
    return "\n".join(lines)


def starts(made: Path, environment: dict[str, str], repeat: int) -> str:
    """How a job of a launch of one point starts on both sides, as a Markdown table."""
    out = made / "nano-exp-1-0" / "out"
    launch, run = next(out.glob(".launches/*/manifest.json")).parent, next(out.glob("*/*/run.json")).parent
    both = [
        (
            job_start.stock(made / "stock-1-0" / "out", made / f"stock-job-{i}", environment),
            job_start.ours(launch, run, made / f"nano-exp-job-{i}", environment),
        )
        for i in range(repeat)
    ]
    return job_start.table([stock for stock, _ in both], [ours for _, ours in both])


def _cpu(words: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    usage = os.wait4(process.pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


def write(text: str) -> None:
    """Put the tables into docs/speed.md."""
    page = PAGE.read_text()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[1, 10, 100, 1000, 10000])
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="launches of each, the one in the middle counts (3; stock from 100 points on: 1)",
    )
    parser.add_argument("--json", type=Path, help="write every launch's numbers there too")
    parser.add_argument("--stub", action="store_true", help="without Slurm: a script answers in sbatch's place")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/speed.md")
    parser.add_argument("--ours", action="store_true", help="without stock")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the mini cluster goes down with it
    found: list[Measured] = []
    every: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="nano-exp-bench-") as made, slurm(Path(made), given.stub) as environment:
        for points in given.points:
            for side in SIDES if points <= MOST_OF_STOCK and not given.ours else SIDES[1:]:
                slow = (side == "stock" and points >= 100) or points > MOST_OF_STOCK
                repeat = 1 if slow else given.repeat  # minutes each
                runs = [measure(side, points, Path(made) / f"{side}-{points}-{i}", environment) for i in range(repeat)]
                every += [asdict(one) for one in runs]
                found.append(median(runs))
                spread = statistics.pstdev([one.seconds for one in runs])
                _progress("")
                print(f"{side}: {points} points, {found[-1].seconds:.2f} s (+- {spread:.2f})", file=sys.stderr)
        largest = Path(made) / f"nano-exp-{max(given.points)}-0" / "out"
        waits = others(largest, Path(made), environment, given.repeat)
        if 1 in given.points and not given.ours:
            waits += "\n\n" + starts(Path(made), environment, given.repeat)
    cores = len(os.sched_getaffinity(0))
    place = f"On {cores} CPU cores, with {'a stub of sbatch' if given.stub else 'Slurm on the same machine'}:"
    text = "\n\n".join([place, table(found), growth(found), waits])
    print(f"\n{text}")
    if given.write:
        write(text)
    if given.json:
        given.json.write_text(json.dumps({"cores": cores, "launches": every}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
