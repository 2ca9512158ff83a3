"""The engine as a child process: started, followed, watched, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from nano_exp import engines
from nano_exp.engines import Command, Context, Engine
from nano_exp.errors import UserError
from nano_exp.job import stacks, watchdog
from nano_exp.store import metrics_file, runs
from nano_exp.store import phase as store_phase
from nano_exp.text import Say

#: Slurm's KillWait where nobody says otherwise: seconds from its SIGTERM to its SIGKILL.
KILL_WAIT_S = 30.0
#: Of that, what the attempt keeps for its own end, seconds; half of it where it is short.
OWN_END_S = 10.0
#: How long an engine that is ended for a stall has, seconds: Slurm sends no SIGKILL, and its nodes keep Ray's logs.
STALLED_END_S = 45.0
POLL_S = 0.2
#: How often files on the shared file system are looked at, seconds.
LOOK_S = 1.0
#: Phases of the training loop, and how long one of them has lasted before it is written down, seconds.
LOOP = ("rollout", "step", "validation", "save")
SHOWN_S = 10.0


class Superseded(Exception):
    """The next attempt has begun: Slurm took this one for dead (its node was cut off). It writes nothing more."""


class Stop:
    """SIGTERM, SIGINT or SIGHUP arrived: end whole.

    SIGUSR1 and SIGUSR2, which sites send as warnings (`#SBATCH --signal`), are ignored here and by every child: they
    reach all processes of a job, and one that does not expect them dies of it.
    """

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._arrived)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number


def grace(kill_wait: float | None) -> float:
    """How long the engine has to end whole after SIGTERM, seconds.

    Parameters
    ----------
    kill_wait: the cluster's; None where it is not known
    """
    known = KILL_WAIT_S if kill_wait is None else kill_wait
    return max(known - OWN_END_S, known / 2)


@dataclass(frozen=True)
class Notice:
    """What a stop leaves time for, and who is to hear of it.

    Parameters
    ----------
    grace_s: after SIGTERM the engine has this long to end whole, seconds
    announce: called once, after the engine was asked to end (or has ended by the same signal) and before it is waited
        for
    """

    grace_s: float = grace(None)
    announce: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Ended:
    """How the engine ended: its exit code (negative for a signal), the stall that it was ended for, or that a rule of
    `stop` did."""

    code: int
    stall: watchdog.Stall | None = None
    early: bool = False


#: Rows for metrics.jsonl from what the engine prints, as Engine.follow gives them.
Follow = Callable[[Iterable[str | None]], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True)
class Watched:
    """How an engine is watched.

    Parameters
    ----------
    rule: when it counts as stalled
    phases: what tells where it is; None: its steps alone are watched
    learn: called with what phases took, seconds: when the training loop has begun, and at the end
    tell: called with each report of a stall, in words
    is_over: whether the engine is to be ended now, because its run is lost
    """

    rule: watchdog.Rule
    phases: engines.Phases | None = None
    learn: Callable[[Mapping[str, float]], None] = lambda took: None
    tell: Callable[[str], None] = lambda report: None
    is_over: Callable[[], bool] = lambda: False


def execute(
    follow: Follow, command: Command, ctx: Context, stop: Stop, watched: Watched, say: Say, notice: Notice
) -> Ended:
    """Start the engine in its own process group, follow its metrics, pass a stop on, and wait for its end.

    The command's `scratch` is left to the caller: Ray's logs are in it.

    Raises
    ------
    Superseded: the next attempt has begun
    UserError: the engine cannot be started
    """
    paths = {name: ctx.attempt_dir / f"{name}.log" for name in ("stdout", "stderr")}
    with paths["stdout"].open("ab") as out, paths["stderr"].open("ab") as err:
        try:
            process = subprocess.Popen(
                command.argv,
                env=command.env,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=partial(_in_child, command.open_files, os.getpid()),
            )
        except OSError as error:
            raise UserError(
                f"cannot start {command.argv[0]}: {error.strerror}",
                "the engine's program does not exist or is not executable",
                "site.python=/path/to/python of the engine's environment",
            ) from error
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(follow, paths["stdout"], ctx, ended), daemon=True)
    follower.start()
    try:
        return _Watch(process, command, ctx, stop, watched, say, notice).wait()
    finally:
        _kill_group(process)
        ended.set()
        follower.join(timeout=10)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)


def _in_child(open_files: int | None, parent: int) -> None:
    """Before the engine's exec: it is killed when this attempt dies, even by SIGKILL.

    Otherwise it would train on in a session of its own, beside the next attempt of the same run, wherever the job's
    end does not kill what it left (no Slurm; proctrack/linuxproc).
    """
    die_with(parent)
    if open_files:
        engines.raise_open_files(open_files)


class _Watch:
    """The wait for the engine's end, with what is looked at meanwhile."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        command: Command,
        ctx: Context,
        stop: Stop,
        watched: Watched,
        say: Say,
        notice: Notice,
    ) -> None:
        self.process, self.command, self.ctx, self.stop, self.watched, self.say = (
            *(process, command, ctx, stop, watched, say),
        )
        self.notice, self.noticed = notice, False
        self.kill_at: float | None = None
        self.began = time.time()
        self.dog = watchdog.Watchdog(watched.rule, self.began)
        self.stall: watchdog.Stall | None = None  # the engine is ended for it
        self.report: threading.Thread | None = None
        self.early = False  # a rule of `stop` ends it
        self.shown: tuple[str, float] | None = None
        self.taught: set[str] = set()  # phases whose durations were told

    def wait(self) -> Ended:
        looked = 0.0
        try:
            while (code := self.process.poll()) is None:
                self._pass_stop_on()
                if time.monotonic() - looked >= LOOK_S:
                    looked = time.monotonic()
                    self._require_newest()
                    self._look()
                time.sleep(POLL_S)
        finally:
            self._teach()
        self._require_newest()
        self._write_phase()
        self._notify()  # the same signal may have ended it first
        return Ended(code, self.stall, self.early)

    def _notify(self) -> None:
        if self.stop.signal and not self.noticed:
            self.noticed = True
            self.notice.announce()

    def _pass_stop_on(self) -> None:
        if self.kill_at is None and (self.stop.signal or self.stall is not None or self.early):
            why = signal.Signals(self.stop.signal).name if self.stop.signal else "lost" if self.early else "stalled"
            grace_s = self.notice.grace_s if self.stop.signal else max(self.notice.grace_s, STALLED_END_S)
            self.say(f"{why}: asking the engine to end, at most {grace_s:g} s")
            self.kill_at = time.monotonic() + grace_s
            if not self.stop.signal and not self.early:
                stacks.end(self.ctx, self.command)
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        elif self.kill_at is not None and self.stop.signal and not self.noticed:  # Slurm's SIGKILL comes after all
            self.kill_at = min(self.kill_at, time.monotonic() + self.notice.grace_s)
        self._notify()
        if self.kill_at is not None and time.monotonic() > self.kill_at:
            self.say("the engine did not end: killing it")
            _kill_group(self.process)

    def _require_newest(self) -> None:
        try:
            require_newest(self.ctx)
        except Superseded:
            _kill_group(self.process)
            raise

    def _look(self) -> None:
        self.early = self.early or self.watched.is_over()
        ends = self.early or self.stop.signal or self.stall is not None
        if ends or (self.report is not None and self.report.is_alive()):
            return
        rows = metrics_file.read(self.ctx.run_dir, tail_bytes=64 * 1024)
        steps = [(int(r["step"]), t) for r in rows if "train/reward" in r and (t := _time(r)) >= self.began]
        phases = self.watched.phases
        where = (phases.now(), phases.moves, phases.starved) if phases is not None else ("", 0, False)
        stall = self.dog.look(where[0], steps, time.time(), *where[1:])
        self._show()
        if stall is not None:  # beside the wait: a signal that comes meanwhile has to be passed on
            self.report = threading.Thread(target=self._report, args=(stall, where[:2]), daemon=True)
            self.report.start()

    def _report(self, stall: watchdog.Stall, where: tuple[str, int]) -> None:
        """Say so, with the stacks; the engine is ended where it is time for that and it has not got on meanwhile."""
        at = f"step-{stall.step}" if stall.phase == "step" else stall.phase
        target = self.ctx.attempt_dir / f"stacks-{at}-{stall.number}.txt"
        facts = {"attempt": self.ctx.number, **vars(stall), "stacks": str(target)}
        try:
            how = stacks.dump(self.ctx, self.command, target)
            self.say(f"{stall}; stacks in {target.name} ({how})")
            runs.record_event(self.ctx.run_dir, "stalled", **facts)
            self.watched.tell(str(stall))
        except (UserError, OSError) as error:  # a full disk: steps are not seen then, and the engine may well train
            self.say(f"{stall}; it could not be recorded: {error}")
            return
        phases = self.watched.phases
        if self.dog.ends(stall) and (phases is None or (phases.now(), phases.moves) == where):
            self.stall = stall

    def _show(self) -> None:
        """Write down where the engine is, when that has changed. Steps, validations and saves that are over at once are
        not worth a write each."""
        phase, since = self.dog.phase, self.dog.since
        before = self.shown[0] if self.shown else ""
        if not phase or self.shown == (phase, since) or (phase == before and phase in ("step", "rollout")):
            return
        # The first rollout is over but once: a quick run would be in it for ever.
        over = (before, phase) == ("rollout", "step")
        if before in LOOP and phase in LOOP and not over and time.time() - since < SHOWN_S:
            return
        self.shown = (phase, since)
        self._write_phase()
        if before not in LOOP and phase in LOOP:
            self._teach()

    def _write_phase(self) -> None:
        if self.dog.phase:
            now = store_phase.Now(self.dog.phase, self.dog.since, self.dog.took)
            with contextlib.suppress(UserError, OSError):
                store_phase.write(self.ctx.attempt_dir, now)

    def _teach(self) -> None:
        """Tell what phases took that were not told yet."""
        news = {phase: seconds for phase, seconds in self.dog.took.items() if phase not in self.taught}
        self.taught |= news.keys()
        self.watched.learn(news)


def _time(row: dict[str, Any]) -> float:
    return runs.number(row.get("time")) or 0.0


def superseded(ctx: Context) -> bool:
    """Whether a later attempt of the run exists."""
    return (ctx.attempt_dir.parent / str(ctx.number + 1)).is_dir()


def require_newest(ctx: Context) -> None:
    """Raises Superseded where a later attempt of the run exists."""
    if superseded(ctx):
        raise Superseded(f"attempt {ctx.number + 1} has begun; this one was taken for dead and ends")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Nothing that the engine started outlives it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


# --- its output -----------------------------------------------------------------------------------------------------


def _follow(follow: Follow, stdout: Path, ctx: Context, ended: threading.Event) -> None:
    """Append the engine's metrics to metrics.jsonl, as they appear."""
    for row in follow(_lines(stdout, ended)):
        if superseded(ctx):
            return
        with (
            contextlib.suppress(OSError),
            metrics_file.open_to_append(ctx.run_dir) as file,
        ):  # a full disk does not stop training
            file.write(metrics_file.line(row))


def _lines(path: Path, ended: threading.Event) -> Iterator[str | None]:
    """The lines of a growing file until `ended` and its end is reached; None where it has no more for now. A last
    line without its end is left out: a number in it may be cut off."""
    with path.open("r", errors="replace") as file:
        part = ""
        while True:
            last_round = ended.is_set()
            while chunk := file.readline():
                part += chunk
                if part.endswith("\n"):
                    yield part.rstrip("\n")
                    part = ""
            if last_round:
                return
            yield None
            ended.wait(0.5)


def recover_rows(engine: Engine, config: dict[str, Any], run_dir: Path, attempt: int) -> None:
    """Append what the engine of an attempt that was killed had said and logged, and metrics.jsonl has not yet.

    Those after it whose engine never began are looked past.
    """
    began = [a for a in runs.attempts(run_dir) if a.number <= attempt and (a.dir / "stdout.log").is_file()]
    if not began or (began[-1].end is not None and not began[-1].end.get("cut_off")):
        return
    killed = began[-1]
    ctx = Context(run_dir, killed.dir, killed.number, killed.dir / "nemo_rl.yaml")
    ctx = replace(ctx, resumes_from=_resumed_from(run_dir, killed.number))
    known: dict[int, set[str]] = {}
    for row in metrics_file.read(run_dir):
        known.setdefault(row["step"], set()).update(row)
    stdout = killed.dir / "stdout.log"
    ended = stdout.stat().st_mtime
    with stdout.open(errors="replace") as lines, metrics_file.open_to_append(run_dir) as file:
        for row in engine.follow(config, ctx, (line for line in lines if line.endswith("\n"))):
            known_names = known.get(row["step"], {"step", "time"})
            if new := {name: value for name, value in row.items() if name not in known_names}:
                file.write(metrics_file.line({"step": row["step"], "time": min(row["time"], ended), **new}))


def _resumed_from(run_dir: Path, attempt: int) -> int:
    """The step that an attempt's engine went on from, as its event says."""
    events = [event.data for event in runs.load(run_dir).events if event.kind == "engine"]
    steps = [data.get("resumes_from") for data in events if data.get("attempt") == attempt]
    return next((step for step in steps if isinstance(step, int)), 0)
