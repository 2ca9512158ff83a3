"""No new step for many times the usual time of a step: say so, keep the stacks, and end the engine where asked to."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.dotted import Config
from nano_exp.errors import UserError

ACTIONS = ("report", "restart")
DUMP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Rule:
    """The site's word: a stall is `factor` times the median step time, and `minimum_s` at least, without a step."""

    action: str = "report"
    factor: float = 10.0
    minimum_s: float = 1800.0

    @classmethod
    def of(cls, site: Mapping[str, Any]) -> Rule:
        """Raises UserError for an action that there is not."""
        rule = cls(
            str(site.get("on_stall") or cls.action),
            float(site.get("stall_factor") or cls.factor),
            60.0 * float(Config(site).get("stall_minutes", cls.minimum_s / 60)),
        )
        if rule.action not in ACTIONS:
            raise UserError(
                f"site.on_stall={rule.action}",
                "a stalled run is reported, or ended and started again",
                "site.on_stall=report or site.on_stall=restart",
            )
        return rule


@dataclass(frozen=True)
class Stall:
    """No step for `seconds`, where one takes `median_s`; `step` was the last."""

    step: int
    seconds: float
    median_s: float

    def __str__(self) -> str:
        return f"stalled: no new step for {self.seconds:.0f} s after step {self.step}, which took {self.median_s:.1f} s"


def look(rule: Rule, steps: Sequence[tuple[int, float]], now: float) -> Stall | None:
    """Whether training stalls.

    Parameters
    ----------
    steps: (step, unix time of its end) of this attempt, oldest first. Before the third nothing is said: set-up, the
        first step's compilation and a conversion take a time of their own.
    """
    if len(steps) < 3:
        return None
    durations = [b - a for (_, a), (_, b) in itertools.pairwise(steps)]
    median = statistics.median(durations)
    silent = now - steps[-1][1]
    if silent < max(rule.minimum_s, rule.factor * median):
        return None
    return Stall(steps[-1][0], silent, median)


def drivers(marker: str) -> list[int]:
    """Processes of this host with `marker` in their arguments, oldest first; not this one."""
    pids = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if marker in argv and "python" in Path(argv[0]).name:
            pids.append(int(folder.name))
    return sorted(pids)


def dump(pids: Sequence[int], target: Path, path: str | None) -> str:
    """Write the stacks of these processes and say how they were had.

    With py-spy on `path` the Python stacks; otherwise what the kernel tells: each thread's state and where it waits.
    """
    spy = shutil.which("py-spy", path=path)
    parts = []
    for pid in pids:
        parts.append(f"--- process {pid}: {_words(pid)}")
        parts.append((_py_spy(spy, pid) if spy else "") or _kernel(pid))
    files.write_text(target, "\n".join(parts) + "\n")
    return "py-spy" if spy else "only what the kernel says: py-spy is not installed"


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"


def _py_spy(program: str, pid: int) -> str:
    try:
        done = subprocess.run(
            [program, "dump", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=DUMP_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"py-spy gave nothing: {type(error).__name__}\n{_kernel(pid)}"
    return done.stdout if done.returncode == 0 else f"py-spy: {done.stderr.strip()}\n{_kernel(pid)}"


def _kernel(pid: int) -> str:
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("[0-9]*"), key=lambda p: int(p.name)):
        try:
            state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
            wait = (task / "wchan").read_text().strip().strip("0") or "-"
            name = (task / "comm").read_text().strip()
            lines.append(f"  thread {task.name} {name}: state {state}, waits in {wait}")
        except OSError:
            continue
    return "\n".join(lines) or "  (ended)"
