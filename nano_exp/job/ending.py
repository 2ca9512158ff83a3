"""An attempt that is told to end: what it will have been is in the store before its engine has ended.

Slurm's SIGKILL comes KillWait after its SIGTERM, and an engine may end slowly. What the signal meant is asked at once
too: it names the end, whatever the engine says while it is torn down.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.job import postmortem, requeue
from nano_exp.job.child import Stop
from nano_exp.slurm import restart_policy
from nano_exp.store import runs
from nano_exp.store.runs import Attempt, Owner
from nano_exp.text import Say

#: What Slurm did -> its words in an end.
WORDS: dict[str, str] = {
    "time_limit": "the allocation's time limit",
    "preempted": "preempted",
    "slurm": "Slurm starts the job again",
    "cancelled": "scancel",
}
#: Slurm's word for a job that ended -> what its signal meant.
BY_STATE: dict[str, restart_policy.Stopped] = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "PREEMPTED": "preempted",
    "REQUEUED": "slurm",
    "NODE_FAIL": "slurm",
    "CANCELLED": "cancelled",
}


@dataclass
class Ending:
    """One attempt's end as it comes nearer.

    Parameters
    ----------
    until: unix time at which the allocation ends; None where it has no end
    section: the config's `slurm`
    began: the attempt's start, unix time
    stopped: what Slurm ends the job for, once it is known
    goes_on: Slurm has been asked to start the job again
    packed: the job has other runs too
    """

    run_dir: Path
    number: int
    owner: Owner
    stop: Stop
    until: float | None
    section: dict[str, Any]
    began: float
    say: Say
    stopped: restart_policy.Stopped = ""
    goes_on: bool = False
    packed: bool = False

    def announce(self, end: Mapping[str, Any], timeout_s: float) -> None:
        """Write down what will be the end if nothing better is written, and have the run go on where it should.

        Parameters
        ----------
        end: as `describe` gives it
        timeout_s: how long each of Slurm's answers may take: what the signal meant, and the new start
        """
        self._record(end)
        self.stopped = requeue.what_it_meant(self.stop, self.owner, self.until, timeout_s)
        if not self.stopped:
            return
        self._record(end)
        try:
            ours = (self.owner, self.section, timeout_s, self.say, self.packed)
            self.goes_on = requeue.at_once(self.run_dir, self.whole(end), self.stopped, *ours)
        except (UserError, OSError) as error:
            self.say(f"not started again yet: {error}")

    def _record(self, end: Mapping[str, Any]) -> None:
        try:
            runs.record_event(self.run_dir, "ending", end=self.whole(end))
        except (UserError, OSError) as error:  # a full disk: the end itself has room that is kept for it
            self.say(f"the coming end could not be recorded: {error}")

    def cut_off(self) -> bool:
        """Whether Slurm ends the job, or a signal did. Asks Slurm where it has not said so yet."""
        self.stopped = self.stopped or requeue.what_it_meant(self.stop, self.owner, self.until)
        return bool(self.stopped or self.stop.signal)

    def whole(self, end: Mapping[str, Any]) -> dict[str, Any]:
        """An end with the attempt's number and time, named by what Slurm did."""
        seconds = round(time.time() - self.began, 3)
        return named({"attempt": self.number, "seconds": seconds, **end}, self.stopped)


def describe(kind: str, code: int, last_step: int, max_steps: int, stopped_by: int) -> dict[str, Any]:
    """An end as it is recorded.

    Parameters
    ----------
    kind: done, stopped or failed, as the engine judges it; ended early by a rule
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
    elif kind in ("ended early", "paused"):
        why = checkpoint
    else:
        what = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        why = f"engine: {what}; {checkpoint}"
    return {"kind": kind, "why": why, **facts}


def named(end: Mapping[str, Any], stopped: restart_policy.Stopped) -> dict[str, Any]:
    """An end with what Slurm did; a run that ended by itself, well or not, keeps its own words."""
    new_end = {**end, "stopped": stopped}
    if stopped and end["kind"] in ("stopped", "cancelled"):
        new_end["kind"] = "cancelled" if stopped == "cancelled" else "stopped"
        new_end["why"] = f"{WORDS[stopped]}; {end['why']}"
    return new_end


def of_killed(run: runs.Run, before: Attempt, next_owner: Owner) -> dict[str, Any] | None:
    """The end that an attempt had announced before it was killed, for the next one to write; None where it had not.

    Where it did not learn what its signal meant: the same job's next start says it, or Slurm's accounting.
    """
    end = runs.announced(run, before.number)
    if end is None:
        return None
    new_end = {**end, "cut_off": True}
    if new_end.get("stopped") or before.owner is None or before.owner.job is None:
        return new_end
    if before.owner.job == next_owner.job:
        return named(new_end, "slurm")
    record = postmortem.slurm_record(before.owner.job)
    return named(new_end, BY_STATE.get(record.state, "") if record else "")


def write(run_dir: Path, attempt_dir: Path, end: dict[str, Any]) -> None:
    """Write an attempt's end: first the file that decides, then the event that tells."""
    runs.release(attempt_dir)
    files.write_json(attempt_dir / "end.json", {**end, "time": time.time()}, durable=True)
    runs.record_event(run_dir, "end", end=end)
