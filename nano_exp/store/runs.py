"""The store: runs as folders of plain files, and what those files say of a run.

    <results>/<name>/<run id>/   config.yaml  run.json  events/  attempts/<n>/  metrics.jsonl  checkpoints/  logs/
    <results>/.launches/<id>/    manifest.json  array-<k>.sbatch  job-<k>.json  git.json  diff.patch  code/  slurm/
                                 after.json (where it waits for something)

Everything is written aside and renamed. Reading never fails as a whole: a damaged file is a note on its own run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.files import Damaged
from nano_exp.store import axes
from nano_exp.store.axes import Value

LAUNCHES = ".launches"
#: Where the manifest, file names and the attempt's command line have an array's number.
CANARY = "canary"
METRICS = "metrics.jsonl"
#: Of an attempt: the most memory in use on its GPUs, by phase.
GPU_PEAKS = "peaks.json"


@dataclass(frozen=True)
class Event:
    """One thing that happened to a run; `kind` is submit, refused, start, engine, ending, end, requeue, lost, stalled,
    waiting (for what another run makes), origin (the checkpoint that an open init_from turned out to be), cancel, note
    or synced; of a study rung and promote."""

    time: float
    kind: str
    data: Mapping[str, Any]


@dataclass
class Run:
    """One run as its folder tells it.

    Parameters
    ----------
    record: run.json: id, name, digest, overrides, launch, who, when, versions
    events: oldest first
    damaged: what could not be read, one line each
    """

    dir: Path
    record: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @cached_property
    def id(self) -> str:
        return self.dir.name

    @cached_property
    def name(self) -> str:
        return self.dir.parent.name

    @property
    def results(self) -> Path:
        return self.dir.parent.parent

    @property
    def overrides(self) -> list[str]:
        """As run.json has them; none where it does not say."""
        listed = self.record.get("overrides")
        return [o for o in listed if isinstance(o, str)] if isinstance(listed, list) else []

    @property
    def choices(self) -> dict[str, str | None]:
        """Group -> its chosen option, typed or not, as run.json has them; nothing where it does not say."""
        listed = self.record.get("choices")
        return {str(k): v for k, v in listed.items() if isinstance(v, str | None)} if isinstance(listed, dict) else {}

    @property
    def user(self) -> str | None:
        """Who made it; None where run.json does not say."""
        user = self.record.get("user")
        return user if isinstance(user, str) else None

    @property
    def users(self) -> set[str]:
        """Whose jobs it may have: of who made it, and of everybody who submitted it."""
        sent = (event.data.get("user") for event in self.events if event.kind == "submit")
        return {user for user in (self.user, *sent) if isinstance(user, str)}

    @property
    def created(self) -> float:
        """Unix time; 0 where run.json does not say."""
        return number(self.record.get("created")) or 0.0

    def last(self, *kinds: str) -> Event | None:
        """The newest event of these kinds."""
        for event in reversed(self.events):
            if event.kind in kinds:
                return event
        return None

    def config(self) -> dict[str, Any]:
        """The frozen config. Raises Damaged or FileNotFoundError."""
        config = files.read_yaml(self.dir / "config.yaml")
        if not isinstance(config, dict):
            raise Damaged("config.yaml is empty")
        return config

    def value(self, key: str) -> Value:
        """What it has for a key that it was launched without; axes.UNKNOWN where its files do not say."""
        try:
            return axes.at(self.config(), self.choices, key)
        except (Damaged, OSError):
            return axes.UNKNOWN


def number(value: Any) -> float | None:
    """A finite or infinite number as a float; None for anything else that a file may hold in its place."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def rungs_left(run: Run) -> int:
    """From how many rungs of its study a run was promoted."""
    return _rungs(run, "promote")


def rungs_reached(run: Run) -> int:
    """At how many rungs of its study a run was compared."""
    return _rungs(run, "rung")


def _rungs(run: Run, kind: str) -> int:
    """Up to which rung, counted from 1, a run has events of a kind."""
    rungs = [event.data.get("rung") for event in run.events if event.kind == kind]
    return max((rung + 1 for rung in rungs if isinstance(rung, int)), default=0)


def load(run_dir: Path, events: bool = True) -> Run:
    """Read run.json and, unless told not to, the events of one run; never raises for what is inside the folder."""
    run = Run(run_dir)
    try:
        record = files.read_json(run_dir / "run.json")
        if isinstance(record, dict) and isinstance(record.get("digest"), str):
            run.record = record
        else:
            run.damaged.append("run.json has no digest")
    except (Damaged, OSError) as error:
        run.damaged.append(_words(error))
    try:
        paths = _events(run_dir / "events") if events else []
    except OSError as error:
        run.record = {}  # whether it was submitted is not known, so that nothing may be done with it
        run.damaged.append(_words(error))
        return run
    for path in paths:
        try:
            data = files.read_json(path)
            run.events.append(Event(float(data["time"]), str(data["kind"]), data))
        except (Damaged, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
            run.damaged.append(f"events/{path.name}: {_words(error)}")
    return run


def _events(folder: Path) -> list[Path]:
    """The files of a run's events, oldest first. Raises OSError where they cannot be listed."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 (a glob of a folder that is closed says nothing)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if name[:1].isdigit() and name.endswith(".json")]


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        name = Path(str(error.filename)).name
        return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name}: {error.strerror}"
    return str(error) or type(error).__name__


def find(results: Path, names: Iterable[str] | None = None) -> Iterator[Run]:
    """All runs of a results folder, or those of some names, by name and id."""
    for name_dir in sorted(p for p in folders(results) if names is None or p.name in set(names)):
        for run_dir in folders(name_dir):
            yield load(run_dir)


def folders(parent: Path) -> list[Path]:
    """The folders below one, sorted, without hidden ones."""
    try:
        with os.scandir(parent) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
        return [parent / name for name in names]
    except OSError:  # not there, not a folder, or closed to us: what cannot be read says nothing
        return []


def record_event(run_dir: Path, kind: str, durable: bool = True, first: bool = False, **data: Any) -> None:
    """Append an event: a file of its own, named by time so that a folder listing is the history.

    It is later than those that are there, also where another host's clock is ahead.

    Parameters
    ----------
    first: the run has just been made, and nobody knows of it yet
    """
    newest = ""
    if not first:
        files.make_dir(run_dir / "events")
        newest = max((name.partition("-")[0] for name in files.names(run_dir / "events")), default="")
    now = max(time.time_ns(), int(newest) + 1 if newest.isdecimal() else 0)
    name = f"{now:020d}-{kind}-{uuid.uuid4().hex[:6]}.json"
    files.write_json(run_dir / "events" / name, {"time": now / 1e9, "kind": kind, **data}, durable)


def create(run_dir: Path, config: Mapping[str, Any] | str, record: Mapping[str, Any]) -> bool:
    """Make a run's folder whole or not at all. False when it is already there (made by another launcher).

    Parameters
    ----------
    config: as YAML too
    """
    staging = run_dir.parent / f".staging-{uuid.uuid4().hex[:8]}"
    renamed = False
    try:
        files.make_dir(staging)
        (staging / "events").mkdir()
        files.write_unseen(staging / "config.yaml", config if isinstance(config, str) else files.dump_yaml(config))
        files.write_unseen(staging / "run.json", files.dump_json(record))
        staging.rename(run_dir)
        renamed = True
        return True
    except OSError as error:
        if os.path.isdir(run_dir):  # noqa: PTH112 (Path.is_dir raises where the folder above is closed to us)
            return False
        raise files.unwritable(run_dir, error) from error
    finally:
        if not renamed:
            shutil.rmtree(staging, ignore_errors=True)
            remove_empty(run_dir.parent, run_dir.parent.parent)


def remove_empty(*folders: Path) -> None:
    """Inner ones first; the first one that has something in it ends it."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def discard(run_dir: Path) -> None:
    """Take away a run that this launch made and that Slurm refused: only what `create` and the intent wrote."""
    if (run_dir / "attempts").exists() or (run_dir / METRICS).exists():
        return
    grave = run_dir.with_name(f".refused-{run_dir.name}-{uuid.uuid4().hex[:8]}")
    run_dir.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)
    remove_empty(run_dir.parent, run_dir.parent.parent)


# --- attempts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """Who executes an attempt: a Slurm job (id and restart count) or a process of a host."""

    job: str | None
    restart: int
    host: str
    pid: int
    started: float  # the process's start in clock ticks since boot (Linux), so that a recycled pid is not taken for it


@dataclass(frozen=True)
class Attempt:
    """attempts/<number>: its owner, and its end once it ended."""

    number: int
    dir: Path
    owner: Owner | None
    end: Mapping[str, Any] | None


def attempts(run_dir: Path) -> list[Attempt]:
    """The attempts of a run, first to last; unreadable owner or end files count as unknown."""
    by_folder = []
    for path in folders(run_dir / "attempts"):
        if path.name.isdigit():
            owner, end = _maybe(path / "owner.json"), _maybe(path / "end.json")
            by_folder.append(Attempt(int(path.name), path, as_owner(owner), end))
    return sorted(by_folder, key=lambda a: a.number)


def _maybe(path: Path) -> dict[str, Any] | None:
    try:
        value = files.read_json(path)
    except (Damaged, OSError):
        return None
    return value if isinstance(value, dict) else None


def announced(run: Run, attempt: int) -> Mapping[str, Any] | None:
    """The end that an attempt which was told to end foresaw, while its engine still ended; None where it was not.

    It is the attempt's end where the attempt was killed before it could write a better one.
    """
    event = run.last("ending")
    end = event.data.get("end") if event is not None else None
    return end if isinstance(end, Mapping) and end.get("attempt") == attempt else None


def as_owner(data: Any) -> Owner | None:
    """An owner as it was written; None for anything else."""
    try:
        owner = Owner(**data)
    except TypeError:
        return None
    whole = isinstance(owner.job, str | None) and isinstance(owner.restart, int) and isinstance(owner.host, str)
    return owner if whole and isinstance(owner.pid, int) and number(owner.started) is not None else None


def claim(run_dir: Path, number: int, owner: Owner) -> Path | None:
    """Claim attempt `number`: its folder appears whole, with its owner inside, or not at all.

    Renaming a folder over one that is not empty fails, so of two claims of one number exactly one succeeds.

    Returns
    -------
    the attempt's folder, or None when another has it
    """
    files.make_dir(run_dir / "attempts")
    staging = run_dir / "attempts" / f".claim-{uuid.uuid4().hex[:8]}"
    target = run_dir / "attempts" / str(number)
    try:
        files.make_dir(staging)
        files.write_json(staging / "owner.json", vars(owner), durable=True)
        staging.rename(target)
    except OSError as error:
        if os.path.isdir(target):  # noqa: PTH112
            return None
        raise files.unwritable(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


#: Bytes that an attempt keeps on the disk for the word of its own end.
RESERVE = 64 * 1024


def reserve(attempt_dir: Path) -> None:
    """Take room on the disk, so that an attempt whose disk fills up can still say so. `release` gives it back."""
    with contextlib.suppress(OSError):
        (attempt_dir / ".reserve").write_bytes(os.urandom(RESERVE))  # random: zeros may take no room


def release(attempt_dir: Path) -> None:
    with contextlib.suppress(OSError):
        (attempt_dir / ".reserve").unlink(missing_ok=True)


def this_process(job: str | None = None, restart: int = 0) -> Owner:
    """The running process as an owner."""
    pid = os.getpid()
    return Owner(job, restart, socket.gethostname(), pid, process_start(pid) or 0.0)


def process_start(pid: int) -> float | None:
    """Start of a process in clock ticks since boot (field 22 of /proc/<pid>/stat); None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] in ("Z", "X") else float(fields[19])


def local_alive(owner: Owner) -> bool | None:
    """Whether a local owner still runs; None when that cannot be told from this host."""
    if owner.host != socket.gethostname():
        return None
    started = process_start(owner.pid)
    return started is not None and (owner.started == 0.0 or started == owner.started)


# --- launches -------------------------------------------------------------------------------------------------------


def launch_dir(results: Path, launch_id: str) -> Path:
    return results / LAUNCHES / launch_id


def jobs_of(results: Path, launch_id: str) -> dict[int, str]:
    """Array number -> Slurm job id of a launch, as far as it got."""
    return {number: job for number, job in sent(launch_dir(results, launch_id)).items() if job}


def sent(launch: Path) -> dict[int, str]:
    """The same, with an empty id for arrays that were refused: what is not in it may still be sent."""
    by_array: dict[int, str] = {}
    for name in files.names(launch):
        if not (name.startswith("job-") and name.endswith(".json")):
            continue
        data = _maybe(launch / name)
        number = name.removeprefix("job-").removesuffix(".json")
        if data and number.isdigit():
            by_array[int(number)] = str(data.get("job") or "")
    return by_array


def canary_job(results: Path, launch_id: str) -> str:
    """The Slurm job of a launch's canary; empty where it has none, or it was not sent."""
    return str((_maybe(launch_dir(results, launch_id) / "job-canary.json") or {}).get("job") or "")


def record_job(results: Path, launch_id: str, array: int | str, job: str) -> None:
    """Remember which Slurm job an array of a launch became: its number, or `canary`; none where it was refused."""
    path = launch_dir(results, launch_id) / f"job-{array}.json"
    files.write_json(path, {"job": job, "time": time.time()}, durable=True)
