"""Several runs in one allocation (`pack=N`): a slot for each that executes, and the next one where a slot is free.

Each run is an attempt of its own, a child of this process with a part of the allocation: GPUs, CPUs, its own log. What
ends one ends no other. Where runs are left when the time is over, Slurm is asked once to start the job again; an
attempt in it says only, by a `requeue` event, that its run goes on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nano_exp import files
from nano_exp.engines import parts
from nano_exp.engines.parts import Part
from nano_exp.job import child, claim, ending, requeue, turn
from nano_exp.job.child import Stop
from nano_exp.store import packed, runs, state
from nano_exp.store.runs import Attempt, Owner, Run

#: How often the runs' folders are looked at for a `cancel`, seconds, and children for their end.
LOOK_S, POLL_S = 1.0, 0.2
#: How often it is looked for runs that go on from a rung by a user's word, seconds; at each end in any case.
WELCOME_S = 10.0


@dataclass(frozen=True)
class Order:
    """What a launch's manifest says of one of its allocations.

    Parameters
    ----------
    task: of the array; None where this is the only allocation
    gpus: of one run
    runs: number in the array, and folder, in the order in which they start
    others: the same of those that were dealt to other allocations
    study: whether runs that paused at a rung may go on
    """

    dir: Path
    array: int
    task: int | None
    slots: int
    gpus: int
    runs: Sequence[tuple[int, Path]]
    others: Sequence[tuple[int, Path]] = ()
    study: bool = False


@dataclass
class Running:
    """A run that executes."""

    index: int
    run_dir: Path
    process: subprocess.Popen[bytes]
    part: Part
    earlier: int  # attempts before
    told: bool = False  # it was sent SIGTERM


def find(launch: Path, array: int | str) -> Order | None:
    """The order for this job; None where each run of the array has its own. Raises Damaged or OSError."""
    if isinstance(array, str):
        return None
    manifest = files.read_json(launch / "manifest.json")
    try:
        entry = manifest["arrays"][array]
        if not entry.get("pack"):
            return None
        task = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)
        ours = [(index, Path(folder)) for index, folder in packed.members(entry, task)]
        others = [one for one in enumerate(map(Path, entry["runs"])) if one not in ours]
        sizes = (int(entry["pack"]["slots"]), int(entry["shape"]["gpus_per_node"]))
        study = bool((manifest.get("terms") or {}).get("halving"))
        return Order(launch, array, task if packed.tasks(entry) > 1 else None, *sizes, ours, others, study)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise files.Damaged(f"{launch / 'manifest.json'} has no pack in array {array}") from error


def execute(order: Order, stop: Stop) -> int:
    """Execute the runs of an allocation. Returns the job's exit code: 0 where all of them ended well or go on.

    Raises
    ------
    Refuse: what the launch waits for has not ended well
    """
    owner = claim.slurm_owner()
    new = [run for _, folder in order.runs if (run := runs.load(folder)) and not runs.attempts(folder)]
    if new:
        turn.require(order.dir, new[0], owner.job)
    return _Allocation(order, owner, stop, os.environ).work()


def take(run_dir: Path, order: Order) -> bool:
    """Have this allocation execute a run that another one of the launch has not begun. Returns whether it is to.

    Should the other one begin it at the same moment, the run's claim decides.
    """
    run, tried = runs.load(run_dir), runs.attempts(run_dir)
    sent, last, event = state.submission(run), tried[-1] if tried else None, run.last("submit")
    if sent is None or event is None or sent.launch != order.dir.name or not state.due(run, sent, last):
        return False
    if state.is_done(tried) or (last is not None and last.number > sent.after_attempt):
        return False
    state.submit_again(run_dir, event, task=order.task)
    return True


def going_on(order: Order, here: set[int]) -> list[tuple[int, Path]]:
    """Runs of a study that have paused, and that this job is to execute once more.

    Parameters
    ----------
    here: numbers of those that execute, or wait for a slot
    """
    every = (*order.runs, *order.others) if order.study else ()
    others = [(index, run_dir) for index, run_dir in every if index not in here]
    tried = [(one, runs.attempts(one[1])) for one in others]
    return [one for one, attempts in tried if attempts and _due(order, runs.load(one[1]), attempts)]


def _due(order: Order, run: Run, tried: Sequence[Attempt]) -> bool:
    """Whether this job is still to execute a run: it is this launch's, and has not ended for good."""
    sent = state.submission(run)
    if sent is None or (sent.launch, sent.task) != (order.dir.name, order.task) or state.is_done(tried):
        return False
    return state.due(run, sent, tried[-1] if tried else None)


class _Allocation:
    def __init__(self, order: Order, owner: Owner, stop: Stop, environ: Mapping[str, str]) -> None:
        self.order, self.owner, self.stop, self.environ = order, owner, stop, environ
        dealt = parts.parts(order.slots, order.gpus, environ, sorted(os.sched_getaffinity(0)))
        self.kept: list[socket.socket] = []
        if any(map(_needs_ports, order.runs)):
            dealt, self.kept = parts.with_ports(dealt, order.gpus)
        self.free = deque(dealt)
        ours = [
            one for one in (*order.runs, *order.others) if _due(self.order, runs.load(one[1]), runs.attempts(one[1]))
        ]
        self.waiting = deque(sorted(ours, key=lambda one: not runs.attempts(one[1])))  # those that were cut off first
        self.running: list[Running] = []
        self.nothing_left = False  # in other allocations
        self.closing = False  # the time is nearly over: nothing more starts here
        self.requeued = False
        self.codes: dict[int, int] = {}

    def work(self) -> int:
        looked = welcomed = 0.0
        while True:
            ended = self._reap()
            if ended or (self.free and time.monotonic() - welcomed >= WELCOME_S):
                welcomed = time.monotonic()
                self._welcome()
            if time.monotonic() - looked >= LOOK_S or self.stop.signal:
                looked = time.monotonic()
                self._pass_on()
            while self.free and not self.stop.signal and not self.closing and (one := self._next()) is not None:
                self._start(*one)
            if not self.running:
                break
            time.sleep(POLL_S)
        self._go_on()
        return 0 if self.requeued else max(self.codes.values(), default=0)

    # --- one run ----------------------------------------------------------------------------------------------------

    def _next(self) -> tuple[int, Path] | None:
        """A run whose turn it is: of this allocation or, where that has none left, one that another has not begun."""
        while self.waiting:
            index, run_dir = self.waiting.popleft()
            if _due(self.order, runs.load(run_dir), runs.attempts(run_dir)):
                return index, run_dir
        for index, run_dir in () if self.nothing_left else reversed(self.order.others):
            if take(run_dir, self.order):
                return index, run_dir
        self.nothing_left = True
        return None

    def _start(self, index: int, run_dir: Path) -> None:
        tried, part = runs.attempts(run_dir), self.free.popleft()
        name = f"{(self.owner.job or 'job')}-{run_dir.name}.out"
        words = [sys.executable, "-m", "nano_exp.job", str(self.order.dir), "--array", str(self.order.array)]
        with (self.order.dir / "slurm" / name).open("ab") as out:
            process = subprocess.Popen(
                [*words, "--task", str(index)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**self.environ, **parts.environment(part)},
                preexec_fn=partial(_in_child, os.getpid(), part.cpus),
            )
        self.running.append(Running(index, run_dir, process, part, len(tried)))
        gpus = f"GPU {','.join(part.gpus)}" if part.gpus else "no GPU"
        self._say(f"{run_dir.name} starts ({gpus}; its output: slurm/{name})")

    def _welcome(self) -> None:
        """Runs that go on from a rung, by another's end or a user's word, are next."""
        here = {index for index, _ in self.waiting} | {one.index for one in self.running}
        self.waiting.extendleft(going_on(self.order, here))

    def _reap(self) -> bool:
        """Whether one has ended."""
        ended = [one for one in self.running if one.process.poll() is not None]
        for one in ended:
            self.running.remove(one)
            self.free.append(one.part)
            self.nothing_left = False
            self._ended(one, int(one.process.returncode))
        return bool(ended)

    def _ended(self, one: Running, code: int) -> None:
        tried = runs.attempts(one.run_dir)
        last = tried[-1] if len(tried) > one.earlier else None
        if last is not None and last.end is None and not self.stop.signal:
            self._bury(one.run_dir, last, code)
            tried = runs.attempts(one.run_dir)
            last = tried[-1]
        self.codes[one.index] = code if code >= 0 else 128 - code
        kind = str((last.end or {}).get("kind", "cut off")) if last else "not started"
        self._say(f"{one.run_dir.name}: {kind}")
        if last is None or not _due(self.order, runs.load(one.run_dir), tried):
            return
        if last.end is not None and last.end.get("kind") == "stopped":  # by itself, before the time limit
            self.closing = True
        self.waiting.append((one.index, one.run_dir))

    def _bury(self, run_dir: Path, last: Attempt, code: int) -> None:
        """The end of an attempt that was killed alone, which nobody else would write while this job goes on."""
        end = ending.of_killed(runs.load(run_dir), last, self.owner) or {
            "attempt": last.number,
            "kind": "failed",
            "why": f"its attempt was killed by {signal.Signals(-code).name}" if code < 0 else "its attempt left no end",
            "exit_code": code if code >= 0 else 128 - code,
        }
        ending.write(run_dir, last.dir, dict(end))

    # --- all of them ------------------------------------------------------------------------------------------------

    def _pass_on(self) -> None:
        """A signal goes to all of them, a `cancel` to its run; a requeue that one of them wants is asked for once."""
        for one in self.running:
            if not one.told and (self.stop.signal or _cancelled(one.run_dir)):
                one.told = True
                one.process.send_signal(signal.SIGTERM)
        if self.stop.signal and not self.requeued and self._leaves():
            self._go_on()

    def _leaves(self) -> bool:
        """Whether a run has said that it goes on, or has not started."""
        if any(_due(self.order, runs.load(folder), runs.attempts(folder)) for _, folder in self.waiting):
            return True
        return any(_wants_more(one.run_dir) for one in self.running)

    def _go_on(self) -> None:
        """Have Slurm start this job again where runs of it are left and Slurm does not end it for good."""
        if self.requeued or not self._leaves():
            return
        until = None
        meant = requeue.what_it_meant(self.stop, self.owner, until) if self.stop.signal else "time_limit"
        if meant == "slurm":
            self.requeued = True
        elif meant in ("time_limit", "preempted"):
            self._say("runs are left: starting this job again")
            problem = requeue.ask_slurm(self.owner, "", until, self._say, lambda: False)
            self.requeued = not problem
            if problem:
                self._say(f"could not be started again: {problem}; nano-exp retry does it")

    def _say(self, line: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} nano-exp: {line}", flush=True)


def _in_child(parent: int, cpus: Sequence[int]) -> None:
    child.die_with(parent)
    if cpus:
        os.sched_setaffinity(0, cpus)


def _needs_ports(one: tuple[int, Path]) -> bool:
    """Whether a run starts a Ray; what cannot be read its own attempt will say."""
    try:
        return bool(runs.load(one[1]).config()["engine"]["name"] == "nemo_rl")
    except (files.Damaged, OSError, KeyError):
        return False


def _cancelled(run_dir: Path) -> bool:
    """Whether `nano-exp cancel` has named a run that executes."""
    newest = runs.load(run_dir).last("submit", "cancel")
    return newest is not None and newest.kind == "cancel"


def _wants_more(run_dir: Path) -> bool:
    """Whether the newest attempt of a run has said that the run goes on."""
    run, tried = runs.load(run_dir), runs.attempts(run_dir)
    return bool(tried) and state.is_requeued(run, tried[-1].number)
