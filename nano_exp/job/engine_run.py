"""An attempt's training: its engine, from its place among the runs that share caches to what kind of end it had."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nano_exp import engines, files, slurm
from nano_exp.dotted import Config
from nano_exp.engines import Command, Context, checkpoints, nodes
from nano_exp.engines import origin as origins
from nano_exp.engines.templates import ray_logs
from nano_exp.errors import UserError
from nano_exp.job import (
    cache_lock,
    child,
    ending,
    first_weights,
    gpu_memory,
    postmortem,
    tell,
    watchdog,
)
from nano_exp.job.course import Course
from nano_exp.job.ending import Ending
from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl import checkout as nemo_rl_checkout
from nano_exp.slurm import setup_lines
from nano_exp.store import metrics_file, phase, run_config, runs, trackers
from nano_exp.store.runs import Owner
from nano_exp.text import Say

#: How long Slurm is asked for its KillWait before the engine starts, seconds.
KILL_WAIT_ASKED_S = 10.0


def train_in_turn(
    run: runs.Run, config: dict[str, Any], commit: str | None, attempt_dir: Path, ahead: Ending, course: Course
) -> dict[str, Any]:
    """Train, once nobody else makes what this run shares with others and needs."""
    _require_engine_commit(run, config, commit, ahead.say)
    config = first_weights.settled(run, config, ahead.say)
    ctx = Context(run.dir, attempt_dir, ahead.number, attempt_dir / "nemo_rl.yaml", ahead.until)

    def stopped() -> bool:
        child.require_newest(ctx)
        return bool(ahead.stop.signal)

    shown = [""]

    def waits(what: str) -> None:
        if what != shown[-1]:
            runs.record_event(run.dir, "waiting", durable=False, attempt=ahead.number, what=what)
            shown.append(what)

    waiter = cache_lock.Waiter(ahead.owner, run.id, ahead.say, stopped, waits)
    first = engines.get(config["engine"]["name"]).initial(config)
    with cache_lock.hold(caches.of(Config(config).changed(first), os.environ), waiter) as hold:
        waits("")
        if ahead.stop.signal and (hold.waited or hold.claims):  # an engine that is cut off here leaves them torn
            last_step = engines.get(config["engine"]["name"]).last_step(config, ctx)
            signalled = ahead.stop.signal
            return ending.describe("stopped", -signalled, last_step, int(config["grpo"]["max_num_steps"]), signalled)
        return _train(run, config, attempt_dir, ahead, hold, course)


def _train(
    run: runs.Run, config: dict[str, Any], attempt_dir: Path, ahead: Ending, hold: cache_lock.Hold, course: Course
) -> dict[str, Any]:
    number, stop, say = ahead.number, ahead.stop, ahead.say
    rule = watchdog.Rule.of(config, phase.longest(run.dir, config))
    engine = engines.get(config["engine"]["name"])
    earlier = [a.end for a in runs.attempts(run.dir) if a.end]
    _leave_wandb_offline(earlier, say)
    ctx = Context(run.dir, attempt_dir, number, attempt_dir / "nemo_rl.yaml", ahead.until, learned_setup(earlier))
    changes = {**trackers.overlay(runs.load(run.dir), config), **engine.initial(config), **engine.overlay(config, ctx)}
    changes |= course.overlay(config)
    engine_config = Config(run_config.engine_config(config)).changed(changes)
    files.write_text(ctx.config_path, files.dump_yaml(engine_config))
    child.require_newest(ctx)  # it may have waited, or stood still on a node that was cut off
    child.recover_rows(engine, config, run.dir, number - 1)
    _bring(run, config, engine.checkpoint_folder(config, ctx), say)
    resumes_from = engine.last_step(config, ctx)
    ctx = replace(ctx, resumes_from=resumes_from)
    _require_checkpoints(run, config, resumes_from)
    _remove_torn(engine.torn(config, ctx), say)
    logged = finished_steps(run.dir)
    metrics_file.cut(run.dir, resumes_from)
    max_steps = int(config["grpo"]["max_num_steps"])
    goal = course.goal(max_steps)
    if resumes_from >= goal and goal < max_steps:  # its engine had reached the rung, and the attempt was killed there
        return ending.describe("paused", 0, resumes_from, max_steps, 0)
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
    began = time.time()
    grace_s = child.grace(None if ahead.owner.job is None else slurm.kill_wait(KILL_WAIT_ASKED_S))

    def announce() -> None:
        killed = ending.describe("stopped", -signal.SIGKILL, engine.last_step(config, ctx), max_steps, stop.signal)
        ahead.announce(killed, grace_s / 4)

    phases = engine.phases(config, ctx)

    def heed(line: str) -> None:
        if phases is not None:
            phases.feed(line)
        if engine.trains(line):
            hold.whole()

    def follow(lines: Iterable[str | None]) -> Iterable[Mapping[str, Any]]:
        return engine.follow(config, ctx, _heeded(lines, heed))

    told = partial(tell.stall, run.dir, config["site"], say=say)
    lost = course.judge(run, config, lambda: engine.last_step(config, ctx), say)
    watched = child.Watched(rule, phases, partial(phase.learn, run.dir, config), told, lost.is_over)
    with _removed(command.scratch):
        with gpu_memory.recorded(attempt_dir, config):
            ended = child.execute(follow, command, ctx, stop, watched, say, child.Notice(grace_s, announce))
        last_step = engine.last_step(config, ctx)
        with (attempt_dir / "stdout.log").open(errors="replace") as printed:
            logged, stopped = finished_steps(run.dir), bool(stop.signal)
            to_goal = Config(config).changed({"grpo.max_num_steps": goal})
            kind: str = engine.end_of(to_goal, ended.code, last_step, logged, printed, stopped)
        if kind == "done":
            hold.whole()
            kind = "paused" if goal <= last_step and goal < max_steps else kind
        if ended.stall is not None and not stop.signal and kind not in ("done", "paused"):
            kind = "failed"
        elif ended.early and not stop.signal and kind not in ("done", "paused"):
            kind = "ended early"
        elif kind == "failed" and ahead.cut_off():  # its last words are those of processes that were being ended
            kind = "stopped"
        if kind == "failed":
            _keep_ray_logs(command, attempt_dir, say)
    end = ending.describe(kind, ended.code, last_step, max_steps, stop.signal)
    end.update(setup_s=setup_seconds(run.dir, began), wandb=mode)
    if nonfinite := metrics_file.nonfinite(metrics_file.read(run.dir)):
        end.update(nonfinite=nonfinite, why="; ".join(filter(None, [end["why"], nonfinite])))
    if kind == "ended early":
        end.update(lost.facts(end))
    if kind == "failed":
        stalled = "" if ended.stall is None else _stalled(ended.stall, earlier)
        end.update(_failure(attempt_dir, config, end, stalled, say))
        if ended.stall is not None:
            end["stalled"] = ended.stall.phase
    return end


def _heeded(lines: Iterable[str | None], heed: Callable[[str], None]) -> Iterator[str | None]:
    """The same lines, each shown to `heed` before."""
    for line in lines:
        if line is not None:
            heed(line)
        yield line


@contextlib.contextmanager
def _removed(folders: Iterable[Path]) -> Iterator[None]:
    """What the engine's life ends with, removed after it."""
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _keep_ray_logs(command: Command, attempt_dir: Path, say: Say) -> None:
    """Ray's logs of an attempt that failed, before its folder is removed. With several nodes each node keeps its own
    (templates/node.sh)."""
    for folder in command.scratch:
        target = attempt_dir / "ray-logs.tgz"
        try:
            kept = ray_logs.keep(folder, target, {**os.environ, **command.env})
        except OSError as error:
            say(f"Ray's logs are not kept: {error.strerror}")
            continue
        if kept:
            say(f"{kept} of Ray's logs are kept in {target.name}")


def without_setup(
    attempt_dir: Path, config: dict[str, Any], setup: setup_lines.Failed, owner: Owner, say: Say
) -> dict[str, Any]:
    """The end of an attempt whose batch script could not be set up; its engine is not started."""
    (attempt_dir / "stderr.log").write_text(setup.for_log(owner.host))
    end = {"kind": "failed", "why": f"site.setup: {setup}", "exit_code": setup.code or 1}
    return {**end, "diagnosis": _failure(attempt_dir, config, end, "", say)["diagnosis"]}


def _stalled(stall: watchdog.Stall, earlier: list[Mapping[str, Any]]) -> str:
    """The watchdog's words, and that the attempt before was ended at the same place."""
    before = earlier[-1] if earlier else {}
    again = f", as attempt {before.get('attempt')} was" if before.get("stalled") == stall.phase else ""
    return f"{stall}{again}"


def _failure(attempt_dir: Path, config: dict[str, Any], end: dict[str, Any], stalled: str, say: Say) -> dict[str, Any]:
    """Why it failed, for the end: the diagnosis, and the words of the node that ended first."""
    diagnosis = postmortem.diagnose(attempt_dir, config, end["exit_code"], stalled=stalled)
    failure = None if stalled else nodes.failure(attempt_dir)  # its last words are those of what was ended
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
    for row in metrics_file.read(run_dir):
        ended = runs.number(row.get("time")) or 0.0
        if "train/reward" in row and ended >= began:
            took = runs.number(row.get("timing/train/total_step_time")) or 0.0
            return round(max(ended - took - began, 0.0), 3)
    return None


def _remove_torn(folders: list[Path], say: Say) -> None:
    """Give back the disk that checkpoints take which were cut off; the run is this attempt's alone by now."""
    for path in folders:
        try:
            shutil.rmtree(path)
        except OSError as error:
            say(f"{path} was cut off and cannot be removed: {error.strerror}")
        else:
            say(f"removed {path}: a checkpoint that was cut off")


def _bring(run: runs.Run, config: dict[str, Any], folder: Path, say: Say) -> None:
    """Before a fork's first step: a copy of the checkpoint that it goes on with."""
    origin = origins.of(config)
    if origin is None or origin.key != origins.FORK or checkpoints.whole(folder) or finished_steps(run.dir):
        return
    try:
        checkpoints.bring(origin.path, folder)
    except OSError as error:
        raise UserError(
            f"{origin.path} cannot be copied to {folder}: {error.strerror or error}",
            f"the run is a fork of {origin.typed}",
            "bring that checkpoint back, make room, or fork another step",
        ) from error
    say(f"a fork of {origin.typed}: copied {origin.path}")


def _require_checkpoints(run: runs.Run, config: dict[str, Any], resumes_from: int) -> None:
    """Checkpoints that an earlier attempt saved must still be there: without them all of its training would be lost."""
    steps = [a.end.get("last_step") for a in runs.attempts(run.dir) if a.end]
    steps += [event.data.get("resumes_from") for event in run.events if event.kind == "engine"]
    saved = max((step for step in steps if isinstance(step, int)), default=0)
    if not resumes_from and saved:
        folder = config["checkpointing"]["checkpoint_dir"]
        raise UserError(
            f"no checkpoint in {folder}, where step {saved} was saved",
            "the run would start again at step 0 and its metrics would be cut",
            "bring the folder back (is it mounted on this node?), or start again on purpose: fresh=true",
        )


def finished_steps(run_dir: Path) -> int:
    """The highest training step in metrics.jsonl."""
    rows = metrics_file.read(run_dir, tail_bytes=64 * 1024)
    return max((int(r["step"]) for r in rows if "train/reward" in r), default=0)


def _require_engine_commit(run: runs.Run, config: dict[str, Any], launched_with: str | None, say: Any) -> None:
    """The engine's checkout must be the one that the run was launched with, or the site lets it go on."""
    checkout = config["site"].get("checkout")
    if not launched_with or not checkout or config["engine"]["name"] != "nemo_rl":
        return
    commit = nemo_rl_checkout.read_checkout(Path(checkout)).commit
    if commit == launched_with:
        return
    what = (
        f"the NeMo RL checkout {checkout} is at {commit or 'no commit'}, and the run was launched with {launched_with}"
    )
    runs.record_event(run.dir, "note", text=what)
    if config["site"]["changed_checkout"] == "continue":
        say(f"warning: {what}; going on (site.changed_checkout=continue)")
        return
    raise UserError(
        what,
        "what was submitted is what runs",
        f"git -C {checkout} checkout {launched_with}, or launch with site.changed_checkout=continue",
    )
