"""One execution of a run in one allocation: claim it, start its engine, watch it, say how it ended.

Runs on the batch host (or on this machine for cluster=local) from the launch's own copy of the code, as
`python -m nano_exp.job <launch folder> --array K [--task I]`. It reads the frozen config and composes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from nano_exp import engines, environment, files, slurm
from nano_exp.credentials import redact
from nano_exp.dotted import Config
from nano_exp.engines import Context, nodes
from nano_exp.errors import UserError
from nano_exp.job import (
    cache_lock,
    canary_end,
    child,
    ending,
    gpu_memory,
    postmortem,
    requeue,
    throttle,
    turn,
    watchdog,
)
from nano_exp.job.child import Stop, Superseded
from nano_exp.job.claim import AlreadyDone, Refuse, claim, slurm_owner
from nano_exp.job.ending import Ending
from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl import checkout as nemo_rl_checkout
from nano_exp.slurm import setup_lines
from nano_exp.store import halt, run_config, runs, trackers
from nano_exp.store.runs import Owner
from nano_exp.text import Say

#: How long an attempt on another node than its predecessor's waits for that one to notice, where site.fence_s is not
#: set. Slurm took the node for dead, and it may still execute.
FENCE_S = 60.0
#: How long Slurm is asked for its KillWait before the engine starts, seconds.
KILL_WAIT_ASKED_S = 10.0
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
    given = parser.parse_args(argv)
    stop = Stop()
    if "SLURM_EXPORT_ENV" in os.environ:  # of a job that was sent with names or NONE: a step would get no environment
        os.environ["SLURM_EXPORT_ENV"] = "ALL"
    try:
        setup_failed = setup_lines.failed(os.environ)
        return execute(replace(find(given.launch, given.array, given.task), setup_failed=setup_failed), stop)
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
    entry: dict[str, Any]  # of its array: site, Slurm, placement
    checkout_commit: str | None
    env_file: Path | None = None
    setup_failed: setup_lines.Failed | None = None


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

    Raises
    ------
    Refuse: the run is done, or another attempt has it
    UserError, Damaged, OSError: before the claim
    """
    run_dir = order.run_dir
    run = runs.load(run_dir)
    if "digest" not in run.record:
        raise files.Damaged(f"{run_dir}: {'; '.join(run.damaged)}")
    config = run_config.sent_with(run.config(), order.entry)
    _require_going_on(order, run)
    if not order.local and not order.canary:
        turn.require(order.dir, run, slurm_owner().job)
    number, attempt_dir, owner = claim(run, runs.this_process() if order.local else slurm_owner())
    _link_latest(attempt_dir)
    runs.reserve(attempt_dir)
    began = time.time()
    runs.record_event(
        run_dir, "start", attempt=number, job=owner.job, host=owner.host, pid=owner.pid, launch=order.launch
    )
    end: dict[str, Any] = {}
    with (attempt_dir / "attempt.log").open("a", buffering=1) as log:
        say = partial(_say, log)
        say(f"attempt {number} of run {run.id} on {owner.host}" + (f", job {owner.job}" if owner.job else ""))
        until = None if order.local else deadline()
        ahead = Ending(run_dir, number, owner, stop, until, config["slurm"], began, say)
        try:
            _bury_lost(run_dir, config, number, owner, stop, say)
            if order.setup_failed is not None:
                end = _without_setup(attempt_dir, config, order.setup_failed, owner, say)
            else:
                if order.env_file is not None:
                    say(environment.enter(order.env_file))
                environment.require(order.manifest.get("tokens") or (), os.environ)
                end = _train_in_turn(run, config, order.checkout_commit, attempt_dir, ahead)
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
        ending.write(run_dir, attempt_dir, end)
        if end["kind"] != "done" and _goes_on(ahead, end):
            return 0
        if not order.local:
            _tell_launch(order, config, end, say)
    if order.canary and end["kind"] != "done":
        return int(end.get("exit_code") or 1)  # the arrays depend on its success, and stopped is none
    if end["kind"] == "stopped" and owner.job is not None:
        return NOT_DONE
    return 0 if end["kind"] in ("done", "stopped", "cancelled") else int(end.get("exit_code") or 1)


def _require_going_on(order: Order, run: runs.Run) -> None:
    """A run of a launch that was stopped does not start; one that had started goes on. Raises Refuse."""
    why = "" if order.local or order.manifest.get("by_hand") else halt.reason(order.dir)
    if why and not halt.has_started(run, order.launch):
        halt.cancelled(run, why, slurm_owner().job)
        raise Refuse(f"run {run.id} does not start: {why}")


def _tell_launch(order: Order, config: dict[str, Any], end: dict[str, Any], say: Say) -> None:
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
        throttle.hand_on(order.dir, order.manifest, say)
    except (UserError, files.Damaged, OSError, KeyError, TypeError) as error:
        say(f"the launch was not told of this end: {type(error).__name__}: {error}")


def _goes_on(ahead: Ending, end: dict[str, Any]) -> bool:
    owner, stop = ahead.owner, ahead.stop
    if owner.job is None or ahead.goes_on:
        return ahead.goes_on
    return requeue.go_on(ahead.run_dir, end, ahead.stopped, owner, stop, ahead.until, ahead.section, ahead.say)


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


# --- the engine -----------------------------------------------------------------------------------------------------


def _train_in_turn(
    run: runs.Run, config: dict[str, Any], commit: str | None, attempt_dir: Path, ahead: Ending
) -> dict[str, Any]:
    """Train, once nobody else makes what this run shares with others and needs."""
    _check_engine_commit(run, config, commit, ahead.say)
    ctx = Context(run.dir, attempt_dir, ahead.number, attempt_dir / "nemo_rl.yaml", ahead.until)

    def stopped() -> bool:
        child.require_own(ctx)
        return bool(ahead.stop.signal)

    waiter = cache_lock.Waiter(ahead.owner, run.id, ahead.say, stopped)
    with cache_lock.held(caches.of(config, os.environ), waiter) as held:
        if ahead.stop.signal and (held.waited or held.claims):  # an engine that is cut off here leaves them torn
            last_step = engines.get(config["engine"]["name"]).last_step(config, ctx)
            signalled = ahead.stop.signal
            return describe("stopped", -signalled, last_step, int(config["grpo"]["max_num_steps"]), signalled)
        return _train(run, config, attempt_dir, ahead, held)


def _train(
    run: runs.Run, config: dict[str, Any], attempt_dir: Path, ahead: Ending, held: cache_lock.Held
) -> dict[str, Any]:
    number, stop, say = ahead.number, ahead.stop, ahead.say
    rule = watchdog.Rule.of(config["site"])
    engine = engines.get(config["engine"]["name"])
    earlier = [a.end for a in runs.attempts(run.dir) if a.end]
    _leave_wandb_offline(earlier, say)
    ctx = Context(run.dir, attempt_dir, number, attempt_dir / "nemo_rl.yaml", ahead.until, learned_setup(earlier))
    changes = {**trackers.overlay(runs.load(run.dir), config), **engine.overlay(config, ctx)}
    engine_config = Config(run_config.engine_config(config)).changed(changes)
    files.write_text(ctx.config_path, files.dump_yaml(engine_config))
    child.require_own(ctx)  # it may have waited, or stood still on a node that was cut off
    child.recover_rows(engine, config, run.dir, number - 1)
    resumes_from = engine.last_step(config, ctx)
    ctx = replace(ctx, resumes_from=resumes_from)
    _require_checkpoints(run, config, resumes_from)
    _remove_torn(engine.torn(config, ctx), say)
    logged = finished_steps(run.dir)
    runs.cut_metrics(run.dir, resumes_from)
    command = engine.command(config, ctx)
    mode = trackers.wandb_mode(config, command.env)
    runs.record_event(
        run.dir,
        "engine",
        attempt=number,
        engine=config["engine"]["name"],
        argv=command.argv,
        resumes_from=resumes_from,
        logged=logged,  # what lies after resumes_from is trained and logged again
        wandb=mode,
    )
    say("start " + " ".join(command.argv))
    began, max_steps = time.time(), int(config["grpo"]["max_num_steps"])
    grace_s = child.grace(None if ahead.owner.job is None else slurm.kill_wait(KILL_WAIT_ASKED_S))

    def announce() -> None:
        killed = describe("stopped", -signal.SIGKILL, engine.last_step(config, ctx), max_steps, stop.signal)
        ahead.announce(killed, grace_s / 4)

    def follow(lines: Iterable[str | None]) -> Iterable[Mapping[str, Any]]:
        return engine.follow(config, ctx, _heeded(lines, engine.trains, held.whole))

    with gpu_memory.recorded(attempt_dir, config):
        ended = child.execute(follow, command, ctx, stop, rule, say, child.Notice(grace_s, announce))
    last_step = engine.last_step(config, ctx)
    with (attempt_dir / "stdout.log").open(errors="replace") as printed:
        kind = engine.end_of(config, ended.code, last_step, finished_steps(run.dir), printed, bool(stop.signal))
    if kind == "done":
        held.whole()
    if ended.stall is not None and not stop.signal and kind != "done":
        kind = "failed"
    elif kind == "failed" and ahead.cut_off():  # its last words are those of processes that were being ended
        kind = "stopped"
    end = describe(kind, ended.code, last_step, max_steps, stop.signal)
    end.update(setup_s=setup_seconds(run.dir, began), wandb=mode)
    if nonfinite := runs.nonfinite(runs.read_metrics(run.dir)):
        end.update(nonfinite=nonfinite, why="; ".join(filter(None, [end["why"], nonfinite])))
    if kind == "failed":
        end.update(_failure(attempt_dir, config, end, ended.stall, say))
    return end


def _heeded(
    lines: Iterable[str | None], trains: Callable[[str], bool], then: Callable[[], None]
) -> Iterator[str | None]:
    """The same lines; `then` is called, perhaps again, when one says that the engine's set-up is over."""
    for line in lines:
        if line is not None and trains(line):
            then()
        yield line


def _without_setup(
    attempt_dir: Path, config: dict[str, Any], setup: setup_lines.Failed, owner: Owner, say: Say
) -> dict[str, Any]:
    """The end of an attempt whose batch script could not be set up; its engine is not started."""
    (attempt_dir / "stderr.log").write_text(setup.told(owner.host))
    end = {"kind": "failed", "why": f"site.setup: {setup}", "exit_code": setup.code or 1}
    return {**end, "diagnosis": _failure(attempt_dir, config, end, None, say)["diagnosis"]}


def _failure(
    attempt_dir: Path, config: dict[str, Any], end: dict[str, Any], stall: watchdog.Stall | None, say: Say
) -> dict[str, Any]:
    """Why it failed, for the end: the diagnosis, and the words of the node that ended first."""
    diagnosis = postmortem.diagnose(attempt_dir, config, end["exit_code"], stalled=str(stall) if stall else "")
    failure = nodes.failure(attempt_dir)
    if failure is not None:
        say(str(failure))
    say(f"cause: {diagnosis.title}\n  " + "\n  ".join([*diagnosis.lines, f"fix: {diagnosis.remedy}"]))
    return {"why": f"{failure.found if failure else diagnosis.title}; {end['why']}", "diagnosis": diagnosis.as_dict()}


def _leave_wandb_offline(earlier: list[Mapping[str, Any]], say: Say) -> None:
    """An attempt after one that W&B's server kept from starting records offline, unless WANDB_MODE is set."""
    last = earlier[-1].get("diagnosis") if earlier else None
    if last and last.get("cause") == "wandb_unreachable" and not os.environ.get("WANDB_MODE"):
        os.environ["WANDB_MODE"] = "offline"
        say("W&B could not be reached by the attempt before: this one records offline (nano-exp sync sends it later)")


def learned_setup(ends: list[Any]) -> float | None:
    """The longest set-up of the earlier attempts, seconds; None before there was one."""
    return max((s for end in ends if (s := runs.number(end.get("setup_s"))) is not None), default=None)


def setup_seconds(run_dir: Path, began: float) -> float | None:
    """From the engine's start (unix time) to its first step's; None before a step has ended."""
    for row in runs.read_metrics(run_dir):
        ended = runs.number(row.get("time")) or 0.0
        if "train/reward" in row and ended >= began:
            took = runs.number(row.get("timing/train/total_step_time")) or 0.0
            return round(max(ended - took - began, 0.0), 3)
    return None


def _remove_torn(found: list[Path], say: Say) -> None:
    """Give back the disk that checkpoints take which were cut off; the run is this attempt's alone by now."""
    for path in found:
        try:
            shutil.rmtree(path)
        except OSError as error:
            say(f"{path} was cut off and cannot be removed: {error.strerror}")
        else:
            say(f"removed {path}: a checkpoint that was cut off")


def _require_checkpoints(run: runs.Run, config: dict[str, Any], found: int) -> None:
    """Checkpoints that an earlier attempt saved must still be there: without them all of its training would be lost."""
    steps = [a.end.get("last_step") for a in runs.attempts(run.dir) if a.end]
    steps += [event.data.get("resumes_from") for event in run.events if event.kind == "engine"]
    saved = max((step for step in steps if isinstance(step, int)), default=0)
    if not found and saved:
        folder = config["checkpointing"]["checkpoint_dir"]
        raise UserError(
            f"no checkpoint in {folder}, where step {saved} was saved",
            "the run would start again at step 0 and its metrics would be cut",
            "bring the folder back (is it mounted on this node?), or start again on purpose: fresh=true",
        )


def describe(kind: str, code: int, last_step: int, max_steps: int, stopped_by: int) -> dict[str, Any]:
    """An end as it is recorded.

    Parameters
    ----------
    kind: done, stopped or failed, as the engine judges it
    code: the engine's exit code; negative for a signal
    last_step: the newest whole checkpoint
    stopped_by: the signal that this attempt got, or 0
    """
    facts = {
        "exit_code": code if code >= 0 else 128 - code,
        "last_step": last_step,
        "max_steps": max_steps,
        "signal": stopped_by,
    }
    checkpoint = f"checkpoint of step {last_step} of {max_steps}" if last_step else "no checkpoint yet"
    if kind == "done":
        why = "" if last_step >= max_steps else f"ended by itself at step {last_step} of at most {max_steps}"
    elif kind == "stopped":
        how = "saved before the time limit" if code == 0 else "its processes were ended"
        why = f"{signal.Signals(stopped_by).name if stopped_by else how}; {checkpoint}"
    else:
        what = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = f"engine: {what}; {checkpoint}"
    return {"kind": kind, "why": why, **facts}


def finished_steps(run_dir: Path) -> int:
    """The highest training step in metrics.jsonl."""
    rows = runs.read_metrics(run_dir, tail_bytes=64 * 1024)
    return max((int(r["step"]) for r in rows if "train/reward" in r), default=0)


def deadline() -> float | None:
    """Unix time at which the allocation ends (SLURM_JOB_END_TIME); None outside Slurm."""
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    if text.isdigit():
        return float(text)
    job = os.environ.get("SLURM_JOB_ID")
    return slurm.end_time(job) if job else None


def _check_engine_commit(run: runs.Run, config: dict[str, Any], wanted: str | None, say: Any) -> None:
    """The engine's checkout must be the one that the run was launched with, or the site lets it go on."""
    checkout = config["site"].get("checkout")
    if not wanted or not checkout or config["engine"]["name"] != "nemo_rl":
        return
    commit = nemo_rl_checkout.read_checkout(Path(checkout)).commit
    if commit == wanted:
        return
    what = f"the NeMo RL checkout {checkout} is at {commit or 'no commit'}, and the run was launched with {wanted}"
    runs.record_event(run.dir, "note", text=what)
    if config["site"]["changed_checkout"] == "continue":
        say(f"warning: {what}; going on (site.changed_checkout=continue)")
        return
    raise UserError(
        what,
        "what was submitted is what runs",
        f"git -C {checkout} checkout {wanted}, or launch with site.changed_checkout=continue",
    )
