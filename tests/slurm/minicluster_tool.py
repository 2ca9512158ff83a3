"""A mini cluster as tests use it: brought up, asked, searched for traces, taken down."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # for the scripts of this folder; pytest has it
from pace import limit

TOOL = Path(__file__).parents[2] / "slurm" / "minicluster"
PREFIX = "nano-exp-minicluster-"
_numbers = itertools.count()


@dataclass(frozen=True)
class MiniCluster:
    """A cluster that is up. `env` is a whole environment for commands that talk to it."""

    state: Path
    env: dict[str, str]

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """A command with its output captured; a failing one fails the test with what it said."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=limit(timeout))
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(map(str, argv))} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def tool(self, command: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`slurm/minicluster COMMAND` on this cluster."""
        return tool(command, "--state", str(self.state), *args, check=check)

    def sbatch(self, *args: str) -> str:
        """Submit; the job's id."""
        return self.run("sbatch", "--parsable", *args).stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job` (JobState, Restarts, Reason, ...)."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job_id).stdout))

    def wait_until_saved(self, job_id: str) -> None:
        """Until slurmctld has written the job down: one killed up to 5 s before that has forgotten the change.

        Twice: what is written first may have been gathered before the job was there.
        """
        file = self.state / "slurmctld" / "job_state"
        for change in ("once", "twice"):  # so that it writes again
            before = file.stat().st_mtime_ns if file.exists() else 0
            self.run("scontrol", "update", f"jobid={job_id}", f"comment={change}")
            self.wait_for("job_state written", partial(_is_newer, file, before))

    def wait_for(self, what: str, reached: Callable[[], object], seconds: float = 90) -> None:
        """Wait until `reached()` is true; fails the test with `what` and the queue when it does not come."""
        seconds = limit(seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if reached():
                return
            time.sleep(0.2)
        pytest.fail(f"not within {seconds:.0f} s: {what}\n{self.run('squeue').stdout}")


def _is_newer(file: Path, before: int) -> bool:
    return file.exists() and file.stat().st_mtime_ns > before


def tool(*args: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """`slurm/minicluster ARGS`."""
    done = subprocess.run([TOOL, *args], capture_output=True, text=True, timeout=limit(180))
    if check and done.returncode != 0:
        pytest.fail(f"minicluster {' '.join(args)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


def traces(state: Path) -> list[str]:
    """Everything of a cluster that is on this machine: processes, namespaces, links, mounts, folder."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue  # not a process, or it has just ended
        if f"{state}".encode() in text:
            found.append(f"process {folder.name}: {(folder / 'comm').read_text().strip()}")
    tag = hashlib.sha1(str(state).encode()).hexdigest()[:8]
    found += [f"namespace {p.name}" for p in Path("/run/netns").glob(f"minicluster-{tag}-*")]
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    found += [f"link {link['ifname']}" for link in links if link.get("ifalias") == str(state)]
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(state) in line]
    return found + ([f"folder {state}"] if state.exists() else [])


def new_state() -> Path:
    """A folder name for a cluster; it tells by this process's id whether its owner is still there."""
    return Path(tempfile.gettempdir()).resolve() / f"{PREFIX}{os.getpid()}-{next(_numbers)}"


@contextmanager
def brought_up(*flags: str) -> Iterator[MiniCluster]:
    """A cluster with these flags of `up`, taken down at the end; a trace that is then left is an error."""
    state = new_state()
    done = tool("up", "--state", str(state), "--timeout", f"{limit(60):.0f}", *flags)
    if done.returncode == 2:
        said = " ".join(f"slurm/minicluster cannot run here: {done.stderr}".split())
        if os.environ.get("NANO_EXP_REQUIRE_SLURM") == "1":
            pytest.fail(said)
        pytest.skip(said)
    try:
        assert done.returncode == 0, f"minicluster up failed:\n{done.stdout}{done.stderr}"
        exports = tool("env", "--state", str(state), check=True).stdout
        ours = {name: value.strip("'") for name, value in re.findall(r"^export (\w+)=(.*)$", exports, re.MULTILINE)}
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        yield MiniCluster(state, outer | ours)
    finally:
        tool("down", "--state", str(state), check=True)
    assert traces(state) == []
