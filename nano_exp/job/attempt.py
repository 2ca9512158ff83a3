"""One execution of a run in one allocation: claim it, start its engine, watch it, say how it ended.

Runs on the batch host (or on this machine for cluster=local) from the launch's own copy of the code, as
`python -m nano_exp.job <launch folder> --array K [--task I]`. It reads the frozen config and composes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from nano_exp import environment, files, slurm
from nano_exp.credentials import redact
from nano_exp.errors import UserError
from nano_exp.job import (
    canary_end,
    ending,
    engine_run,
    follow_up,
    pack,
    postmortem,
    requeue,
    rung_end,
    tell,
    throttle,
    turn,
)
from nano_exp.job.child import Stop, Superseded
from nano_exp.job.claim import AlreadyDone, Refuse, claim, slurm_owner
from nano_exp.job.course import Course
from nano_exp.job.ending import Ending
from nano_exp.slurm import setup_lines
from nano_exp.store import budget, halt, run_config, runs
from nano_exp.store.runs import Owner
from nano_exp.text import Say

#: How long an attempt on another node than its predecessor's waits for that one to notice, where site.fence_s is not
#: set. Slurm took the node for dead, and it may still execute.
FENCE_S = 60.0
#: A batch script that took longer to become the attempt is not believed: a container may have a clock of its own.
MOST_SETUP_S = 6 * 3600.0
#: Exit code of an attempt that did nothing because the run is done, or because the next attempt has it already.
NOTHING_TO_DO = 0
#: Exit code (EX_TEMPFAIL) in Slurm of a run that ended whole with steps left and does not go on, that its launch keeps
#: from starting, or that another job has: what waits for it with afterok must not start.
NOT_DONE = 75


def main(argv: list[str] | None = None) -> int:
    """Entry of the batch script. Returns the attempt's exit code."""
    parser = argparse.ArgumentParser(prog="nano_exp.job", description=__doc__)
    parser.add_argument("launch", type=Path, help="the launch's folder, with manifest.json")
    parser.add_argument("--array", type=_array, required=True, help="which of its arrays: a number, or canary")
    parser.add_argument("--task", type=int, help="which run of it; default: SLURM_ARRAY_TASK_ID, or the only one")
    arguments = parser.parse_args(argv)
    stop = Stop()
    if "SLURM_EXPORT_ENV" in os.environ:  # of a job that was sent with names or NONE: a step would get no environment
        os.environ["SLURM_EXPORT_ENV"] = "ALL"
    try:
        shared = pack.find(arguments.launch, arguments.array) if arguments.task is None else None
        if shared is not None:
            return pack.execute(shared, stop)
        setup_failed = setup_lines.failed(os.environ)
        return execute(
            replace(find(arguments.launch, arguments.array, arguments.task), setup_failed=setup_failed), stop
        )
    except Refuse as refusal:
        print(f"nano-exp: {refusal}", flush=True)
        return NOTHING_TO_DO if isinstance(refusal, AlreadyDone) else NOT_DONE
    except (UserError, files.Damaged, OSError) as error:
        print(redact(f"nano-exp: {error}"), file=sys.stderr, flush=True)
        return 2


def _array(text: str) -> int | str:
    return text if text == runs.CANARY else int(text)


@dataclass(frozen=True)
class Order:
    """What a launch's manifest says of one run: its folder, and the place that it was sent to this time."""

    run_dir: Path
    launch: str
    dir: Path  # the launch's folder
    manifest: dict[str, Any]
    canary: bool
    local: bool
    entry: dict[str, Any]  # of its array: site, Slurm, placement, pack
    checkout_commit: str | None
    env_file: Path | None = None
    setup_failed: setup_lines.Failed | None = None

    @property
    def packed(self) -> bool:
        """Whether its job has other runs too."""
        return bool(self.entry.get("pack"))


def find(launch: Path, array: int | str, task: int | None) -> Order:
    """The order for one run from the launch's manifest. Raises Damaged or OSError."""
    manifest = files.read_json(launch / "manifest.json")
    if task is None:
        task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    try:
        entry = manifest[runs.CANARY] if isinstance(array, str) else manifest["arrays"][array]
        run_config.sent_with({}, entry)  # what it lacks is found here
        where = manifest["where"] == "local"
        env_file = Path(manifest["env_file"]) if manifest.get("env_file") else None
        whose = (Path(entry["runs"][task]), launch.name, launch, manifest, array == runs.CANARY)
        return Order(*whose, where, entry, entry["checkout_commit"], env_file)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise files.Damaged(f"{launch / 'manifest.json'} has no run {task} in array {array}") from error


def execute(order: Order, stop: Stop) -> int:
    """Claim and execute one run, and have it go on where it should. Returns the exit code.

    Without Slurm, which would start its job again, it is executed again here; so is one that goes on from a rung.

    Raises
    ------
    Refuse: the run is done, or another attempt has it
    UserError, Damaged, OSError: before the claim
    """
    first = True
    while (code := _execute_once(order, stop, first)) is None:
        first = False
    return code


def _execute_once(order: Order, stop: Stop, first: bool) -> int | None:
    """One attempt; None where the next one is to follow in this process."""
    run_dir = order.run_dir
    run = runs.load(run_dir)
    if "digest" not in run.record:
        raise files.Damaged(f"{run_dir}: {'; '.join(run.damaged)}")
    config = run_config.sent_with(run.config(), order.entry)
    _require_going_on(order, run, config["site"])
    if not order.local and not order.canary and not order.packed:
        turn.require(order.dir, run, slurm_owner().job)
    number, attempt_dir, owner = claim(run, runs.this_process() if order.local else slurm_owner())
    _link_latest(attempt_dir)
    runs.reserve(attempt_dir)
    began = time.time()
    runs.record_event(
        run_dir,
        "start",
        attempt=number,
        job=owner.job,
        host=owner.host,
        pid=owner.pid,
        launch=order.launch,
        allocated=allocated(began) if first and not order.local and not order.packed else None,
        **({"packed": True} if order.packed else {}),
    )
    end: dict[str, Any] = {}
    with (attempt_dir / "attempt.log").open("a", buffering=1) as log:
        say = partial(_say, log)
        say(f"attempt {number} of run {run.id} on {owner.host}" + (f", job {owner.job}" if owner.job else ""))
        until = None if order.local else deadline()
        course = Course.of(order.manifest, runs.load(run_dir), order.canary)
        ahead = Ending(run_dir, number, owner, stop, until, config["slurm"], began, say, packed=order.packed)
        try:
            _bury_lost(run_dir, config, number, owner, stop, say)
            if order.setup_failed is not None:
                end = engine_run.without_setup(attempt_dir, config, order.setup_failed, owner, say)
            else:
                if order.env_file is not None:
                    say(environment.enter(order.env_file))
                environment.require(order.manifest.get("tokens") or (), os.environ)
                end = engine_run.train_in_turn(run, config, order.checkout_commit, attempt_dir, ahead, course)
        except Superseded as error:
            say(str(error))
            return NOTHING_TO_DO
        except UserError as error:
            say(str(error))
            end = {"kind": "failed", "why": f"{error.found}: {error.why}", "exit_code": error.code}
        except Exception as error:  # our own fault still has to leave an end behind, with its traceback in the log
            import traceback

            log.write(redact(traceback.format_exc()))
            end = {"kind": "failed", "why": f"attempt: {type(error).__name__}: {error}", "exit_code": 70}
        if stop.signal:
            ahead.cut_off()
        end = ahead.whole(end)
        end["why"] = redact(str(end.get("why") or ""))  # words of the engine's, and of the nodes' logs, stand in it
        say(f"{end['kind']}" + (f": {end['why']}" if end.get("why") else ""))
        if end["kind"] == "paused":
            end.update(rung_end.facts(run, course, number))
        ending.write(run_dir, attempt_dir, end)
        if end["kind"] not in ("done", "paused") and _goes_on(ahead, end):
            return 0 if owner.job is not None else None
        if course.rungs is not None and rung_end.settle(run_dir, course.rungs, ahead):
            return None
        if not order.local:
            if end["kind"] == "done":
                follow_up.send(run_dir, order.manifest, ahead)
            _tell_launch(order, config, end, owner.job, say)
        tell.end(order.dir, order.manifest, config["site"], run_dir, say)
    if order.canary and end["kind"] != "done":
        return int(end.get("exit_code") or 1)  # the arrays depend on its success, and stopped is none
    if end["kind"] in ("stopped", "ended early", "paused") and owner.job is not None:
        return NOT_DONE
    return (
        0
        if end["kind"] in ("done", "stopped", "cancelled", "ended early", "paused")
        else int(end.get("exit_code") or 1)
    )


def _require_going_on(order: Order, run: runs.Run, site: dict[str, Any]) -> None:
    """A run of a stopped launch does not start, one that had started goes on; none whose name's budget is spent.

    Raises Refuse, and Damaged where that cannot be told.
    """
    course = Course.of(order.manifest, run, order.canary)
    if rung_end.is_paused(run, course):  # Slurm starts a job again whose node failed at its end
        raise AlreadyDone(f"run {run.id} is paused at a rung; nothing to do")
    why = "" if order.local or order.manifest.get("by_hand") else halt.reason(order.dir)
    if why and not halt.has_started(run, order.launch):
        halt.cancelled(run, why, slurm_owner().job)
        raise Refuse(f"run {run.id} does not start: {why}")
    left = None if order.local or order.canary else budget.look(run.results, run.name)
    if left is not None and left.is_spent:
        runs.record_event(run.dir, "cancel", job=slurm_owner().job, why=str(left), cause=budget.CAUSE)
        tell.budget(order.dir, site, run.name, str(left), print)
        raise Refuse(f"run {run.id} does not start: {left}")


def _tell_launch(order: Order, config: dict[str, Any], end: dict[str, Any], job: str | None, say: Say) -> None:
    """What the end of a run means for the others of its launch: they stop, or may take its place."""
    try:
        if order.canary:
            why = canary_end.failed(end)
            if why:
                halt.halt(order.dir, order.manifest, why, say)
            else:
                canary_end.clear(config)
            return
        limit = (order.manifest.get("terms") or {}).get("fail_fast")
        if limit and end["kind"] == "failed" and (failed := halt.failures(order.dir, order.manifest)) >= limit:
            halt.halt(order.dir, order.manifest, f"fail_fast={limit}: {failed} failed", say)
        throttle.hand_on(order.dir, order.manifest, say, job)
    except (UserError, files.Damaged, OSError, KeyError, TypeError) as error:
        say(f"the launch was not told of this end: {type(error).__name__}: {error}")


def _goes_on(ahead: Ending, end: dict[str, Any]) -> bool:
    owner, stop = ahead.owner, ahead.stop
    if owner.job is None and not ahead.goes_on and not stop.signal:
        return requeue.here(ahead.run_dir, end, ahead.section, ahead.say)
    if owner.job is None or ahead.goes_on:
        return ahead.goes_on
    ours = (owner, stop, ahead.until, ahead.section, ahead.say, ahead.packed)
    return requeue.go_on(ahead.run_dir, end, ahead.stopped, *ours)


def _say(log: TextIO, line: str) -> None:
    """To the attempt's log and to Slurm's own output; both may be on a disk that is full."""
    stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} nano-exp: {redact(line)}"
    for out in (log, sys.stdout):
        with contextlib.suppress(OSError):
            print(stamped, file=out, flush=True)


def _link_latest(attempt_dir: Path) -> None:
    aside = attempt_dir.parent / f".latest-{os.getpid()}"
    with contextlib.suppress(OSError):  # a convenience: some file systems have no links
        aside.unlink(missing_ok=True)
        aside.symlink_to(attempt_dir.name)
        aside.replace(attempt_dir.parent / "latest")


# --- the attempt before ---------------------------------------------------------------------------------------------


def _bury_lost(run_dir: Path, config: dict[str, Any], number: int, owner: Owner, stop: Stop, say: Say) -> None:
    """Say why the attempt before this one left no end, and wait until it can have noticed that it is over."""
    before = next((a for a in runs.attempts(run_dir) if a.number == number - 1), None)
    if before is None or before.end is not None:
        return
    end = ending.of_killed(runs.load(run_dir), before, owner)
    if end is not None:
        say(f"attempt {before.number} was killed while its engine ended: {end['why']}")
        ending.write(run_dir, before.dir, end)
    else:
        diagnosis = postmortem.lost(before, config, owner)
        say(f"attempt {before.number} recorded no end: {diagnosis.title}")
        runs.record_event(run_dir, "lost", attempt=before.number, diagnosis=diagnosis.as_dict())
    elsewhere = before.owner.host if before.owner is not None and before.owner.host != owner.host else ""
    if elsewhere and owner.job is not None:
        seconds = config["site"].get("fence_s")
        wait = FENCE_S if seconds is None else float(seconds)
        say(f"it was on another node, {elsewhere}: waiting {wait:g} s for whatever lives there to end")
        waited = time.monotonic() + wait
        while time.monotonic() < waited and not stop.signal:
            time.sleep(0.2)


def deadline() -> float | None:
    """Unix time at which the allocation ends (SLURM_JOB_END_TIME); None outside Slurm."""
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    if text.isdigit():
        return float(text)
    job = os.environ.get("SLURM_JOB_ID")
    return slurm.end_time(job) if job else None


def allocated(now: float) -> float | None:
    """Unix time from which this start of the job is counted; None where nothing says.

    SLURM_JOB_START_TIME (newer Slurm), else the start of this process: the batch script becomes it, so that what the
    script set up before is in it.
    """
    text = os.environ.get("SLURM_JOB_START_TIME", "")
    if text.isdigit():
        return float(text) if 0 < int(text) <= now else None
    ticks = runs.process_start(os.getpid())
    try:
        booted = now - float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    began = booted + (ticks or 0.0) / os.sysconf("SC_CLK_TCK")
    return round(began, 3) if ticks and now - MOST_SETUP_S < began <= now else None
