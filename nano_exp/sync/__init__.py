"""`nano-exp sync`: the store's runs as W&B runs, from a machine that has a network.

metrics.jsonl is what is sent (rows.py): W&B's own offline files lack what a kill cut off and hold steps that were
trained again. They give what stands beside the numbers (offline.py). Each run remembers what was sent (ledger.py);
push.py alone talks to W&B. Of a run that may go on, only rows up to its last whole checkpoint are sent: what comes
after it would be trained and logged once more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nano_exp import engines
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.store import metrics_file, run_config, runs, state, trackers
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Run
from nano_exp.store.state import State
from nano_exp.sync import ledger, offline, push
from nano_exp.sync.ledger import Ledger
from nano_exp.sync.rows import Row, first_difference, merged

#: Runs in a row that W&B may refuse before the others are not tried: it waits for each as long as it takes.
REFUSALS = 3
#: What of logger.wandb says whose run it is and where; the rest is for the process that trains.
_OPTIONS = ("entity", "project", "group", "tags")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Parameters
    ----------
    kind: sent; current (nothing new); empty (no rows yet); off (W&B is off for it); live (it logs to W&B itself, and
        runs); busy (another process sends it); failed; skipped (W&B refused others before it)
    rows: how many were sent
    step: the last step that W&B has of it; None where it has none
    waiting: rows that wait for the run's next checkpoint or its end
    remark: one line; may be empty
    """

    run: str
    kind: str
    rows: int = 0
    step: int | None = None
    waiting: int = 0
    url: str = ""
    remark: str = ""


def sync(selected_runs: Sequence[Run], lookup: QueueLookup, every_row: bool, tell: Tell) -> Iterator[Outcome]:
    """Send each run, one after another.

    Parameters
    ----------
    every_row: also those of a run that may go on, after its last whole checkpoint
    tell: gets what is being done now
    """
    lookup.include(selected_runs)
    refused = 0
    for number, run in enumerate(selected_runs, 1):
        name = f"{run.name}/{run.id}"
        if refused == REFUSALS:
            yield Outcome(name, "skipped", remark="not tried: W&B refused the ones before it")
            continue
        where = f"{number}/{len(selected_runs)}  {name}"
        tell(where)
        try:
            outcome = one(run, lookup.state(run), every_row, partial(_below, tell, where))
        except (Damaged, OSError) as error:
            outcome = Outcome(name, "failed", remark=str(error))
        except push.Failed as error:
            outcome = Outcome(name, "failed", remark=str(error))
            refused += 1
        if outcome.kind == "sent":
            refused = 0
        yield outcome


def _below(tell: Tell, where: str, what: str) -> None:
    tell(f"{where}  {what}")


def one(run: Run, now: State, every_row: bool, tell: Tell) -> Outcome:
    """Send what W&B does not have of one run.

    Raises
    ------
    push.Failed: W&B refused, or was not reached; what was sent counts, and the next time goes on from there
    Damaged, OSError: the run's files
    """
    name, config = f"{run.name}/{run.id}", run.config()
    logger = config.get("logger") or {}
    if not logger.get("wandb_enabled"):
        return Outcome(name, "off", remark="logger.wandb_enabled is false")
    active = now.kind in (*state.ACTIVE, "unknown")
    live = _live(run, Path(logger["log_dir"]))
    if live and active:
        return Outcome(name, "live", remark="logs to W&B itself; what it has is checked when it has ended")
    rows = merged(metrics_file.read(run.dir))
    until = None if now.kind == "done" or (every_row and not active) else _last_checkpoint(run, config)
    ready = [row for row in rows if until is None or row.step <= until]
    work = Work(run, config, live, rows, ready, "" if active else now.kind)
    with ledger.lock(run.dir) as alone:
        if not alone:
            return Outcome(name, "busy", remark="another nano-exp sync sends it")
        return work.send(ledger.read(run.dir), tell)


def _live(run: Run, log_dir: Path) -> bool:
    """Whether an attempt sent rows to W&B by itself."""
    sent_by_itself = any(event.kind == "engine" and event.data.get("wandb") == "online" for event in run.events)
    return sent_by_itself or offline.live(log_dir)


def _last_checkpoint(run: Run, config: dict[str, Any]) -> int:
    """The step from which the run would go on."""
    context = engines.Context(run.dir, run.dir / "attempts", 0, run.dir / "config.yaml")
    return engines.get(config["engine"]["name"]).last_step(config, context)


def abandoned(run: Run, after: float) -> Iterator[int]:
    """Steps that were logged, and trained again by a later attempt, that began after a time (unix seconds)."""
    for event in run.events:
        resumed, logged = event.data.get("resumes_from"), event.data.get("logged")
        if event.kind == "engine" and event.time > after and isinstance(resumed, int) and isinstance(logged, int):
            yield from range(resumed + 1, logged + 1)


@dataclass(frozen=True)
class Work:
    """A run that has something to send, or perhaps not.

    Parameters
    ----------
    live: whether its attempts logged to W&B by themselves
    rows: all of its rows
    ready: those that may be sent
    end: its state, where it has ended; empty for one that goes on
    """

    run: Run
    config: dict[str, Any]
    live: bool
    rows: Sequence[Row]
    ready: Sequence[Row]
    end: str

    def send(self, before: Ledger, tell: Tell) -> Outcome:
        """Raises push.Failed."""
        waiting = len(self.rows) - len(self.ready)
        waits = f"{waiting} rows wait for its next checkpoint or its end" if waiting else ""
        if self.end and waiting:
            waits = f"{waiting} rows after its last checkpoint are trained again if it goes on; --all sends them"
        name = f"{self.run.name}/{self.run.id}"
        if not self.ready and not before.id:
            return Outcome(name, "empty", waiting=waiting, remark=waits or "it has no rows yet")
        if self._nothing_new(before):
            return Outcome(name, "current", step=before.sent, waiting=waiting, url=before.url, remark=waits)
        description = trackers.describe(self.run, self.config)
        tracker = (self.config["logger"].get("wandb") or {}) | {"name": description.name}
        options = {key: tracker[key] for key in (*_OPTIONS, "name") if tracker.get(key)}
        options |= {
            "notes": tracker.get("notes") or description.notes,
            "job_type": tracker.get("job_type") or trackers.JOB_TYPE,
        }
        host = (description.about.get("hosts") or [""])[-1]
        identity = push.Identity(options, {**self._engine_config(), "nano_exp": description.about}, host)
        tell("asks W&B what it has")
        now, count, remark = self._deliver(
            before, identity, str(tracker.get("id") or f"{self.run.name}-{self.run.id}"), tell
        )
        if self.end:
            runs.record_event(self.run.dir, "synced", step=self.rows[-1].step if self.rows else 0, url=now.url)
        return Outcome(name, "sent", count, now.sent, waiting, now.url, "; ".join(filter(None, [remark, waits])))

    def _nothing_new(self, before: Ledger) -> bool:
        """Whether W&B has it all, by what was written down: it is not asked."""
        last = self.ready[-1].step if self.ready else -1
        known = before.id and before.sent is not None and before.sent >= last
        ended = not self.end or before.closed == self.end
        return bool(known and ended) and self._difference(before, before.sent or 0) is None

    def _difference(self, before: Ledger, last: int) -> int | None:
        """The first step up to `last`, the server's last one, at which W&B has something else than the store."""
        marks = dict(before.marks)
        if self.live:  # the engine sent the same rows, but for those of stretches that were trained again
            marks = {row.step: row.mark for row in self.rows} | marks
            marks |= dict.fromkeys(abandoned(self.run, before.time), "")
        return first_difference(marks, self.rows, last)

    def _deliver(self, before: Ledger, identity: push.Identity, first_id: str, tell: Tell) -> tuple[Ledger, int, str]:
        """Send the rows, and write down what was. Returns the ledger, how many rows, and what there is to say."""
        run_id = before.id or first_id
        with push.opened(identity, run_id) as wandb_run:
            last = push.last_step(wandb_run)
            wrong = self._difference(before, last)
            if wrong is None:
                return self._send(before, wandb_run, run_id, last, tell), self._after(last), ""
            wandb_run.finish()
        problem = f"W&B had other rows from step {wrong} on: "
        try:
            if wrong < 1:
                raise push.NoRewind("there is no step to go back to")
            with push.opened(identity, run_id, keep=wrong - 1) as wandb_run:
                sent = self._send(before, wandb_run, run_id, wrong - 1, tell)
                return sent, self._after(wrong - 1), f"{problem}taken back and sent again"
        except push.NoRewind:
            for new_id in _next_ids(run_id, first_id):
                with push.opened(identity, new_id) as wandb_run:
                    if push.last_step(wandb_run) >= 0:  # somebody's; or ours, of which nothing is known any more
                        wandb_run.finish()
                        continue
                    sent = self._send(Ledger(), wandb_run, new_id, -1, tell)
                    return (
                        sent,
                        self._after(-1),
                        f"{problem}this server cannot take rows back, so the run is now {new_id}",
                    )
        raise AssertionError("ids do not end")

    def _after(self, last: int) -> int:
        return sum(row.step > last for row in self.ready)

    def _send(self, before: Ledger, wandb_run: Any, run_id: str, last: int, tell: Tell) -> Ledger:
        """The rows after `last`, the server's last step."""
        rows = [row for row in self.ready if row.step > last]
        had = {step: mark for step, mark in before.marks.items() if step <= last}
        if self.live:
            had |= {row.step: row.mark for row in self.rows if row.step <= last}
        marks = had | {row.step: row.mark for row in rows}
        now = Ledger(run_id, before.url, marks, last if last >= 0 else None, "", time.time())
        ledger.write(self.run.dir, now)
        tell(f"{len(rows)} rows")
        log_dir = Path(self.config["logger"]["log_dir"])
        files = offline.load(log_dir) if rows or self.end else []
        others = [(file.files, path) for file in files for path in file.others()] if self.end else []
        code = 1 if self.end == "failed" else 0
        extras = offline.extras(files, self.run)
        now.url = push.send(wandb_run, push.Parcel(rows, extras, others, self._summary(log_dir), code))
        now.sent, now.closed = rows[-1].step if rows else now.sent, self.end
        ledger.write(self.run.dir, now)
        return now

    def _engine_config(self) -> dict[str, Any]:
        """What the engine read: NeMo RL logs the same. Where the run lies, and how W&B is called, are no settings."""
        return run_config.engine_config(self.config)

    def _summary(self, log_dir: Path) -> dict[str, Any]:
        """The engine's own summary.json, where it writes one, and how the run ended."""
        summary: dict[str, Any] = {"nano_exp/state": self.end} if self.end else {}
        try:
            engine_summary = json.loads((log_dir / "summary.json").read_text()) if self.end else {}
        except (OSError, ValueError):
            return summary
        return summary | {key: value for key, value in engine_summary.items() if isinstance(value, int | float)}


def _next_ids(run_id: str, first_id: str) -> Iterator[str]:
    """`lr-r1a2b-2`, `-3`, ...: after the one that is in use."""
    suffix = run_id.removeprefix(f"{first_id}-")
    number = int(suffix) if run_id != first_id and suffix.isdecimal() else 1
    while True:
        number += 1
        yield f"{first_id}-{number}"


def require() -> None:
    """Refuse what could not send anything.

    Raises
    ------
    UserError: wandb is not installed, or this user has no key
    """
    if not push.installed():
        raise UserError(
            "wandb is not installed here",
            "sync sends with W&B's own client",
            "pip install 'wandb>=0.31' in nano-exp's environment (the extra `embedded` has it)",
        )
    if not trackers.wandb_key():
        raise UserError(
            "no W&B key: WANDB_API_KEY is not set, and ~/.netrc has none",
            "W&B takes rows from its users only",
            "export WANDB_API_KEY=..., or wandb login, on this machine",
        )
