"""One execution of a run in one allocation: claim it, start its engine, watch it, say how it ended.

Runs on the batch host (or on this machine for cluster=local) from the launch's own copy of the code, as
`python -m nano_exp.attempt <launch folder> --array K [--task I]`. It reads the frozen config and composes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from nano_exp import engines, files, freeze, runs, slurm
from nano_exp.claim import Refuse, claim, slurm_owner
from nano_exp.engines import Command, Context, Engine, nemo_rl_checkout, nodes
from nano_exp.errors import UserError

#: After SIGTERM the engine has this long to end whole, seconds; below Slurm's usual KillWait of 30.
GRACE_S = 20.0
POLL_S = 0.2
#: Exit code of an attempt that did nothing because another has the run, or because the run is done.
NOTHING_TO_DO = 0


def main(argv: list[str] | None = None) -> int:
    """Entry of the batch script. Returns the attempt's exit code."""
    parser = argparse.ArgumentParser(prog="nano_exp.attempt", description=__doc__)
    parser.add_argument("launch", type=Path, help="the launch's folder, with manifest.json")
    parser.add_argument("--array", type=int, required=True, help="which of its arrays")
    parser.add_argument("--task", type=int, help="which run of it; default: SLURM_ARRAY_TASK_ID, or the only one")
    given = parser.parse_args(argv)
    stop = Stop()
    try:
        return execute(find(given.launch, given.array, given.task), stop)
    except Refuse as refusal:
        print(f"nano-exp: {refusal}", flush=True)
        return NOTHING_TO_DO
    except (UserError, files.Damaged, OSError) as error:
        print(f"nano-exp: {error}", file=sys.stderr, flush=True)
        return 2


@dataclass(frozen=True)
class Order:
    """What a launch's manifest says of one run: its folder, and the place that it was sent to this time."""

    run_dir: Path
    launch: str
    local: bool
    site: dict[str, Any]
    checkout_commit: str | None


def find(launch: Path, array: int, task: int | None) -> Order:
    """The order for one run from the launch's manifest. Raises Damaged or OSError."""
    manifest = files.read_json(launch / "manifest.json")
    if task is None:
        task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    try:
        entry = manifest["arrays"][array]
        where, site = manifest["where"] == "local", dict(entry["site"])
        return Order(Path(entry["runs"][task]), launch.name, where, site, entry["checkout_commit"])
    except (KeyError, IndexError, TypeError) as error:
        raise files.Damaged(f"{launch / 'manifest.json'} has no run {task} in array {array}") from error


class Stop:
    """SIGTERM, SIGINT or SIGHUP arrived: end whole."""

    def __init__(self) -> None:
        self.signal = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number


def execute(order: Order, stop: Stop) -> int:
    """Claim and execute one run.

    Raises
    ------
    Refuse: the run is done, or another attempt has it
    UserError, Damaged, OSError: before the claim
    """
    run_dir = order.run_dir
    run = runs.load(run_dir)
    if "digest" not in run.record:
        raise files.Damaged(f"{run_dir}: {'; '.join(run.damaged)}")
    config = {**run.config(), "site": order.site}
    number, attempt_dir, owner = claim(run, runs.this_process() if order.local else slurm_owner())
    _link_latest(attempt_dir)
    began = time.time()
    runs.record_event(
        run_dir, "start", attempt=number, job=owner.job, host=owner.host, pid=owner.pid, launch=order.launch
    )
    end: dict[str, Any] = {}
    with (attempt_dir / "attempt.log").open("a", buffering=1) as log:
        say = partial(_say, log)
        say(f"attempt {number} of run {run.id} on {owner.host}" + (f", job {owner.job}" if owner.job else ""))
        try:
            end = _train(run, config, order.checkout_commit, attempt_dir, number, stop, say)
        except UserError as error:
            say(str(error))
            end = {"kind": "failed", "why": f"{error.found}: {error.why}", "exit_code": error.code}
        except Exception as error:  # our own fault still has to leave an end behind, with its traceback in the log
            import traceback

            traceback.print_exc(file=log)
            end = {"kind": "failed", "why": f"attempt: {type(error).__name__}: {error}", "exit_code": 70}
        end = {"attempt": number, "seconds": round(time.time() - began, 3), **end}
        say(f"{end['kind']}" + (f": {end['why']}" if end.get("why") else ""))
        runs_end(run_dir, attempt_dir, end)
    return 0 if end["kind"] in ("done", "stopped") else int(end.get("exit_code") or 1)


def runs_end(run_dir: Path, attempt_dir: Path, end: dict[str, Any]) -> None:
    """Write the attempt's end: first the file that decides, then the event that tells."""
    files.write_json(attempt_dir / "end.json", {**end, "time": time.time()}, durable=True)
    runs.record_event(run_dir, "end", end=end)


def _say(log: TextIO, line: str) -> None:
    """To the attempt's log and to Slurm's own output; both may be on a disk that is full."""
    stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} nano-exp: {line}"
    for out in (log, sys.stdout):
        with contextlib.suppress(OSError):
            print(stamped, file=out, flush=True)


def _link_latest(attempt_dir: Path) -> None:
    aside = attempt_dir.parent / f".latest-{os.getpid()}"
    with contextlib.suppress(OSError):  # a convenience: some file systems have no links
        aside.unlink(missing_ok=True)
        aside.symlink_to(attempt_dir.name)
        aside.replace(attempt_dir.parent / "latest")


# --- the engine -----------------------------------------------------------------------------------------------------


def _train(
    run: runs.Run, config: dict[str, Any], commit: str | None, attempt_dir: Path, number: int, stop: Stop, say: Any
) -> dict[str, Any]:
    _check_engine_commit(run, config, commit, say)
    engine = engines.get(config["engine"]["name"])
    ctx = Context(run.dir, attempt_dir, number, attempt_dir / "nemo_rl.yaml", deadline())
    engine_config = freeze.engine_config(config)
    for key, value in engine.overlay(config, ctx).items():
        freeze.set_dotted(engine_config, key, value)
    files.write_text(ctx.config_path, files.dump_yaml(engine_config))
    _recover_rows(engine, run.dir, number - 1)
    resumes_from = engine.last_step(config, ctx)
    _require_checkpoints(run, config, resumes_from)
    runs.cut_metrics(run.dir, resumes_from)
    command = engine.command(config, ctx)
    runs.record_event(run.dir, "engine", attempt=number, engine=config["engine"]["name"], argv=command.argv)
    say("start " + " ".join(command.argv))
    code = _run_engine(engine, command, ctx, stop, say)
    last_step = engine.last_step(config, ctx)
    kind = engine.end_of(
        config, code, last_step, finished_steps(run.dir), files.tail(attempt_dir / "stdout.log"), bool(stop.signal)
    )
    end = describe(kind, code, last_step, int(config["grpo"]["max_num_steps"]), stop.signal)
    failure = nodes.failure(attempt_dir) if kind == "failed" else None
    if failure is not None:
        say(str(failure))
        end["why"] = f"{failure.found}; {end['why']}"
    return end


def _require_checkpoints(run: runs.Run, config: dict[str, Any], found: int) -> None:
    """Checkpoints that an earlier attempt saved must still be there: without them all of its training would be lost."""
    ends = [a.end for a in runs.attempts(run.dir) if a.end]
    saved = ends[-1].get("last_step") if ends else 0
    if not found and isinstance(saved, int) and saved:
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
    facts = {"exit_code": code if code >= 0 else 128 - code, "last_step": last_step, "max_steps": max_steps}
    kept = f"checkpoint of step {last_step} of {max_steps}" if last_step else "no checkpoint yet"
    if kind == "done":
        why = "" if last_step >= max_steps else f"ended by itself at step {last_step} of at most {max_steps}"
    elif kind == "stopped":
        why = f"{signal.Signals(stopped_by).name}; {kept}" if stopped_by else f"saved before the time limit; {kept}"
    else:
        what = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = f"engine: {what}; {kept}"
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
    found = nemo_rl_checkout.read_checkout(Path(checkout)).commit
    if found == wanted:
        return
    what = f"the NeMo RL checkout {checkout} is at {found or 'no commit'}, and the run was launched with {wanted}"
    runs.record_event(run.dir, "note", text=what)
    if config["site"]["changed_checkout"] == "continue":
        say(f"warning: {what}; going on (site.changed_checkout=continue)")
        return
    raise UserError(
        what,
        "what was submitted is what runs",
        f"git -C {checkout} checkout {wanted}, or launch with site.changed_checkout=continue",
    )


def _run_engine(engine: Engine, command: Command, ctx: Context, stop: Stop, say: Any) -> int:
    """Start the engine in its own process group, follow its output, and pass a stop on. Returns its exit code."""
    paths = {name: ctx.attempt_dir / f"{name}.log" for name in ("stdout", "stderr")}
    limit = command.open_files
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
                preexec_fn=partial(_in_child, limit, os.getpid()),
            )
        except OSError as error:
            raise UserError(
                f"cannot start {command.argv[0]}: {error.strerror}",
                "the engine's program is not there or not executable",
                "site.python=/path/to/python of the engine's environment",
            ) from error
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(engine, paths["stdout"], ctx.run_dir, ended), daemon=True)
    follower.start()
    try:
        return _wait(process, stop, say)
    finally:
        _kill_group(process)
        ended.set()
        follower.join(timeout=10)
        for folder in command.scratch:
            shutil.rmtree(folder, ignore_errors=True)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _in_child(open_files: int | None, parent: int) -> None:
    """Before the engine's exec: it is killed when this attempt dies, even by SIGKILL.

    Otherwise it would train on in a session of its own, beside the next attempt of the same run, wherever the job's
    end does not kill what it left (no Slurm; proctrack/linuxproc).
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)
    if open_files:
        engines.raise_open_files(open_files)


def _wait(process: subprocess.Popen[bytes], stop: Stop, say: Any) -> int:
    killed_at: float | None = None
    while (code := process.poll()) is None:
        if stop.signal and killed_at is None:
            say(f"{signal.Signals(stop.signal).name}: asking the engine to end, at most {GRACE_S:.0f} s")
            killed_at = time.monotonic() + GRACE_S
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        if killed_at is not None and time.monotonic() > killed_at:
            say("the engine did not end: killing it")
            _kill_group(process)
        time.sleep(POLL_S)
    return code


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Nothing that the engine started outlives it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _follow(engine: Engine, stdout: Path, run_dir: Path, ended: threading.Event) -> None:
    """Append what the engine's output says of its metrics to metrics.jsonl, as it appears."""
    rows = engine.follow(_lines(stdout, ended))
    for row in rows:  # training goes on when this disk is full
        with contextlib.suppress(OSError), runs.open_metrics(run_dir) as file:
            file.write(json.dumps(row) + "\n")


def _recover_rows(engine: Engine, run_dir: Path, attempt: int) -> None:
    """Append what an attempt that was killed had in its stdout and had not written to metrics.jsonl yet."""
    folder = run_dir / "attempts" / str(attempt)
    stdout = folder / "stdout.log"
    if (folder / "end.json").exists() or not stdout.is_file():
        return
    known = {_row_key(row) for row in runs.read_metrics(run_dir)}
    with stdout.open(errors="replace") as lines, runs.open_metrics(run_dir) as metrics:
        for row in engine.follow(lines):
            if _row_key(row) not in known:
                metrics.write(json.dumps({**row, "time": stdout.stat().st_mtime}) + "\n")


def _row_key(row: dict[str, Any]) -> tuple[int, bool]:
    return int(row["step"]), "train/reward" in row


def _lines(path: Path, ended: threading.Event) -> Iterator[str]:
    """The lines of a growing file until `ended` and its end is reached."""
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
                if part:
                    yield part
                return
            ended.wait(0.5)


if __name__ == "__main__":
    sys.exit(main())
