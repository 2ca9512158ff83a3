"""The engine's process: ended when asked to, when it stalls, and when another attempt has the run."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pace import limit

from nano_exp import files
from nano_exp.engines import Command, Context
from nano_exp.job import child, watchdog
from nano_exp.store import runs

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
NEVER = watchdog.Rule()


class FakeStop:
    """A stop that arrived already, or never; the real one takes over this process's signal handlers."""

    def __init__(self, number: int = 0) -> None:
        self.signal = number


def context(folder: Path) -> Context:
    attempt = folder / "run" / "attempts" / "1"
    attempt.mkdir(parents=True)
    return Context(folder / "run", attempt, 1, attempt / "nemo_rl.yaml")


def shell(script: str) -> Command:
    return Command(["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, Path("/"))


def execute(
    ctx: Context, script: str, stop: FakeStop, rule: watchdog.Rule = NEVER, notice: child.Notice | None = None
) -> tuple[child.Ended, list[str]]:
    said: list[str] = []
    ended = child.execute(
        lambda lines: (),
        shell(script),
        ctx,
        stop,  # type: ignore[arg-type]
        rule,
        said.append,
        notice or child.Notice(),
    )
    return ended, said


def test_the_engine_s_exit_code_is_what_comes_back(tmp_path: Path) -> None:
    ended, said = execute(context(tmp_path), "echo out; echo err >&2; exit 3", FakeStop())
    assert (ended.code, ended.stall, said) == (3, None, [])
    assert (tmp_path / "run/attempts/1/stdout.log").read_text() == "out\n"
    assert (tmp_path / "run/attempts/1/stderr.log").read_text() == "err\n"


def test_an_engine_that_will_not_end_is_killed(tmp_path: Path) -> None:
    ended, said = execute(context(tmp_path), STUBBORN, FakeStop(signal.SIGTERM), notice=child.Notice(0.3))
    # Asked before its trap was set it dies of the SIGTERM, else of the SIGKILL that follows.
    assert ended.code in (-signal.SIGKILL, -signal.SIGTERM)
    assert "SIGTERM: asking the engine to end" in said[0]
    assert said[-1] == "the engine did not end: killing it" or ended.code == -signal.SIGTERM


@pytest.mark.parametrize("script", [STUBBORN, "exit 143"], ids=["before its end is waited for", "it has ended too"])
def test_a_stop_is_told_once_whether_the_engine_still_runs(tmp_path: Path, script: str) -> None:
    told: list[bool] = []
    ctx = context(tmp_path)
    notice = child.Notice(0.5, lambda: told.append((ctx.attempt_dir / "stdout.log").is_file()))
    execute(ctx, script, FakeStop(signal.SIGTERM), notice=notice)
    assert told == [True]


@pytest.mark.parametrize(("kill_wait", "grace"), [(None, 20), (30, 20), (2, 1), (20, 10), (300, 290), (0, 0)])
def test_the_grace_stays_below_the_clusters_kill_wait(kill_wait: float | None, grace: float) -> None:
    assert child.grace(kill_wait) == grace


def test_an_attempt_that_another_has_followed_kills_its_engine_and_writes_nothing(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    timer = threading.Timer(0.5, (ctx.attempt_dir.parent / "2").mkdir)
    timer.start()
    began = time.monotonic()
    with pytest.raises(child.Superseded, match="attempt 2 has begun"):
        execute(ctx, STUBBORN + " # " + str(tmp_path), FakeStop())
    assert time.monotonic() - began < limit(30)
    assert str(tmp_path) not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
    assert not (ctx.run_dir / "metrics.jsonl").exists()


def stalling(ctx: Context) -> None:
    """Three steps of 0.1 s, the last of them long ago for a rule of seconds."""
    now = time.time() + 0.2
    rows = [{"step": n, "time": now + n / 100, "train/reward": 0.5} for n in (1, 2, 3)]
    (ctx.run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_stall_is_reported_once_with_stacks_and_left_alone(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    stalling(ctx)
    ended, said = execute(ctx, "sleep 3", FakeStop(), watchdog.Rule("report", 2.0, 0.5))
    assert (ended.code, ended.stall) == (0, None)
    (event,) = [e for e in runs.load(ctx.run_dir).events if e.kind == "stalled"]
    assert event.data["step"] == 3
    assert len(said) == 1
    assert "no new step for" in said[0]
    assert "sleep 3" in Path(event.data["stacks"]).read_text()


def test_a_stall_ends_the_engine_where_the_site_says_restart(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    stalling(ctx)
    ended, _ = execute(ctx, "exec sleep 60", FakeStop(), watchdog.Rule("restart", 2.0, 0.5))
    assert ended.code == -signal.SIGTERM
    assert ended.stall is not None
    assert ended.stall.step == 3


def test_a_stall_of_which_no_word_can_be_written_leaves_the_engine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk no step is seen, whether the engine trains or not."""

    def full(*_: object) -> str:
        raise files.unwritable(tmp_path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(watchdog, "dump", full)
    ctx = context(tmp_path)
    stalling(ctx)
    ended, said = execute(ctx, "sleep 2.5", FakeStop(), watchdog.Rule("restart", 2.0, 0.5))
    assert (ended.code, ended.stall) == (0, None)
    (line,) = said
    assert "no new step for" in line and "the disk is full" in line


def test_the_warning_signals_of_a_job_do_not_reach_the_engine(tmp_path: Path) -> None:
    """A site's `#SBATCH --signal=USR1` goes to every process of the job."""
    script = (
        "import os, signal\n"
        "from nano_exp.job.child import Stop\n"
        "Stop()\n"
        "import subprocess, sys\n"
        "code = 'import os, signal; os.kill(os.getpid(), signal.SIGUSR1); os.kill(os.getpid(), signal.SIGUSR2)'\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "sys.exit(subprocess.run([sys.executable, '-c', code]).returncode)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
