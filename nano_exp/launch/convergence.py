"""What a launch would do: each wanted run against the store and Slurm. Nothing here writes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nano_exp import alike, files
from nano_exp.compose.freeze import Frozen, overrides_key, place
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.store import identity, runs, state
from nano_exp.store.queue_lookup import QueueLookup
from nano_exp.store.runs import Run
from nano_exp.store.state import State
from nano_exp.study import stop_rules


@dataclass(frozen=True)
class Row:
    """One wanted run.

    Parameters
    ----------
    config: the frozen config with the run's own paths
    state: as the store and Slurm have it
    submit: whether this launch submits it
    is_new: whether its folder has to be made
    merged: how many points of the launch were this same run
    changes: for `changed`: key -> (as it was, as it is now)
    twin: for `new`: another name that has a run of the same config
    place: in the order of the launch
    """

    frozen: Frozen
    id: str
    dir: Path
    config: dict[str, Any]
    state: State
    submit: bool
    is_new: bool
    merged: int = 1
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    twin: str = ""
    place: int = 0

    @property
    def results(self) -> Path:
        return Path(self.config["run"]["results"])


class Rows(list[Row]):
    """Runs of a launch; the list is not changed."""

    @cached_property
    def configs(self) -> alike.Configs:
        return alike.Configs(row.config for row in self)


def configs_of(rows: Sequence[Row]) -> alike.Configs:
    """The runs' configs."""
    return (rows if isinstance(rows, Rows) else Rows(rows)).configs


@dataclass(frozen=True)
class Plan:
    rows: tuple[Row, ...]

    @cached_property
    def to_submit(self) -> Rows:
        return Rows(row for row in self.rows if row.submit)

    def of(self, *kinds: str) -> list[Row]:
        return [row for row in self.rows if row.state.kind in kinds]


def make(frozen_configs: Sequence[Frozen], fresh: bool, lookup: QueueLookup) -> Plan:
    """Compare the wanted runs with the store.

    Raises
    ------
    UserError: Slurm does not answer where a run's state depends on it, or `fresh` for a run that is active
    """
    merged: dict[tuple[str, str, str], list[Frozen]] = {}
    for frozen in frozen_configs:
        merged.setdefault((frozen.config["run"]["results"], frozen.name, frozen.digest), []).append(frozen)
    ids = {identity.run_id(digest) for _, _, digest in merged}
    places = dict.fromkeys((results, name) for results, name, _ in merged)
    stored = {(results, name): _Stored(Path(results), name, ids) for results, name in places}
    newest = {key: stored[key[0], key[1]].newest(identity.run_id(key[2])) for key in merged}
    lookup.include(run for run in newest.values() if run is not None)
    rows = [
        _row(same[0], len(same), newest[key], stored[key[0], key[1]], fresh, lookup) for key, same in merged.items()
    ]
    _refuse_to_guess(rows, lookup)
    if fresh:
        _refuse_active(rows)
    return Plan(tuple(replace(row, place=place) for place, row in enumerate(rows)))


class _Stored:
    """The runs of one name in the store. Of a store of thousands only what the wanted runs depend on is read.

    Parameters
    ----------
    launch_ids: the short ids of all runs of the launch
    """

    def __init__(self, results: Path, name: str, launch_ids: set[str]) -> None:
        self.results, self.name, self._launch_ids = results, name, launch_ids
        self._folders: dict[str, list[Path]] = {}
        _require_open(results / name)
        for folder in runs.folders(results / name):
            self._folders.setdefault(folder.name.partition("-")[0], []).append(folder)

    def newest(self, base: str) -> Run | None:
        """The run of an id: the last of its fresh starts."""
        folders = self._folders.get(base)
        return runs.load(max(folders, key=lambda f: _generation(f.name))) if folders else None

    def others(self, overrides: Sequence[str]) -> list[Run]:
        """Runs of the same overrides that are not wanted, newest first, without their events."""
        return self._others.get(overrides_key(overrides), [])

    @cached_property
    def _others(self) -> dict[tuple[str, ...], list[Run]]:
        unwanted = [f for base, folders in self._folders.items() if base not in self._launch_ids for f in folders]
        by_overrides: dict[tuple[str, ...], list[Run]] = {}
        for run in sorted((runs.load(f, events=False) for f in unwanted), key=lambda r: r.created, reverse=True):
            if run.record:
                by_overrides.setdefault(overrides_key(run.overrides), []).append(run)
        return by_overrides

    def twin(self, base: str) -> str:
        """Another name that has a run of this id of the launch; empty where none has."""
        return self._elsewhere.get(base, "")

    @cached_property
    def _elsewhere(self) -> dict[str, str]:
        names = [folder for folder in runs.folders(self.results) if folder.name != self.name]
        there = ((run, folder) for folder in names for run in self._launch_ids.intersection(files.names(folder)))
        return {run: folder.name for run, folder in there if (folder / run).is_dir()}


def _require_open(folder: Path) -> None:
    """A name whose runs cannot be seen or added to is somebody else's. Raises UserError."""
    there = os.path.lexists(folder.parent) and os.path.isdir(folder)  # noqa: PTH112 (Path's raises where it is closed)
    if there and not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise UserError(
            f"{folder}: you may not read and write in it",
            "the runs of this name belong to somebody else: you cannot see which are done or active, nor continue them",
            "run.name=ANOTHER, or run.results=/a/folder/of/yours; its owner opens it with chmod -R g+rwX",
        )


def _row(frozen: Frozen, merged: int, newest: Run | None, stored: _Stored, fresh: bool, lookup: QueueLookup) -> Row:
    digest, base = frozen.digest, identity.run_id(frozen.digest)
    folder = stored.results / frozen.name
    if newest is not None:
        if newest.record.get("digest", digest) != digest:
            raise UserError(
                f"{newest.dir} belongs to another config of the same short id",
                "two configs must never share a folder",
                "another run.name=... for this launch",
            )
        now = lookup.state(newest)
        unanswered = now.kind == "unknown" and bool(lookup.error)  # else it is on another host, perhaps for ever
        if not fresh or now.kind in state.ACTIVE or unanswered:
            config = place(frozen, newest.id)
            submits = now.action == "submit" or _goes_on(newest, now, frozen.config)
            return Row(frozen, newest.id, newest.dir, config, now, submits, False, merged)
        run_id = identity.run_id(digest, _generation(newest.id) + 1)
        return Row(
            frozen, run_id, folder / run_id, place(frozen, run_id), State("new", "fresh start"), True, True, merged
        )
    before = _changed(frozen, stored)
    config = place(frozen, base)
    if before is not None and not fresh:
        old, changes = before
        now = State("changed", f"was {old.id}")
        return Row(frozen, base, folder / base, config, now, False, True, merged, changes)
    return Row(frozen, base, folder / base, config, State("new"), True, True, merged, twin=stored.twin(base))


def _goes_on(run: Run, now: State, config: Mapping[str, Any]) -> bool:
    """Whether a launch goes on with a run that ended before its last step: without the rule that ended it, or
    without the rungs."""
    tried = runs.attempts(run.dir)
    if now.kind == "paused":
        return not (config.get("halving") or {}).get("rungs")
    return now.kind == "ended early" and stop_rules.lifts(tried[-1].end or {}, config.get("stop") or {})


def _generation(run_id: str) -> int:
    tail = run_id.partition("-")[2]
    return int(tail) if tail.isdigit() else 1


def _changed(frozen: Frozen, stored: _Stored) -> tuple[Run, dict[str, tuple[Any, Any]]] | None:
    """An older run of the same overrides whose config was another: a default changed in between."""
    for run in stored.others(frozen.overrides):
        try:
            return run, identity.differences(run.config(), frozen.config)
        except (Damaged, OSError):
            continue
    return None


def _refuse_to_guess(rows: list[Row], lookup: QueueLookup) -> None:
    unknown = [row for row in rows if row.state.kind == "unknown"]
    if unknown:
        first = unknown[0]
        why = lookup.error or f"{first.state.why} ({first.state.job})"
        raise UserError(
            f"cannot tell whether {len(unknown)} of {len(rows)} runs are active (first: {first.id}): {why}",
            "submitting one that is active would execute it twice",
            "the same command when Slurm answers again (squeue must work here)"
            if lookup.error
            else "the same command on that host; where it is gone for good, fresh=true starts in a new folder",
            code=4,
        )


def _refuse_active(rows: list[Row]) -> None:
    active = [row for row in rows if row.state.kind in state.ACTIVE]
    if active:
        jobs = " ".join(dict.fromkeys(row.state.job for row in active[:5]))
        raise UserError(
            f"fresh=true, but {len(active)} of the runs are active (first: {active[0].id}, {active[0].state.kind})",
            "a fresh start beside an active run would train the same config twice at once",
            f"end them first: scancel {jobs}" if ":" not in jobs else "end them first (Ctrl-C in their launcher)",
        )
