"""Submit again what is neither done nor active, from its frozen config."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from nano_exp import credentials, environment, files, slurm
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.launch import (
    canary,
    convergence,
    flow,
    history,
    job_arrays,
    launch_request,
    packing,
    show,
    slurm_options,
    spending,
    submit,
    terms,
    waiting,
)
from nano_exp.launch.convergence import Row
from nano_exp.launch.terms import Terms
from nano_exp.overrides import Override
from nano_exp.store import predecessors, run_config, runs, state
from nano_exp.store.run_config import TERMS
from nano_exp.store.runs import Run
from nano_exp.store.state import State

PREFIX = "hydra.launcher."


@dataclass(frozen=True)
class Batch:
    """Runs that are submitted again in one launch: those whose last launches had the same settings.

    Parameters
    ----------
    launches: all launches that ever sent its runs
    """

    rows: tuple[Row, ...]
    launches: frozenset[str]
    where: str
    parameters: dict[str, Any]
    env_file: Path | None
    terms: Terms


def retry(results: Path, selected_runs: Sequence[Run], overrides: Sequence[str]) -> int:
    """Submit again what is neither done nor active, from its frozen config, as its last launch sent it.

    Parameters
    ----------
    overrides: hydra.launcher.KEY=VALUE, parallel=, after=, fail_fast=, canary=: other ones for this submission

    Raises
    ------
    UserError: another override (a run's config never changes), or the runs were launched to different places
    """
    typed = [word for word in overrides if not (one := Override.parse(word)).deletes and one.key in TERMS]
    changes = launcher_overrides([word for word in overrides if word not in typed])
    sent: list[tuple[Batch, job_arrays.Launch]] = []
    with submit.lock(results):
        pairs = history.states(selected_runs)
        keys = {Override.parse(word).key for word in typed}
        lifted = {kind for kind, key in (("ended early", "stop"), ("paused", "halving")) if key in keys}
        again = [(run, now) for run, now in pairs if now.action == "submit" or now.kind in lifted]
        print(f"retry: {len(again)} to submit, {len(pairs) - len(again)} left alone ({_left(pairs)})")
        limit = terms.changed(Terms(), typed).budget
        for line in spending.require(results, [run.name for run, _ in again], limit, retry=True):
            print(line)
        spending.settle(results, [run.name for run in selected_runs], limit)
        for batch in batches(results, again, changes, typed):
            sent.append((batch, _send(results, batch)))
    here = [(batch, ready) for batch, ready in sent if batch.where == "local"]
    return max((waiting.run_here(ready, packing.at_once(batch.terms) or 1) for batch, ready in here), default=0)


def _left(pairs: Sequence[tuple[Run, State]]) -> str:
    """Why runs are left alone."""
    kinds = {now.kind for _, now in pairs}
    words = ["done", "active or damaged"]
    words += ["ended early: stop=off goes on"] if "ended early" in kinds else []
    words += ["paused: nano-exp promote goes on"] if "paused" in kinds else []
    return ", ".join(words)


def batches(
    results: Path, again: Sequence[tuple[Run, State]], changes: Mapping[str, Any], typed: Sequence[str]
) -> list[Batch]:
    """Runs by how their last launches sent them, older launches first. Raises UserError."""
    members: dict[str, list[tuple[Run, State]]] = {}
    for run, now in again:
        members.setdefault(history.last_launch(run), []).append((run, now))
    by_settings: dict[str, Batch] = {}
    for launched in sorted(members, key=lambda one: min(map(_sent_at, members[one]))):
        batch = _batch(results, launched, members[launched], changes, typed)
        same = json.dumps([batch.where, batch.parameters, str(batch.env_file), batch.terms.as_dict()], sort_keys=True)
        before = by_settings.setdefault(same, batch)
        if before is not batch:
            by_settings[same] = replace(
                before, rows=before.rows + batch.rows, launches=before.launches | batch.launches
            )
    if len({batch.where for batch in by_settings.values()}) > 1:
        raise UserError(
            "some of these runs were launched to Slurm and some on this machine",
            "one retry goes to one place",
            "name the runs, or retry each name by itself",
        )
    return list(by_settings.values())


def _sent_at(member: tuple[Run, State]) -> float:
    """When a run was last submitted, unix time: the links of a chain are launches of one second."""
    event = member[0].last("submit")
    return event.time if event is not None else 0.0


def _batch(
    results: Path,
    launched: str,
    members: Sequence[tuple[Run, State]],
    changes: Mapping[str, Any],
    typed: Sequence[str],
) -> Batch:
    """Runs of one launch, with its settings but for what is typed now."""
    manifest = history.manifest(results, launched)
    last_terms = terms.of_manifest(manifest, _after(results, launched, typed))
    if canary.succeeded(manifest):
        last_terms = replace(last_terms, canary=False)
    return Batch(
        tuple(_row(run, now, manifest) for run, now in members),
        frozenset(str(e.data.get("launch")) for run, _ in members for e in run.events if e.kind == "submit"),
        str(manifest.get("where", "slurm")),
        slurm_options.merged(manifest.get("parameters") or {}, changes),
        _environment(manifest),
        terms.changed(last_terms, typed),
    )


def _after(results: Path, launched: str, typed: Sequence[str]) -> list[str]:
    """What a launch waits for, as words of `after=`; nothing where it is typed anew."""
    if any(one.key == "after" and one.has_value for one in map(Override.parse, typed)):
        return []
    try:
        return [wait.word for wait in predecessors.read(runs.launch_dir(results, launched))]
    except (files.Damaged, OSError) as error:
        raise UserError(
            f"launch {launched}: {error}",
            "its runs would start without what they come after",
            "the same command with after=RUN, or with after=null",
        ) from error


def _send(results: Path, batch: Batch) -> job_arrays.Launch:
    """One launch of these runs. The results folder is locked."""
    env_file = launch_request.read_environment(batch.env_file)
    credentials.refuse({"hydra.launcher": batch.parameters}, "the retry")  # again: now env.yaml's values are known
    behind: list[str] = []
    if batch.where == "slurm":
        if "timeout_min" not in batch.parameters:
            raise UserError(
                "the time limit of the last launch is not known",
                "its manifest cannot be read, and Slurm's own default would be too short or endless",
                f"{PREFIX}timeout_min=240",
            )
        slurm.require()
        behind = _still_running(results, batch)
    terms.require(batch.terms, batch.where, submit=True)
    packing.require(batch.terms, [row.config for row in batch.rows], batch.parameters, batch.where)
    show.rows(batch.rows)
    try:
        return flow.dispatch(
            batch.rows, batch.where, batch.parameters, results, env_file, requested=batch.terms, behind=behind
        )
    except UserError as error:
        if batch.terms.after and error.found.startswith("after="):  # kept from the last launch, not typed now
            raise UserError(error.found, error.why, f"{error.fix}; or after=null: without it", error.code) from error
        raise


def _still_running(results: Path, batch: Batch) -> list[str]:
    """The jobs of these runs' last launches that still have runs, where `parallel` holds for them together."""
    if batch.terms.parallel is None:
        return []
    lookup = convergence.QueueLookup()
    jobs: dict[str, int] = {}
    for launched in sorted(batch.launches):
        for folder in history.run_dirs(history.manifest(results, launched)):
            run = runs.load(folder)
            now = lookup.state(run) if history.last_launch(run) == launched else None  # else counted there, or not ours
            if now is not None and now.kind in state.ACTIVE and ":" not in now.job:
                job = now.job.partition("_")[0]
                jobs[job] = jobs.get(job, 0) + 1
    if jobs:
        print(
            f"parallel={batch.terms.parallel}: after job {', '.join(jobs)}, which still has {sum(jobs.values())} of "
            "that launch's runs; parallel=null starts them beside it"
        )
    return list(jobs)


def launcher_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`hydra.launcher.timeout_min=600` -> {"timeout_min": 600}; values are read as YAML."""
    credentials.refuse_overrides(overrides)
    slurm_options.refuse_typed(overrides)
    changes: dict[str, Any] = {}
    for override in overrides:
        one = Override.parse(override)
        if not one.has_value or one.deletes or not slurm_options.names_launcher(one):
            raise UserError(
                override,
                "a run's config is frozen; a retry can only be sent in another way",
                f"{PREFIX}timeout_min=600, {PREFIX}partition=NAME, ..., {', '.join(f'{key}=' for key in TERMS)}; for "
                "another config launch a new run",
            )
        try:
            value = yaml.safe_load(one.value)
        except yaml.YAMLError as error:
            raise UserError(
                override, f"the value is not valid YAML: {' '.join(str(error).split())}", f"{one.key}=..."
            ) from error
        name = f"{one.key}.".removeprefix(PREFIX).rstrip(".")
        option = name.removeprefix(f"{slurm_options.EXTRA}.")
        if option != name:
            name, value = slurm_options.EXTRA, {option: value}
        if not name and not isinstance(value, dict):
            raise UserError(override, "hydra.launcher is a section of keys", f"{PREFIX}timeout_min=600")
        changes = slurm_options.merged(changes, {name: value} if name else value)
    return changes


def _environment(manifest: dict[str, Any]) -> Path | None:
    """The env.yaml that the runs were launched with, wherever a retry is typed; $NANO_EXP_ENV goes before it."""
    recorded = manifest.get("env_file")
    if isinstance(recorded, str) and environment.VARIABLE not in os.environ:
        return Path(recorded)
    return environment.find(Path.cwd())


def _row(run: Run, now: State, manifest: dict[str, Any]) -> Row:
    """The run as its last launch sent it: its site, Slurm settings and placement go with that launch's parameters."""
    try:
        config = run.config()
    except (files.Damaged, OSError) as error:
        raise UserError(
            f"{run.dir}: " + (f"config.yaml: {error.strerror}" if isinstance(error, OSError) else str(error)),
            "a run is submitted again from its frozen config",
            "bring the file back, or launch the run again with fresh=true",
        ) from error
    with contextlib.suppress(KeyError, TypeError, ValueError):  # a damaged manifest says nothing
        entry = next((entry for entry in manifest["arrays"] if str(run.dir) in entry["runs"]), None)
        config = run_config.sent_with(config, entry) if entry is not None else config
    frozen = Frozen(run.name, str(run.record["digest"]), tuple(run.overrides), config, run.choices)
    return Row(frozen, run.id, run.dir, config, now, submit=True, is_new=False)
