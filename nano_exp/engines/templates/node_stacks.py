"""The stacks of an attempt's processes on one node: `python node_stacks.py OUT MARK...`, by node.sh or by the attempt.

Imports nothing of nano-exp: it may lie in a container that has Python and nothing else. Processes are those with a
MARK in their arguments (the driver's config, Ray's folder) and all below them. py-spy reads their Python stacks where
it is installed and allowed to; otherwise the kernel's word on each thread is all there is. OUT is a JSON list.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROC = Path("/proc")
#: How long all of a node's processes may take, and one of them, seconds.
WHOLE_S, ONE_S = 45.0, 20.0
#: At most so many processes of a node.
MOST = 64
#: Ray's own processes, and workers that have nothing to do.
_NOT_OURS = re.compile(
    r"raylet|gcs_server|/dashboard/|_agent|ray::\w+Agent|ray::IDLE|log_monitor|monitor\.py|resource_tracker"
)
_PYTHON = re.compile(r"python|^ray::|^VLLM::|^EngineCore|^vllm", re.IGNORECASE)


def arguments(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def parents() -> dict[int, int]:
    """Process -> its parent, of this host."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            found[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return found


def processes(marks: Iterable[str]) -> list[int]:
    """Those with a mark in their arguments, and all below them; not this program, which has the marks too."""
    above, marks = parents(), tuple(marks)
    said = {pid: arguments(pid) for pid in above}
    others = {pid for pid, words in said.items() if Path(__file__).name not in words}
    ours = {pid for pid in others if any(mark in said[pid] for mark in marks)}
    while below := {pid for pid in others - ours if above[pid] in ours}:
        ours |= below
    return sorted(ours)


def spy(pids: Iterable[int]) -> str | None:
    """py-spy on PATH, or beside the interpreter of one of these processes."""
    folders = [str(Path(words).parent) for pid in pids if (words := arguments(pid).split(" ")[0]).startswith("/")]
    path = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), *dict.fromkeys(folders)]
    return shutil.which("py-spy", path=os.pathsep.join(path))


def stack(program: str | None, pid: int, seconds: float) -> tuple[str, str]:
    """(stack, why there is none)."""
    if program is None:
        return "", "py-spy is not installed"
    try:
        done = subprocess.run(
            [program, "dump", "--pid", str(pid)],
            capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"py-spy gave nothing: {type(error).__name__}"
    said = done.stderr.strip().splitlines()
    return (done.stdout.strip(), "") if done.returncode == 0 else ("", f"py-spy: {said[0] if said else 'failed'}")


def threads(pid: int) -> Iterator[str]:
    """What the kernel says of each thread."""
    for task in sorted((PROC / str(pid) / "task").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
            wait = (task / "wchan").read_text().strip().strip("0") or "-"
            yield f"  thread {task.name} {(task / 'comm').read_text().strip()}: state {state}, waits in {wait}"
        except OSError:
            continue


def look(program: str | None, pid: int, until: float) -> dict[str, Any]:
    words = arguments(pid)
    found, why = stack(program, pid, max(min(ONE_S, until - time.monotonic()), 0.1))
    text = found or "\n".join(threads(pid)) or "  (ended)"
    host = os.environ.get("NX_HOST") or socket.gethostname()
    return {"host": host, "pid": pid, "words": words[:300], "stack": text, "python": bool(found), "why": why}


def collect(marks: Iterable[str]) -> list[dict[str, Any]]:
    pids = processes(marks)
    said = {pid: arguments(pid) for pid in pids}
    wanted = [pid for pid in pids if _PYTHON.search(said[pid]) and not _NOT_OURS.search(said[pid])]
    program, until = spy(pids), time.monotonic() + WHOLE_S
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda pid: look(program, pid, until), (wanted or pids)[:MOST]))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.write_text(json.dumps(collect(sys.argv[2:])))
    aside.replace(target)
