"""Who makes what runs share (nemo_rl/caches.py): one does, from its engine's start until it trains; the others wait.

NeMo RL makes these inside its driver, whichever it needs and wherever it gets to it. So a run that lacks one is let
start its engine alone, and once its training loop begins, everything that set-up makes is whole.

The lock is a line of claims, as a run's attempts are: a numbered folder with its owner in it, made aside and renamed.
Assumed of the shared file system: renaming a folder over one that is not empty fails, and a file's new time is seen by
other nodes within a minute or two. Nothing more, flock neither (NFS and Lustre are mounted with and without it).
A holder touches its claim as long as it lives. One that is silent, and that Slurm does not call alive, is dead: the
next claim is made behind its own, and what was not there before it is taken for torn.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.nemo_rl.caches import Cache, cold
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Owner
from nano_exp.text import Say

#: How often a holder touches its claim, and how long it may be silent before Slurm is asked about it, seconds.
BEAT_S, SILENT_S = 20.0, 240.0
#: How often one that waits looks, and how often it says again what for, seconds.
LOOK_S, SAY_S = 2.0, 600.0


@dataclass(frozen=True)
class Waiter:
    """Who wants the caches.

    Parameters
    ----------
    owner: its process
    run: its run's id, for the others to read; empty where it is no run
    say: told what it waits for, and what is made
    stopped: whether it was told to end; may raise where it is over
    waits: told what the others that look at the run should know it waits for
    """

    owner: Owner
    run: str
    say: Say
    stopped: Callable[[], bool]
    waits: Say = lambda _: None


@dataclass
class Hold:
    """The claims of a run that makes something; none where all was there.

    Attributes
    ----------
    claims: each with what it is of
    waited: whether it stood behind another run
    """

    claims: list[tuple[Path, Cache]] = field(default_factory=list)
    waited: bool = False

    def whole(self) -> None:
        """All is made: the others may go on."""
        self._end(True)

    def torn(self) -> None:
        """It ended before all was made; nothing where all was."""
        self._end(False)

    def _end(self, whole: bool) -> None:
        claims, self.claims = self.claims, []
        for claim, cache in claims:
            with contextlib.suppress(OSError):  # a claim without an end is a dead one's: looked at again, not lost
                # What is not there although it trains, NeMo RL does without, or makes elsewhere.
                needless = cold([cache]) if whole else []
                files.write_json(claim / "ended.json", {"whole": whole, "needless": needless}, durable=True)


@contextlib.contextmanager
def hold(caches: Sequence[Cache], waiter: Waiter) -> Iterator[Hold]:
    """Wait until all of these are whole or nobody else makes them; then they are this run's to make.

    Where it is told to stop meanwhile, it comes back with what it has. Raises what `waiter.stopped` raises.
    """
    hold = Hold()
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(hold, over), daemon=True)
    beating.start()
    try:
        for cache in caches:
            try:
                _stand(cache, waiter, hold)
            except (OSError, UserError) as error:  # nobody may write there: NeMo RL makes nothing there either
                waiter.say(f"{cache.what}: nobody can be kept from making it at the same time ({error})")
        yield hold
    finally:
        over.set()
        hold.torn()


def _beat(hold: Hold, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        for claim, _ in list(hold.claims):
            with contextlib.suppress(OSError):
                os.utime(claim / "owner.json")


def _stand(cache: Cache, waiter: Waiter, hold: Hold) -> None:
    """Return when a cache has what the run needs, or a claim of it is in the hold."""
    line, said_at = _Line(cache, waiter.owner), 0.0
    while not waiter.stopped():
        claims = runs.attempts(cache.lock)
        needless = _needless(claims)
        lacking = [what for what in cache.lacks(_trusted(cache, claims)) if what not in needless]
        if not lacking:
            return
        last = claims[-1] if claims else None
        if last is None or _ended(last) is not None or line.dead(last):
            claim = runs.claim(cache.lock, last.number + 1 if last else 1, waiter.owner)
            if claim is not None:
                hold.claims.append((claim, cache))
                _begin(cache, claim, claims, waiter, lacking)
                return
        elif time.monotonic() - said_at >= SAY_S or not said_at:
            said_at, hold.waited = time.monotonic(), True
            waiter.say(f"waiting for {_who(last)}, which makes {', '.join(lacking)}")
            waiter.waits(f"{_listed(lacking)} that {_who(last)} makes")
        time.sleep(LOOK_S)


def _begin(cache: Cache, claim: Path, before: Sequence[runs.Attempt], waiter: Waiter, lacking: list[str]) -> None:
    """Mend what is torn, and write down what is there before anything is made."""
    trusted, waits = _trusted(cache, before), False
    for name, looks_whole in cache.entries().items():
        if name in trusted:
            continue
        while not looks_whole and not _known(before) and cache.busy(name) and not waiter.stopped():
            if not waits:
                waiter.say(f"waiting for somebody who makes {name} in {cache.what} by hand")
                waiter.waits(f"{name} that somebody makes by hand")
            waits = True
            time.sleep(LOOK_S)
            looks_whole = cache.entries().get(name, True)
        if waiter.stopped():
            return
        if not looks_whole or _known(before):
            waiter.say(cache.mend(name))
    there = sorted(name for name, whole in cache.entries().items() if whole)
    files.write_json(claim / "making.json", {"run": waiter.run, "before": there}, durable=True)
    still = cache.lacks(there)
    if still and waiter.run:
        waiter.say(f"this run makes {', '.join(still)}; others that need it wait until it trains")


def _known(claims: Sequence[runs.Attempt]) -> bool:
    """Whether the last who began to make something is known, and did not end well: what is new is torn."""
    newest = _newest(claims)
    return newest is not None and _ended(newest) is not True


def _trusted(cache: Cache, claims: Sequence[runs.Attempt]) -> set[str]:
    """Entries that are whole: all that look so, but for those that somebody makes, or began to make, since."""
    looks = {name for name, whole in cache.entries().items() if whole}
    newest = _newest(claims)
    if cache.certain or newest is None or _ended(newest) is True:
        return looks
    return looks & set(_read(newest.dir / "making.json").get("before") or ())


def _newest(claims: Sequence[runs.Attempt]) -> runs.Attempt | None:
    """The last claim whose holder began; one that died before it did changed nothing."""
    return next((claim for claim in reversed(claims) if (claim.dir / "making.json").exists()), None)


def _needless(claims: Sequence[runs.Attempt]) -> set[str]:
    """What the last run that was to make it trained without."""
    newest = _newest(claims)
    return set() if newest is None else set(_read(newest.dir / "ended.json").get("needless") or ())


def _ended(claim: runs.Attempt) -> bool | None:
    """Whether a claim's holder left everything whole; None where it has not ended."""
    whole = _read(claim.dir / "ended.json").get("whole")
    return whole if isinstance(whole, bool) else None


def _who(claim: runs.Attempt) -> str:
    owner, run = claim.owner, _read(claim.dir / "making.json").get("run")
    where = "" if owner is None else f"job {owner.job}" if owner.job else f"process {owner.pid} on {owner.host}"
    return f"run {run} ({where})" if run else where or "another run"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = files.read_json(path)
    except (OSError, files.Damaged):
        return {}
    return record if isinstance(record, dict) else {}


class _Line:
    """Whether the holder at the front still lives: what was seen of its touches, by this host's clock alone."""

    def __init__(self, cache: Cache, me: Owner) -> None:
        self.cache, self.me = cache, me
        self._touched: tuple[int, float] | None = None
        self._since = time.monotonic()

    def dead(self, claim: runs.Attempt) -> bool:
        owner = claim.owner
        if owner is None:
            return True  # a claim appears whole, with its owner
        if owner.job is not None and owner.job == self.me.job and self.me.restart > owner.restart:
            return True  # this very job, before it was requeued
        here = runs.local_alive(owner)
        if here is not None:
            return not here
        touched = (claim.number, _time(claim.dir / "owner.json"))
        if touched != self._touched:
            self._touched, self._since = touched, time.monotonic()
        if time.monotonic() - self._since < SILENT_S:
            return False
        self._since = time.monotonic()  # Slurm is not asked at each look
        return owner.job is None or state.owner_alive(owner, QueueLookup()) is False


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
