"""What W&B, SwanLab and MLflow are told of a run beyond its numbers: who it is, where it ran, how it was launched.

The attempt hands it to the engine (`overlay`), `nano-exp sync` to W&B itself: both say the same. Imports no tracker.
"""

from __future__ import annotations

import hashlib
import netrc
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nano_exp import files
from nano_exp.credentials import redact
from nano_exp.files import Damaged
from nano_exp.overrides import Override
from nano_exp.store import axes, runs, state
from nano_exp.store.axes import Value
from nano_exp.store.runs import Run
from nano_exp.text import short_title

JOB_TYPE = "train"
#: Characters of the command in the notes: a sweep may be typed as thousands of values.
NOTES = 2000
WANDB_HOST = "https://api.wandb.ai"


@dataclass(frozen=True)
class Description:
    """A run as a tracker shows it.

    Parameters
    ----------
    name: what sets the run apart within its launch, and its id
    notes: the command that launched it
    about: what a person filters by; W&B's config has it under `nano_exp`
    """

    name: str
    notes: str
    about: dict[str, Any]


def describe(run: Run, config: Mapping[str, Any]) -> Description:
    """From the run's record, its events and its launch. What a damaged or older store does not say is left out."""
    manifest = _launch_file(run, run.record.get("launch"), "manifest.json")
    sent = state.submission(run)
    git = _launch_file(run, sent.launch if sent else run.record.get("launch"), "git.json")
    point = _axes(run, manifest)
    starts = [event.data for event in run.events if event.kind == "start"]
    shape = config.get("cluster") or {}
    about = {
        "run": f"{run.name}/{run.id}",
        "launch": sent.launch if sent else run.record.get("launch"),
        "overrides": [redact(override) for override in run.overrides],
        "axes": point,
        "commit": git.get("commit"),
        "uncommitted_changes": git.get("dirty"),
        "nemo_rl": run.record.get("nemo_rl"),
        "nemo_rl_commit": run.record.get("checkout_commit"),
        "engine": (config.get("engine") or {}).get("name"),
        "model": (config.get("model") or {}).get("name") or (config.get("policy") or {}).get("model_name"),
        "cluster": "local" if manifest.get("where") == "local" else _shape(shape),
        "site": (config.get("site") or {}).get("name"),
        "slurm_jobs": _each(starts, "job"),
        "hosts": _each(starts, "host"),
        "attempts": len(starts),
        "user": run.user,
    }
    about = {key: value for key, value in about.items() if value is not None}
    return Description(_title(run, config, point), _command(manifest), about)


def _launch_file(run: Run, launch: Any, name: str) -> dict[str, Any]:
    try:
        record = files.read_json(runs.launch_dir(run.results, str(launch)) / name)
    except (Damaged, OSError):
        return {}
    return record if isinstance(record, dict) else {}


def _axes(run: Run, manifest: Mapping[str, Any]) -> dict[str, Value]:
    """The run's values of what differed among the points of its launch."""
    listed = manifest.get("axes")
    typed = axes.typed(map(redact, run.overrides))
    keys = [str(key) for key in listed] if isinstance(listed, list) else []
    return {key: typed[key] if key in typed else run.value(key) for key in keys}


def _shape(cluster: Mapping[str, Any]) -> str | None:
    nodes, gpus = cluster.get("num_nodes"), cluster.get("gpus_per_node")
    return f"{nodes}n{gpus}g" if nodes is not None and gpus is not None else None


def _each(starts: list[Mapping[str, Any]], key: str) -> list[str]:
    """Every value once, oldest first."""
    return list(dict.fromkeys(str(data[key]) for data in starts if data.get(key)))


def _command(manifest: Mapping[str, Any]) -> str:
    overrides = manifest.get("overrides")
    typed = redact(shlex.join(["python", "launch.py", *map(str, overrides)])) if isinstance(overrides, list) else ""
    return typed if len(typed) <= NOTES else f"{typed[:NOTES]} ..."


def _title(run: Run, config: Mapping[str, Any], point: Mapping[str, Value]) -> str:
    """The frozen name; one that was made of the overrides is cut to those that differ within the launch."""
    frozen = str(((config.get("logger") or {}).get("wandb") or {}).get("name") or "")
    if frozen and not frozen.endswith(f" {run.id}"):  # a user's own: freeze.place put the id behind a hyphen
        return frozen
    title = short_title([f"{key}={axes.as_typed(value)}" for key, value in point.items()])
    return f"{title} {run.id}" if title else frozen or f"{run.name} {run.id}"


# --- for the engine -------------------------------------------------------------------------------------------------


def overlay(run: Run, config: Mapping[str, Any]) -> dict[str, object]:
    """Dotted key -> value of logger.*, for the trackers that are on. What the user chose stands.

    W&B: NeMo RL passes logger.wandb whole to wandb.init (utils/logger.py), so `config` and `notes` reach it.
    SwanLab: passed whole to swanlab.init; with an id (21 characters at all of its versions) and `resume` the attempts
    of a run are one experiment.
    MLflow: the run name alone. A run id would be one that the server made, and resuming it ends NeMo RL at set-up: it
    logs its whole config as parameters, MLflow refuses one that changed, and checkpoint_must_save_by does each time.
    TensorBoard: nothing; its name is its folder, which lies in the run's.
    """
    logger = config.get("logger") or {}
    description = describe(run, config)
    changes: dict[str, object] = {}
    if logger.get("wandb_enabled"):
        tracker = logger.get("wandb") or {}
        changes["logger.wandb.name"] = description.name
        changes["logger.wandb.notes"] = tracker.get("notes") or description.notes
        changes["logger.wandb.job_type"] = tracker.get("job_type") or JOB_TYPE
        changes["logger.wandb.config"] = {**(tracker.get("config") or {}), "nano_exp": description.about}
    if logger.get("swanlab_enabled"):
        tracker = logger.get("swanlab") or {}
        changes["logger.swanlab.name"] = _named(run, tracker, "logger.swanlab.name", "name", description)
        changes["logger.swanlab.description"] = tracker.get("description") or description.notes
        changes["logger.swanlab.id"] = tracker.get("id") or swanlab_id(run)
        changes["logger.swanlab.resume"] = tracker.get("resume") or "allow"
    if logger.get("mlflow_enabled"):
        tracker = logger.get("mlflow") or {}
        changes["logger.mlflow.run_name"] = _named(run, tracker, "logger.mlflow.run_name", "run_name", description)
    return changes


def _named(run: Run, tracker: Mapping[str, Any], key: str, leaf: str, description: Description) -> str:
    """A typed name with the run's id; the recipes' own names are the same for every run, so they are not kept."""
    typed = any(one.has_value and one.key == key for one in map(Override.parse, run.overrides))
    return f"{tracker[leaf]}-{run.id}" if typed and tracker.get(leaf) else description.name


def swanlab_id(run: Run) -> str:
    """The same for every attempt of a run, another for every run."""
    return hashlib.sha256(f"{run.name}/{run.id}".encode()).hexdigest()[:21]


# --- where it goes --------------------------------------------------------------------------------------------------


def wandb_mode(config: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """`online`, `offline` or another of W&B's modes, as an engine with this environment records; empty: not at all."""
    logger = config.get("logger") or {}
    if not logger.get("wandb_enabled"):
        return ""
    mode = str((logger.get("wandb") or {}).get("mode") or "")
    return mode or environ.get("WANDB_MODE") or ("online" if environ.get("WANDB_API_KEY") else "offline")


def wandb_key(environ: Mapping[str, str] | None = None) -> str:
    """Where this user's W&B key is: `WANDB_API_KEY` or the path of a netrc file (`wandb login`); empty: nowhere."""
    environ = os.environ if environ is None else environ
    if environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    host = urlsplit(environ.get("WANDB_BASE_URL") or WANDB_HOST).hostname or ""
    path = Path(environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return str(path) if host in netrc.netrc(path).hosts else ""
    except (OSError, netrc.NetrcParseError):
        return ""
