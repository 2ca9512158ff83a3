"""The stacks of an attempt's processes on all of its nodes, the one that is elsewhere than its like first."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.credentials import redact
from nano_exp.engines import Command, Context, entry

#: How long the nodes have to give their stacks, seconds.
WAIT_S = 75.0
#: How long their last words may take.
LAST_WORDS_S = 3.0
_RANK = re.compile(r"rank=?(\d+)")
#: `(MegatronPolicyWorker[rank=3] pid=812, ip=10.0.0.3)`: which rank a process is.
_SAID = re.compile(r"\(\w+\[rank=(\d+)\] pid=(\d+)(?:, ip=[\w.:-]+)?\)")
#: A frame of py-spy: `    barrier (torch/distributed/c10d.py:4551)`.
_FRAME = re.compile(r"^\s+([\w.<>]+) \((.+)\)$")
#: What waits for others: a rank that hangs is rather one that does not.
_WAITS = re.compile(r"barrier|all_?reduce|all_?gather|broadcast|reduce_scatter|recv|wait|synchronize", re.IGNORECASE)
_IDLE = re.compile(r"^ray::\w+(\[[^]]*\])?$")


@dataclass(frozen=True)
class Process:
    """One process.

    Parameters
    ----------
    words: its arguments, or the title that Ray gives it: `ray::MegatronPolicyWorker.train`
    stack: py-spy's, or the kernel's word on each thread
    python: whether it is py-spy's
    why: why it is not
    """

    host: str
    pid: int
    words: str
    stack: str
    python: bool
    why: str = ""
    rank: int | None = None

    @property
    def kind(self) -> str:
        """What it has in common with others: a worker's class."""
        return re.split(r"[.(\[\s]", self.words, maxsplit=1)[0] if self.words.startswith("ray::") else self.words

    @property
    def place(self) -> tuple[str, ...]:
        """Where its main thread is: the names of its innermost frames."""
        main = self.stack.partition('"MainThread"')[2] or self.stack
        frames = [match[1] for line in main.split("\n\n")[0].splitlines() if (match := _FRAME.match(line))]
        return tuple(frames[:6])

    @property
    def waits(self) -> bool:
        """Whether its innermost frames wait for other ranks."""
        return any(_WAITS.search(name) for name in self.place[:3])

    def __str__(self) -> str:
        who = f"rank {self.rank}, " if self.rank is not None else ""
        note = f"  ({self.why})\n" if self.why else ""
        return f"--- {who}process {self.pid} on {self.host}: {self.words or '(ended)'}\n{note}{self.stack}"


def parse(whole: Any) -> list[Process]:
    """What templates/node_stacks.py wrote; nothing for anything else."""
    try:
        return [
            Process(str(p["host"]), int(p["pid"]), str(p["words"]), str(p["stack"]), bool(p["python"]), str(p["why"]))
            for p in whole
        ]
    except (KeyError, TypeError, ValueError):
        return []


def ranks(stdout: str) -> dict[int, int]:
    """Process id -> rank, by the prefixes that Ray gives the lines of its workers. Pids of two nodes may be the same:
    then neither has one."""
    found: dict[int, set[int]] = {}
    for rank, pid in _SAID.findall(stdout):
        found.setdefault(int(pid), set()).add(int(rank))
    return {pid: several.pop() for pid, several in found.items() if len(several) == 1}


def ordered(found: Iterable[Process], known: Mapping[int, int]) -> list[Process]:
    """The one that is elsewhere than most of its like first, then what is in a call, then what waits for one."""
    named = []
    for process in found:
        said = _RANK.search(process.words)
        rank = int(said[1]) if said else known.get(process.pid)
        named.append(Process(**{**vars(process), "rank": rank}))
    like = Counter((process.kind, process.place) for process in named)
    kinds = Counter(process.kind for process in named)

    def key(process: Process) -> tuple[float, bool, bool, float, str, int]:
        alone = like[process.kind, process.place] / kinds[process.kind] if kinds[process.kind] > 1 else 1.0
        idle = bool(_IDLE.match(process.words))
        rank = process.rank if process.rank is not None else float("inf")
        return alone, process.waits, idle, rank, process.host, process.pid

    return sorted(named, key=key)


def summary(found: Sequence[Process]) -> str:
    """Which one is elsewhere, in a line; empty where none stands out."""
    if not found or not found[0].place:
        return ""
    first = found[0]
    like = [process for process in found if process.kind == first.kind]
    there = [process for process in like if process.place == first.place]
    others = [process for process in like if process.place != first.place]
    if not others or (len(there) >= len(others) and (first.waits or not others[0].waits)):
        return ""
    rest = Counter(process.place for process in others).most_common(1)[0][0]
    who = ", ".join(f"rank {p.rank}" if p.rank is not None else f"process {p.pid} on {p.host}" for p in there[:4])
    where = rest[0] if rest else "elsewhere"
    return f"{who} is in {first.place[0]}, the other {len(others)} of {first.kind} in {where}"


def dump(ctx: Context, command: Command, target: Path, timeout_s: float = WAIT_S) -> str:
    """Write the stacks of all of an attempt's processes, and say in a line what they are.

    Raises UserError where the file cannot be written.
    """
    found, silent = _nodes(ctx, timeout_s) if (ctx.attempt_dir / "nodes").is_dir() else (_here(ctx, command), [])
    known = ranks(files.tail(ctx.attempt_dir / "stdout.log", 2 * 1024 * 1024))
    processes = ordered(found, known)
    said = summary(processes)
    silence = [f"{host} gave no stacks within {timeout_s:.0f} s" for host in silent]
    parts = [*([said] if said else []), *silence, *map(str, processes)]
    files.write_text(target, redact("\n\n".join(parts)) + "\n")
    if not processes:
        return "no process was found"
    spied = sum(process.python for process in processes)
    without = next((process.why for process in processes if process.why), "")
    of_all = "" if spied == len(processes) else f" of {len(processes)}"
    how = f"{spied}{of_all} processes by py-spy"
    if not spied:
        how = f"only what the kernel says: {without}"
    return "; ".join([how, *([said] if said else []), *silence])


def marks(ctx: Context, env: Mapping[str, str]) -> list[str]:
    """What the arguments of the driver, and of Ray's processes, have in them."""
    tmp = env.get("RAY_TMPDIR", "")
    return [str(ctx.config_path), *([f"{tmp}/ray/session_"] if tmp else [])]


def _here(ctx: Context, command: Command) -> list[Process]:
    out = ctx.attempt_dir / ".stacks.json"
    folders = [str(Path(command.argv[0]).parent), command.env.get("PATH", "")]
    try:
        subprocess.run(
            [sys.executable, str(entry.TEMPLATES / "node_stacks.py"), str(out), *marks(ctx, command.env)],
            env={**os.environ, "PATH": os.pathsep.join(folders)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        return parse(json.loads(out.read_text()))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    finally:
        out.unlink(missing_ok=True)


def _nodes(ctx: Context, timeout_s: float) -> tuple[list[Process], list[str]]:
    """What each node's part of the step gave (templates/node.sh), and the nodes that gave nothing."""
    folder = ctx.attempt_dir / "nodes"
    hosts = sorted(path.stem for path in folder.glob("*.log"))
    word = f"{time.time():.0f}"
    (folder / "stacks").write_text(f"{word}\n")
    until = time.monotonic() + timeout_s
    waited = {host: folder / f"{host}.stacks.{word}.json" for host in hosts}
    while any(not path.is_file() for path in waited.values()) and time.monotonic() < until:
        time.sleep(0.2)
    found: list[Process] = []
    for path in waited.values():
        with contextlib.suppress(OSError, ValueError):
            found += parse(json.loads(path.read_text()))
            path.unlink()
    said = {process.host for process in found}
    return found, [host for host in hosts if host not in said]


def end(ctx: Context, command: Command) -> None:
    """Before a stalled engine is ended: the driver and Ray's workers of this host end with their stacks as last words.

    SIGABRT makes Python's faulthandler (PYTHONFAULTHANDLER, Ray's own) write them: the driver's into its stderr.log,
    a worker's into Ray's logs. It needs no right to trace a process. Nothing where the engine has no faulthandler.
    """
    nodes = ctx.attempt_dir / "nodes"
    if nodes.is_dir():  # the nodes keep Ray's logs then (templates/node.sh)
        with contextlib.suppress(OSError):
            (nodes / "keep").write_text("stalled\n")
    if command.env.get("PYTHONFAULTHANDLER") != "1":
        return
    aborted = _here_pids(ctx, command)
    for pid in aborted:
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            os.kill(pid, signal.SIGABRT)
    until = time.monotonic() + LAST_WORDS_S  # SIGTERM would cut them off
    while any(Path(f"/proc/{pid}/exe").exists() for pid in aborted) and time.monotonic() < until:
        time.sleep(0.1)


def _here_pids(ctx: Context, command: Command) -> list[int]:
    """Python processes of this attempt on this host, workers first."""
    from nano_exp.engines.templates import node_stacks

    pids = node_stacks.processes(marks(ctx, command.env))
    said = {pid: node_stacks.arguments(pid) for pid in pids}
    workers = [pid for pid in pids if said[pid].startswith("ray::")]
    python = [pid for pid in pids if "python" in Path(said[pid].split(" ")[0]).name]
    return workers + [pid for pid in python if str(ctx.config_path) in said[pid]]
