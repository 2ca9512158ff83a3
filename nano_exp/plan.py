"""What a launch would do: each wanted run against the store and Slurm. Nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import identity, runs, state
from nano_exp.asked import Asked
from nano_exp.asked import job_lookup as job_lookup  # where callers look for it
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.freeze import Frozen, overrides_key, place
from nano_exp.runs import Run
from nano_exp.state import State


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

    @property
    def results(self) -> Path:
        return Path(self.config["run"]["results"])


@dataclass(frozen=True)
class Plan:
    rows: tuple[Row, ...]

    @property
    def to_submit(self) -> list[Row]:
        return [row for row in self.rows if row.submit]

    def of(self, *kinds: str) -> list[Row]:
        return [row for row in self.rows if row.state.kind in kinds]


def make(wanted: Sequence[Frozen], fresh: bool, asked: Asked) -> Plan:
    """Compare the wanted runs with the store.

    Raises
    ------
    UserError: Slurm does not answer where a run's state depends on it, or `fresh` for a run that is active
    """
    merged: dict[tuple[str, str, str], list[Frozen]] = {}
    for frozen in wanted:
        merged.setdefault((frozen.config["run"]["results"], frozen.name, frozen.digest), []).append(frozen)
    stored: dict[tuple[str, str], list[Run]] = {}
    for results, name, _ in merged:
        if (results, name) not in stored:
            stored[results, name] = list(runs.find(Path(results), [name]))
    for found in stored.values():
        asked.include(found)
    wanted_digests = {digest for _, _, digest in merged}
    rows = []
    for (results, name, digest), same in merged.items():
        here = stored[results, name]
        rows.append(_row(same[0], len(same), digest, here, wanted_digests, fresh, asked))
    _refuse_to_guess(rows, asked)
    if fresh:
        _refuse_active(rows)
    return Plan(tuple(rows))


def _row(frozen: Frozen, merged: int, digest: str, here: list[Run], wanted: set[str], fresh: bool, asked: Asked) -> Row:
    base = identity.run_id(digest)
    same = [r for r in here if r.id == base or r.id.startswith(base + "-")]
    results = Path(frozen.config["run"]["results"])
    folder = results / frozen.name
    if same:
        newest = max(same, key=_generation)
        if newest.record.get("digest", digest) != digest:
            raise UserError(
                f"{newest.dir} belongs to another config of the same short id",
                "two configs must never share a folder",
                "another run.name=... for this launch",
            )
        now = asked.state(newest)
        unanswered = now.kind == "unknown" and bool(asked.error)  # else it is on another host, perhaps for ever
        if not fresh or now.kind in state.ACTIVE or unanswered:
            config = place(frozen, newest.id)
            return Row(frozen, newest.id, newest.dir, config, now, now.action == "submit", False, merged)
        run_id = identity.run_id(digest, _generation(newest) + 1)
        return Row(
            frozen, run_id, folder / run_id, place(frozen, run_id), State("new", "fresh start"), True, True, merged
        )
    before = _changed(frozen, here, wanted)
    config = place(frozen, base)
    if before is not None and not fresh:
        old, changes = before
        now = State("changed", f"was {old.id}")
        return Row(frozen, base, folder / base, config, now, False, True, merged, changes)
    return Row(frozen, base, folder / base, config, State("new"), True, True, merged)


def _generation(run: Run) -> int:
    tail = run.id.partition("-")[2]
    return int(tail) if tail.isdigit() else 1


def _changed(frozen: Frozen, here: list[Run], wanted: set[str]) -> tuple[Run, dict[str, tuple[Any, Any]]] | None:
    """An older run of the same overrides whose config was another: a default changed in between."""
    key = overrides_key(frozen.overrides)
    for run in sorted(here, key=lambda r: r.created, reverse=True):
        if not run.record or overrides_key(run.overrides) != key or run.record["digest"] in wanted:
            continue
        try:
            return run, identity.differences(run.config(), frozen.config)
        except (Damaged, OSError):
            continue
    return None


def _refuse_to_guess(rows: list[Row], asked: Asked) -> None:
    unknown = [row for row in rows if row.state.kind == "unknown"]
    if unknown:
        first = unknown[0]
        why = asked.error or f"{first.state.why} ({first.state.job})"
        raise UserError(
            f"cannot tell whether {len(unknown)} of {len(rows)} runs are active (first: {first.id}): {why}",
            "submitting one that is active would execute it twice",
            "the same command when Slurm answers again (squeue must work here)"
            if asked.error
            else "the same command on that host; where it is gone for good, fresh=true starts in a new folder",
            code=4,
        )


def _refuse_active(rows: list[Row]) -> None:
    active = [row for row in rows if row.state.kind in state.ACTIVE]
    if active:
        jobs = " ".join(row.state.job for row in active[:5])
        raise UserError(
            f"fresh=true, but {len(active)} of the runs are active (first: {active[0].id}, {active[0].state.kind})",
            "a fresh start beside an active run would train the same config twice at once",
            f"end them first: scancel {jobs}" if ":" not in jobs else "end them first (Ctrl-C in their launcher)",
        )
