"""`init_from=` and `fork_from=`: from what was typed to one checkpoint, which fits the run that starts from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp import engines, files
from nano_exp.engines import Context, checkpoints
from nano_exp.engines.origin import FORK, INIT, Origin
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.index import selection
from nano_exp.store.runs import Run

CONFIG = "config.yaml"


def settled(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A resolved config whose `init_from` or `fork_from` says which checkpoint is meant; without them where none is.

    Parameters
    ----------
    folder: the launch folder, against which a path is made absolute

    Raises
    ------
    UserError: no such run or checkpoint, or one that does not fit
    """
    typed = {key: config[key] for key in (INIT, FORK) if config.get(key) is not None}
    config = {key: value for key, value in config.items() if key not in (INIT, FORK)}
    if not typed:
        return config
    engine, frozen = engines.get(config["engine"]["name"]), {}
    for key, word in typed.items():
        origin, source = find(key, str(word), Path(config["run"]["results"]), folder)
        engine.fits(config, origin, source)
        frozen[key] = origin.frozen
    return {**config, **frozen}


def find(key: str, word: str, results: Path, folder: Path) -> tuple[Origin, dict[str, Any]]:
    """The origin that is meant, and its config; nothing of a folder that has none. Raises UserError."""
    path = (folder / Path(word).expanduser()).resolve()
    if word.startswith(("/", "./", "../", "~")) or (path.is_dir() and "@" not in word):
        return _of_folder(key, word, path)
    name, _, step = word.partition("@")
    run = selection.one(results, name)
    config = config_of(run)
    saved = checkpoint_folder(run, config)
    chosen = checkpoints.choose(saved, step or checkpoints.LAST, config.get("checkpointing") or {}, f"{key}={name}@")
    return Origin(key, f"{run.name}/{run.id}", chosen, saved / f"step_{chosen}"), config


def config_of(run: Run) -> dict[str, Any]:
    """A run's frozen config. Raises UserError where it cannot be read."""
    try:
        return run.config()
    except (Damaged, OSError) as error:
        raise UserError(f"{run.dir / CONFIG}: {error}", "it says which model the run trained", "another run") from error


def checkpoint_folder(run: Run, config: Mapping[str, Any]) -> Path:
    """Where a run's step_N lie."""
    ctx = Context(run.dir, run.dir, 0, run.dir / CONFIG)
    return engines.get(str(config["engine"]["name"])).checkpoint_folder(dict(config), ctx)


def _of_folder(key: str, word: str, path: Path) -> tuple[Origin, dict[str, Any]]:
    if not path.is_dir():
        raise UserError(f"{key}={word}", f"there is no folder {path}", f"{key}=RUN@best, or the path of a checkpoint")
    try:
        config = files.read_yaml(path / CONFIG)
    except (Damaged, OSError):
        config = None
    _, _, step = path.name.partition("step_")
    return Origin(key, None, int(step) if step.isdigit() else None, path), config if isinstance(config, dict) else {}
