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
from nano_exp.job import child, stacks, watchdog
from nano_exp.store import phase, runs

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
NEVER = watchdog.Rule()


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK_S", 0.1)
    monkeypatch.setattr(child, "POLL_S", 0.05)
    monkeypatch.setattr(child, "STALLED_END_S", 5.0)


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
        child.Watched(rule),
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


def test_a_stall_is_reported_twice_with_stacks_and_left_alone(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    stalling(ctx)
    told = f"grep -qs 'number.*2' {ctx.run_dir}/events/*stalled*"
    script = f": {ctx.config_path}; for n in $(seq 300); do {told} && break; sleep 0.1; done; sleep 0.5"
    ended, said = execute(ctx, script, FakeStop(), watchdog.Rule("report", 2.0, 0.5))
    assert (ended.code, ended.stall) == (0, None)
    found = [e for e in runs.load(ctx.run_dir).events if e.kind == "stalled"]
    assert [(e.data["step"], e.data["phase"], e.data["number"]) for e in found] == [(3, "step", 1), (3, "step", 2)]
    assert ["no new step for" in line for line in said] == [True, True]
    assert "seq 300" in Path(found[0].data["stacks"]).read_text()


def test_a_stall_ends_the_engine_after_two_reports(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    stalling(ctx)
    ended, _ = execute(ctx, "exec sleep 60", FakeStop(), watchdog.Rule("restart", 2.0, 0.5))
    assert ended.code == -signal.SIGTERM
    assert ended.stall is not None
    assert (ended.stall.step, ended.stall.number) == (3, 3)
    assert len(list(ctx.attempt_dir.glob("stacks-step-3-*.txt"))) == 3


class InSetup:
    """An engine that hangs while it starts vLLM."""

    moves, starved = 0, False

    def feed(self, line: str) -> None: ...

    def now(self) -> str:
        return "vllm"


def test_a_hang_in_set_up_is_written_down_and_ended_with_the_last_words_of_python(tmp_path: Path) -> None:
    ctx, told = context(tmp_path), []
    code = "import time\ndef stuck():\n    time.sleep(60)\nstuck()"
    environ = {"PATH": "/usr/bin:/bin", "PYTHONFAULTHANDLER": "1"}
    ended = child.execute(
        lambda lines: (),
        Command([sys.executable, "-c", code, str(ctx.config_path)], environ, Path("/")),
        ctx,
        FakeStop(),  # type: ignore[arg-type]
        child.Watched(watchdog.Rule("restart", patience={"vllm": 0.5}), InSetup(), lambda took: told.append(took)),
        lambda line: None,
        child.Notice(),
    )
    assert ended.stall is not None and ended.stall.phase == "vllm"
    now = phase.read(ctx.attempt_dir)
    assert now is not None and (now.phase, now.label) == ("vllm", "starting vLLM")
    assert told == [{}], "what hung is no measure of what it takes"
    assert "in stuck" in (ctx.attempt_dir / "stderr.log").read_text()
    assert ended.code == -signal.SIGABRT


class Quick(InSetup):
    """An engine whose steps take no time: at each look it is a phase further."""

    def __init__(self) -> None:
        self.phases = iter(["rollout", "rollout"])

    def now(self) -> str:
        return next(self.phases, "step")


def test_a_quick_run_is_not_in_its_first_rollout_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK_S", 0.02)
    ctx = context(tmp_path)
    watched = child.Watched(NEVER, Quick(), lambda took: None)
    child.execute(lambda lines: (), shell("exec sleep 0.5"), ctx, FakeStop(), watched, str, child.Notice())  # type: ignore[arg-type]
    now = phase.read(ctx.attempt_dir)
    assert now is not None and now.phase == "step"


def test_a_stall_of_which_no_word_can_be_written_leaves_the_engine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk no step is seen, whether the engine trains or not."""

    def full(*_: object) -> str:
        raise files.unwritable(tmp_path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(stacks, "dump", full)
    ctx = context(tmp_path)
    stalling(ctx)
    ended, said = execute(ctx, "sleep 1.5", FakeStop(), watchdog.Rule("restart", 2.0, 0.5))
    assert (ended.code, ended.stall) == (0, None)
    assert said and all("no new step for" in line and "the disk is full" in line for line in said)


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
