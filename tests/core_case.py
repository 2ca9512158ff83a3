"""What the core's tests share: real launches, real composition, run folders made by hand, a queue made of lines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_loader import ConfigLoader
from pace import limit

from nano_exp import slurm
from nano_exp.advice import mistakes
from nano_exp.compose import compose, conf_tree
from nano_exp.compose.freeze import Frozen, freeze
from nano_exp.launch import convergence, job_arrays, staging
from nano_exp.planner import auto
from nano_exp.store import runs
from nano_exp.store.runs import Owner

ROOT = Path(__file__).resolve().parents[1]
STANDIN = ROOT / "tests" / "standin"
LAUNCH = ROOT / "launch.py"
DIGEST = "d" * 64


#: The smallest run of the embedded engine that still has every part: warm start, GRPO, validation, checkpoints.
TINY = (
    "grpo.max_num_steps=2",
    "grpo.num_prompts_per_step=2",
    "grpo.num_generations_per_prompt=2",
    "grpo.max_val_samples=4",
    "grpo.val_batch_size=4",
    "engine.warm_start.steps=1",
)


def spread(cases: Iterable[Any], keep: int) -> list[Any]:
    """Parameters of a test: `keep` of the cases in `make test`, evenly spread, and all of them in `make thorough`."""
    every = list(cases)
    shown = {round(i * (len(every) - 1) / max(1, keep - 1)) for i in range(keep)}
    thorough = pytest.mark.thorough
    return [case if i in shown else pytest.param(*_values(case), marks=thorough) for i, case in enumerate(every)]


def _values(case: Any) -> tuple[Any, ...]:
    return case if type(case) is tuple else (case,)


@dataclass(frozen=True)
class Finished:
    """A launch that ended: where it was launched, its only run, and what it printed."""

    folder: Path
    run: Path
    stdout: str
    stderr: str
    returncode: int


# --- launches as a user types them ----------------------------------------------------------------------------------


def environment(**extra: str | None) -> dict[str, str]:
    """The environment of a command under test: nothing of the caller's that a launch or an engine would follow.

    No env.yaml either, but with NANO_EXP_ENV=None, which takes the variable away.
    """
    foreign = ("SLURM_", "NANO_EXP_", "WANDB_", "HYDRA_", "STANDIN_", "PYTHON")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    composed = {"NANO_EXP_CACHE": os.environ.get("NANO_EXP_CACHE")}
    wanted = {**kept, **composed, "WANDB_MODE": "disabled", "NANO_EXP_ENV": "", **extra}
    return {k: v for k, v in wanted.items() if v is not None}


def launch(folder: Path, *arguments: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """`python launch.py ARGUMENTS` in a folder."""
    return _run([sys.executable, str(LAUNCH), *arguments], folder, timeout, env)


def start_launch(folder: Path, *arguments: str, **env: str | None) -> subprocess.Popen[str]:
    """The same, in the background and in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, str(LAUNCH), *arguments],
        cwd=folder,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )


def heed_ctrl_c() -> None:
    """In a child: SIGINT ends it, also where these tests were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def nano_exp(folder: Path, *arguments: str, timeout: float = 60, **env: str | None) -> subprocess.CompletedProcess[str]:
    """`nano-exp ARGUMENTS` in a folder."""
    code = "import sys; from nano_exp.cli import main; sys.exit(main())"
    return _run([sys.executable, "-c", code, *arguments], folder, timeout, env)


def attempt(
    launched: Path, array: int | str = 0, *arguments: str, timeout: float = 60, **env: str
) -> subprocess.CompletedProcess[str]:
    """One attempt as the batch script starts it, from the launch's own copy of the code."""
    return _run(attempt_argv(launched, array, *arguments), Path("/"), timeout, attempt_env(launched, **env))


def start_attempt(launched: Path, array: int = 0, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        attempt_argv(launched, array, *arguments),
        cwd="/",
        env=environment(**attempt_env(launched, **env)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def attempt_argv(launched: Path, array: int | str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "nano_exp.job", str(launched), "--array", str(array), *arguments]


def attempt_env(launched: Path, **env: str) -> dict[str, str]:
    return {"PYTHONPATH": str(launched / "code"), "PYTHONSAFEPATH": "1", "STANDIN_STEP_SECONDS": "0.02", **env}


def _run(
    argv: list[str], folder: Path, timeout: float, env: Mapping[str, str | None]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=limit(timeout)
    )


def wait_for(reached: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """The first true value of `reached`; fails the test when none comes."""
    seconds = limit(seconds)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := reached():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def everything_below(folder: Path) -> list[str]:
    """Every path below a folder, sorted, relative to it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def sha256_line(name: str, value: str) -> str:
    """What the stand-in prints of a variable that STANDIN_HASH names."""
    return f"sha256 of {name}: {hashlib.sha256(value.encode()).hexdigest()}"


def holding(folder: Path, words: Iterable[str], besides: Iterable[Path] = ()) -> list[str]:
    """The files and links below a folder that have one of these words in their name or in their bytes."""
    found, wanted, skipped = [], [word.encode() for word in words], set(besides)
    for path in sorted(folder.rglob("*")):
        data = os.fsencode(path.relative_to(folder))
        if path.is_symlink():
            data += os.fsencode(path.readlink())
        elif path.is_file() and path not in skipped:
            data += path.read_bytes()
        if any(word in data for word in wanted):
            found.append(str(path))
    return found


# --- composition ----------------------------------------------------------------------------------------------------


@cache
def config_loader() -> ConfigLoader:
    with conf_tree.loader() as found:
        return found


@cache
def point(*overrides: str) -> compose.Point:
    """One really composed point; composing the same twice costs once."""
    return compose_points(config_loader(), [list(overrides)])[0]


def compose_points(loader: ConfigLoader, overrides: Sequence[Sequence[str]]) -> list[compose.Point]:
    """Points one by one, each composed by Hydra, mistakes in words: what the fast path is held to."""
    with mistakes.explained(loader):
        return [auto.compose_point(loader, one) for one in overrides]


def frozen(folder: Path, *overrides: str) -> Frozen:
    """A point frozen as if launched from `folder`."""
    return freeze(point(*overrides), folder)


def standin(checkout: Path = STANDIN) -> list[str]:
    """Overrides that run a published recipe's config on the stand-in, whatever Ray runs on this host."""
    ray = "engine.ray_address=none"
    return ["model=nano_12b", "cluster=1n8g", f"site.checkout={checkout}", f"site.python={sys.executable}", ray]


def copy_standin(target: Path) -> Path:
    """The stand-in outside of this repository: with no commit, so that commits made meanwhile change nothing."""
    shutil.copytree(STANDIN, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def prepared(
    folder: Path,
    *overrides: str,
    where: str = "slurm",
    points: Sequence[Sequence[str]] = (),
    env_file: Path | None = None,
) -> job_arrays.Launch:
    """A launch from `folder` that has written everything and submitted nothing."""
    wanted = [frozen(folder, *overrides, *own) for own in (points or [()])]
    made = convergence.make(wanted, False, Answer([]))
    ready = job_arrays.arrange(made.to_submit, job_arrays.new_id(), folder / "results")
    staging.prepare(ready, where, {}, list(overrides), env_file)
    return ready


# --- a store and a queue made by hand -------------------------------------------------------------------------------


class Answer(convergence.QueueLookup):
    """Slurm's answer as given: lines of squeue, or None for no answer. `times` counts how often it was asked."""

    def __init__(self, lines: Iterable[str] | None) -> None:
        super().__init__()
        self.lines, self.times = lines, 0

    def __call__(self) -> slurm.Queue | None:
        self.times += 1
        if self.lines is None:
            self.error = "Unable to contact slurm controller"
            return None
        return slurm.Queue([job for line in self.lines if (job := slurm.parse_squeue_line(line))])


def make_run(
    results: Path,
    *,
    name: str = "name",
    run: str = "r0123456789",
    record: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A run's folder with run.json and config.yaml, no events."""
    folder = results / name / run
    whole = {"id": run, "name": name, "digest": DIGEST, "overrides": [], "created": time.time(), "user": "somebody"}
    assert runs.create(folder, config or {"grpo": {"max_num_steps": 4}}, {**whole, **(record or {})})
    return folder


def aged(results: Path, seconds: float = 1000) -> None:
    """Make everything in a store that much older: what has just changed is not kept in status's cache."""
    for path in (results, *results.rglob("*")):
        if not path.is_symlink():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def intend(
    folder: Path,
    *,
    array: int = 0,
    task: int | None = None,
    after: int = 0,
    local: Owner | None = None,
    by_hand: bool = False,
) -> None:
    """The event of a submission by launch L."""
    runs.record_event(
        folder,
        "submit",
        durable=False,
        launch="L",
        array=array,
        task=task,
        after_attempt=after,
        local=vars(local) if local else None,
        by_hand=by_hand,
    )


def make_attempt(folder: Path, number: int, owner: Owner, end: Mapping[str, Any] | None = None) -> Path:
    """attempts/<number>, claimed and, with `end`, ended."""
    made = runs.claim(folder, number, owner)
    assert made is not None
    if end is not None:
        (made / "end.json").write_text(json.dumps(end))
    return made


def dead_process() -> Owner:
    """An owner on this host whose process is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    here = runs.this_process()
    return Owner(None, 0, here.host, process.pid, here.started - 1)
