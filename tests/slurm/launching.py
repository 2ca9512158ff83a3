"""A launch folder on the mini cluster: real `python launch.py` processes, and what became of their runs."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from minicluster_tool import MiniCluster
from pace import limit

from nano_exp import files
from nano_exp.store import metrics_file, runs

ROOT = Path(__file__).resolve().parents[2]
STANDIN = ROOT / "tests" / "standin"
#: One GPU and one core are no place for these recipes, and the stand-in has neither NeMo Gym nor data.
IGNORED = "ignore=[layout_divides_gpus,cpus_for_ray,host_memory_fits,gym_paths,data_files]"
#: The stand-in as the engine's checkout. Needs no file of a model, as the published 12B row does.
SITE = ("site=minicluster", f"site.checkout={STANDIN}", f"site.python={sys.executable}", IGNORED)
NANO_12B = ("model=nano_12b", "cluster=1n8g", *SITE, "grpo.max_num_steps=3")
#: One GPU and one core a run, so that sixteen fit on the two nodes at once; a checkpoint of each step.
#: The stand-in starts no Ray, and one that other tests have on this machine, where both nodes see it, is no matter.
SMALL = (
    *NANO_12B,
    "cluster.gpus_per_node=1",
    "slurm.cpus_per_node=1",
    "checkpointing.save_period=1",
    "engine.ray_address=none",
)
HOLD = "+hydra.launcher.additional_parameters.hold=true"

#: Loaded by a launcher's Python through PYTHONPATH; kills it when a rename or a child process matches KILL_AT.
KILL_SWITCH = """
import os, signal, sys
event, _, part = os.environ["KILL_AT"].partition(" ")
def hook(name, args):
    if name == event and part in " ".join(map(str, args[1] if name == "subprocess.Popen" else args[:2])):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


def setting(name: str, value: object) -> str:
    """An override that gives the stand-in one of its variables."""
    return f"+site.env.STANDIN_{name}={value}"


@dataclass(frozen=True)
class Said:
    """What a launcher said and how it ended."""

    code: int
    text: str
    seconds: float


class Launcher:
    """A `python launch.py` that was started."""

    def __init__(self, lab: Lab, overrides: Sequence[str], env: Mapping[str, str]) -> None:
        sweep = ["-m"] if any("," in o and "=[" not in o for o in overrides) else []
        self.overrides, self.began = overrides, time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, lab.root / "launch.py", *sweep, *overrides],
            cwd=lab.folder,
            env={**lab.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def said(self, code: int | None = 0, seconds: float = 240) -> Said:
        """Wait for its end; another exit code than `code` fails the test with all that it said."""
        seconds = limit(seconds)
        try:
            text, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            text, _ = self.process.communicate()
            pytest.fail(f"launch.py {' '.join(self.overrides)} had not ended after {seconds:.0f} s:\n{text}")
        done = Said(self.process.returncode, text, time.monotonic() - self.began)
        if code is not None and done.code != code:
            pytest.fail(f"launch.py {' '.join(self.overrides)} ended with {done.code}, not {code}:\n{text}")
        return done


class Lab:
    """A folder to launch from. `results/` in it is the store."""

    def __init__(self, cluster: MiniCluster, folder: Path, root: Path = ROOT) -> None:
        self.cluster, self.folder, self.root = cluster, folder, root
        folder.mkdir(parents=True, exist_ok=True)
        left_out = ("NANO_EXP_RESULTS", "PYTHONPATH", "HF_HOME", "WANDB_API_KEY", "WANDB_MODE")
        self.env = {k: v for k, v in cluster.env.items() if k not in left_out and not k.startswith("STANDIN_")}
        self.env["NANO_EXP_ENV"] = ""  # not an env.yaml that lies beside launch.py
        self.launchers: list[Launcher] = []

    @property
    def results(self) -> Path:
        return self.folder / "results"

    # --- launching --------------------------------------------------------------------------------------------------

    def start(self, *overrides: str, **env: str) -> Launcher:
        """Start a launch; a comma in an override makes it a sweep. `env` is added to its environment."""
        self.launchers.append(Launcher(self, overrides, env))
        return self.launchers[-1]

    def launch(self, *overrides: str, code: int | None = 0, **env: str) -> Said:
        """One launch, from start to end."""
        return self.start(*overrides, **env).said(code)

    def kill_at(self, event: str, *overrides: str) -> None:
        """A launch that is SIGKILLed just before `event`: `os.rename NAME` or `subprocess.Popen WORD`."""
        folder = self.folder / "kill"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(KILL_SWITCH)
        self.launch(*overrides, code=-9, PYTHONPATH=str(folder), KILL_AT=event)

    def with_command(self, name: str, script: str) -> dict[str, str]:
        """An environment in which `name` is this shell script; $REAL is the command that it hides.

        A question to sbatch (--test-only, of preflight) goes to the real one: the script is for submissions.
        """
        passed = 'case " $* " in *" --test-only "*) exec $REAL "$@" ;; esac'
        folder = self.folder / f"bin-{name}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/bash\nREAL=/usr/bin/{name}\n{passed}\n{script}\n")
        (folder / name).chmod(0o755)
        return {"PATH": f"{folder}:{self.env['PATH']}"}

    def status(self, *words: str, **env: str) -> dict[str, dict[str, Any]]:
        """`nano-exp status --json`: run id -> its row."""
        said = self.tool("status", "--json", *words, **env)
        return {row["run"]: row for row in json.loads(said)["runs"]}

    def tool(self, *arguments: str, **env: str) -> str:
        """`nano-exp ARGUMENTS` here; its stdout."""
        argv = [Path(sys.executable).with_name("nano-exp"), *arguments]
        done = subprocess.run(
            argv, cwd=self.folder, env={**self.env, **env}, capture_output=True, text=True, timeout=limit(60)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # --- the store --------------------------------------------------------------------------------------------------

    def runs(self) -> list[runs.Run]:
        return list(runs.find(self.results))

    def run(self, **values: object) -> runs.Run:
        """The one run whose frozen config has these values; __ stands for the dot."""
        found = [r for r in self.runs() if all(at(r.config(), k.replace("__", ".")) == v for k, v in values.items())]
        assert len(found) == 1, f"{len(found)} runs with {values}"
        return found[0]

    def launches(self) -> list[Path]:
        """The launches' folders, oldest first."""
        return sorted(p for p in (self.results / runs.LAUNCHES).glob("[0-9]*") if p.is_dir())

    def job(self, run: runs.Run) -> str:
        """The Slurm job of a run's newest submission, as the store has it: `12` or `12_3`."""
        event = runs.load(run.dir).last("submit")
        assert event is not None, f"{run.id} was never submitted"
        number = runs.jobs_of(self.results, event.data["launch"])[event.data["array"]]
        return number if event.data["task"] is None else f"{number}_{event.data['task']}"

    def scontrol(self, run: runs.Run) -> dict[str, str]:
        """The fields of `scontrol show job` for a run's newest submission."""
        return self.cluster.job(self.job(run))

    # --- waiting ----------------------------------------------------------------------------------------------------

    def wait_ended(self, *wanted: runs.Run, attempt: int = 1, seconds: float = 240) -> None:
        """Wait until these runs (all, if none is named) have an end of attempt number `attempt`."""

        def ended() -> bool:  # the event comes after end.json, and is the last thing that an attempt writes
            for run in wanted or self.runs():
                ends = [e.data["end"]["attempt"] for e in runs.load(run.dir).events if e.kind == "end"]
                if attempt not in ends:
                    return False
            return True

        self.wait_for(f"the end of attempt {attempt}", ended, seconds)

    def wait_step(self, run: runs.Run, step: int, seconds: float = 180) -> None:
        """Wait until a run has finished this step."""
        self.wait_for(f"step {step} of {run.id}", lambda: (checkpoints(run)[-1:] or [0])[0] >= step, seconds)

    def wait_for(self, what: str, reached: Callable[[], object], seconds: float = 180) -> None:
        self.cluster.wait_for(what, reached, seconds)

    def queued(self) -> list[str]:
        """This lab's jobs in the queue, as `JOBID STATE NAME`."""
        ours = tuple(f"nx-{path.name}." for path in self.launches())
        lines = self.cluster.run("squeue", "-h", "-o%i %T %j").stdout.splitlines()
        return [line for line in lines if ours and line.split()[2].startswith(ours)]

    def wait_queue_empty(self, seconds: float = 180) -> None:
        self.wait_for("an empty queue", lambda: not self.queued(), seconds)

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End what is left: launchers, their children, jobs."""
        for launcher in self.launchers:
            if launcher.process.poll() is None:
                launcher.process.kill()
            launcher.process.wait()
            if launcher.process.stdout is not None:
                launcher.process.stdout.close()
        for line in self.queued():
            self.cluster.run("scancel", "--full", line.split("_[")[0].split()[0], check=False)

    def report(self) -> str:
        """Everything that tells why a test failed."""
        lines = [f"==== {self.folder}"]
        for path in self.launches():
            for log in sorted(path.glob("slurm/*")):
                lines += [f"---- {log.relative_to(self.folder)}", files.tail(log, 2000)]
        for run in self.runs():
            lines += [f"---- {run.dir.relative_to(self.folder)}: damaged {run.damaged}"]
            lines += [f"{event.time:.2f} {json.dumps(dict(event.data))[:600]}" for event in run.events]
            for path in sorted(run.dir.glob("attempts/[0-9]*")):
                for name in ("attempt.log", "stderr.log"):
                    lines += [f"---- {path.relative_to(self.folder)}/{name}", files.tail(path / name, 2000)]
        return "\n".join([*lines, "---- squeue", self.cluster.run("squeue", check=False).stdout])


@contextmanager
def no_ray_beside(alone: bool = True) -> Iterator[None]:
    """Alone: no test of this machine has Ray while the block runs. Otherwise: Ray may run in it, as in others.

    The nodes of all mini clusters show this machine's processes, and a run of NeMo RL on one node refuses to start
    where it sees somebody else's Ray.
    """
    with (Path(tempfile.gettempdir()) / "nano-exp-tests-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextmanager
def opened(cluster: MiniCluster, folder: Path) -> Iterator[Lab]:
    """An empty launch folder. Its report is printed at the end; pytest shows it where the test failed."""
    lab = Lab(cluster, folder)
    try:
        yield lab
    finally:
        print(lab.report())
        lab.close()


# --- what the files of a run say ------------------------------------------------------------------------------------


def at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def engine_yaml(run: runs.Run, attempt: int = 1) -> dict[str, Any]:
    """attempts/<n>/nemo_rl.yaml: what the engine was given."""
    found = yaml.safe_load((run.dir / "attempts" / str(attempt) / "nemo_rl.yaml").read_text())
    assert isinstance(found, dict)
    return found


def kinds(run: runs.Run) -> list[str]:
    """How each attempt ended, first to last, by the events."""
    return [str(e.data["end"]["kind"]) for e in runs.load(run.dir).events if e.kind == "end"]


def checkpoints(run: runs.Run) -> list[int]:
    """The steps of a run's checkpoints, in order."""
    return sorted(int(p.name.removeprefix("step_")) for p in (run.dir / "checkpoints").glob("step_*"))


def metrics(run: runs.Run) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock gives: what has to be equal between an interrupted and a whole run."""
    rows = metrics_file.read(run.dir)
    clock = ("timing/", "performance/")
    return [{k: v for k, v in row.items() if k != "time" and not k.startswith(clock)} for row in rows]


def train_steps(run: runs.Run) -> list[int]:
    return [int(row["step"]) for row in metrics(run) if "train/reward" in row]


def assert_executed_once(run: runs.Run, steps: int = 3) -> None:
    """One attempt, which began once, ended once as done and has every step once."""
    facts = {
        "starts": [e.data["attempt"] for e in runs.load(run.dir).events if e.kind == "start"],
        "ends": kinds(run),
        "attempts": [a.number for a in runs.attempts(run.dir)],
        "steps": train_steps(run),
    }
    once = {"starts": [1], "ends": ["done"], "attempts": [1], "steps": list(range(1, steps + 1))}
    assert facts == once, f"{run.id}: {facts}, not {once}"
