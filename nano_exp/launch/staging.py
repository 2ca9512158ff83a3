"""What a launch writes before any job of it can exist: runs, manifest, scripts, code, intents."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp import alike, environment, files, slurm
from nano_exp.dotted import Keys
from nano_exp.engines import origin as origins
from nano_exp.errors import UserError
from nano_exp.launch import batch_script, snapshot
from nano_exp.launch.convergence import Row, configs_of
from nano_exp.launch.job_arrays import Array, Launch
from nano_exp.nemo_rl import checkout as nemo_rl_checkout
from nano_exp.store import predecessors, run_config, runs
from nano_exp.study import run_length
from nano_exp.terminal.progress_line import counting

_COMMITS: dict[str, str | None] = {}


def prepare(
    launch: Launch,
    where: str,
    parameters: dict[str, Any],
    overrides: Sequence[str],
    env_file: Path | None = None,
) -> None:
    """Write everything that must be there before a job can exist: runs, manifest, scripts, code, intents.

    Parameters
    ----------
    env_file: the launch's env.yaml; its path is written, nothing of what it holds

    Raises
    ------
    UserError: the results folder cannot be written; whatever this call made is taken away again
    """
    new_folders: dict[Path, None] = {}
    try:
        rows = [row for array in launch.arrays for row in array.rows]
        texts = alike.Texts(configs_of(rows), _config_yaml, files.yaml_entry)
        with counting("writing", len(rows)) as one_more:
            for index, row in enumerate(rows):
                if row.is_new and runs.create(row.dir, texts.of(index), record(row, launch)):
                    new_folders[row.dir] = None
                one_more()
        _stage(launch, where, parameters, overrides, env_file)
        for array in launch.arrays:
            for index, row in enumerate(array.rows):
                _intend(launch, array, index, row, where, first=row.dir in new_folders)
    except UserError:
        for folder in new_folders:
            runs.discard(folder)
        shutil.rmtree(launch.dir, ignore_errors=True)
        raise


def _config_yaml(config: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    return files.yaml_entries(run_config.remembered(config))


def record(row: Row, launch: Launch) -> dict[str, Any]:
    """run.json of a new run."""
    return {
        "id": row.id,
        "name": row.frozen.name,
        "digest": row.frozen.digest,
        "overrides": list(row.frozen.overrides),
        "choices": dict(row.frozen.choices),
        **_origins(row.config),
        "launch": launch.id,
        "place": row.place,
        "created": time.time(),
        "user": slurm.this_user(),
        "host": socket.gethostname(),
        "engine": row.config["engine"]["name"],
        "nemo_rl": row.config["nemo_rl"]["version"],
        "recipe": row.config["nemo_rl"].get("recipe"),
        "recipe_files": row.config["nemo_rl"].get("recipe_files", {}),  # path -> SHA-256; of a recipe file's
        "checkout_commit": _checkout_commit(row.config),
        "model_revision": _model_revision(row.config),
        "max_steps": run_length.of(row.config),
        "ignored": row.config.get("ignore") or [],
    }


def _origins(config: dict[str, Any]) -> dict[str, Any]:
    """What it started from, where that is another run's checkpoint or a folder."""
    found = (origins.of(config, key) for key in (origins.INIT, origins.FORK))
    return {
        origin.key: {"run": origin.run, "step": origin.step, "path": str(origin.path)} for origin in found if origin
    }


def _checkout_commit(config: dict[str, Any]) -> str | None:
    checkout = config["site"].get("checkout")
    if config["engine"]["name"] != "nemo_rl" or not checkout:
        return None
    if checkout not in _COMMITS:
        _COMMITS[checkout] = nemo_rl_checkout.read_checkout(Path(checkout)).commit
    return _COMMITS[checkout]


def _model_revision(config: dict[str, Any]) -> str | None:
    """The commit of the model's snapshot that this host sees; None of a model that is not the hub's, or not here."""
    if config["engine"]["name"] != "nemo_rl":
        return None
    home = config["site"].get("hf_home")
    key = str(config["policy"].get("model_name") or ""), str(home or os.environ.get("HF_HOME") or "") or None
    return _revision_of(*key)


@cache
def _revision_of(model: str, home: str | None) -> str | None:
    """The same for all runs of a launch, which may be thousands."""
    return nemo_rl_checkout.revision(model, home)


def _stage(
    launch: Launch, where: str, parameters: dict[str, Any], overrides: Sequence[str], env_file: Path | None
) -> None:
    staging = launch.dir.with_name(f".staging-{launch.id}")
    try:
        files.make_dir(staging / ("slurm" if where == "slurm" else "local"))
        snapshot.take(staging, {row.config["engine"]["name"] for array in launch.arrays for row in array.rows})
        for array in launch.sending_order if where == "slurm" else ():
            files.write_text(staging / f"array-{array.word}.sbatch", batch_script.script(launch, array, parameters))
        manifest = {
            "launch": launch.id,
            "where": where,
            "created": time.time(),
            "user": slurm.this_user(),
            "host": socket.gethostname(),
            "folder": str(Path.cwd()),
            "overrides": list(overrides),
            "axes": list(launch.axes),
            "parameters": parameters,
            "env_file": str(env_file) if env_file else None,
            "tokens": environment.tokens(os.environ) if where == "slurm" else [],  # names
            "versions": snapshot.versions(),
            "by_hand": launch.by_hand,
            "terms": launch.terms.as_dict(),
            "after": list(launch.after.terms),
            "warnings": list(launch.warnings),
            "arrays": [_entry(a) for a in launch.arrays],
        }
        if launch.canary is not None:
            manifest[runs.CANARY] = _entry(launch.canary)
            first = launch.canary.rows[0]
            folder = staging / first.dir.relative_to(launch.dir)
            runs.create(folder, run_config.remembered(first.config), record(first, launch))
        for array in launch.arrays:
            if array.job:  # it executes in the allocation that this process is in
                runs.record_job(launch.results, staging.name, array.word, array.job)
        predecessors.write(staging, launch.after.waits)
        files.write_json(staging / "manifest.json", manifest, durable=True)
        staging.rename(launch.dir)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise files.unwritable(launch.dir, error) from error
    except UserError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _entry(array: Array) -> dict[str, Any]:
    """What the manifest says of an array."""
    config = array.rows[0].config
    return {
        "job_name": array.job_name,
        "shape": asdict(array.shape),
        "throttle": array.throttle,
        "behind": array.behind,
        "pack": asdict(array.pack) if array.pack else None,
        # A run submitted again may go to another place than the first time: the attempt takes it from here.
        "site": config["site"],
        "slurm": config["slurm"],
        "placement": run_config.placement(config),
        "checkout_commit": _checkout_commit(config),
        "runs": [str(row.dir) for row in array.rows],
    }


def _intend(launch: Launch, array: Array, index: int, row: Row, where: str, first: bool) -> None:
    earlier = [] if first else runs.attempts(row.dir)
    runs.record_event(
        row.dir,
        "submit",
        durable=False,
        first=first,
        launch=launch.id,
        array=array.number,
        task=array.task_of(index),
        after_attempt=earlier[-1].number if earlier else 0,
        user=slurm.this_user(),
        local=vars(runs.this_process()) if where == "local" else None,
        by_hand=launch.by_hand,
        named=not launch.by_hand and not array.job,  # else the job has the name of the script that a user sent
        **({"after": list(launch.after.terms)} if launch.after.terms else {}),
        **({runs.CANARY: True} if launch.canary else {}),
        **({"halving": True} if launch.terms.halving else {}),
        **({"packed": True} if array.pack else {}),
    )
