"""From a composed config to a frozen run: resolved, without secrets, with absolute paths, identified.

After this nothing composes, interpolates or reads the environment again: the job gets exactly this.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nano_exp import alike, credentials
from nano_exp.compose import launcher_settings, origins
from nano_exp.dotted import Keys, at, with_values
from nano_exp.errors import UserError
from nano_exp.overrides import Override
from nano_exp.store import axes, identity
from nano_exp.store.run_config import IGNORE, SWITCHES, TERMS
from nano_exp.terminal.progress_line import counting
from nano_exp.text import short_title


@dataclass(frozen=True)
class Frozen:
    """A run as it will be stored.

    Parameters
    ----------
    name: the folder of runs that it belongs to (and its W&B group)
    digest: SHA-256 of its identity, hex
    overrides: as typed, without the switches of the launch
    config: resolved; paths that hold the run's id are filled by `place`
    choices: group -> its option, typed or not
    """

    name: str
    digest: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    choices: Mapping[str, str | None] = field(default_factory=dict)


class Resolved(NamedTuple):
    """A point whose values are computed; `overrides` and `choices` as in `Frozen`."""

    overrides: Sequence[str]
    config: dict[str, Any]
    choices: Mapping[str, str | None]


class Freezable(Protocol):
    """A composed point, however it was composed."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """As typed."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen for it, a line each."""

    def resolve(self) -> Resolved:
        """Compute its values.

        Raises
        ------
        UserError: a secret, a missing value, an interpolation that leads nowhere
        """


def freeze(point: Freezable, launch_folder: Path) -> Frozen:
    """Resolve and identify one point. Raises UserError as that does, and for an unusable run.name."""
    return identified([point.resolve()], launch_folder)[0]


def freeze_all(points: Sequence[Freezable], launch_folder: Path) -> list[Frozen]:
    """Every point of a launch, frozen.

    Raises
    ------
    UserError: as `freeze` does
    """
    credentials.refuse_overrides(dict.fromkeys(text for point in points for text in point.overrides))
    resolved = []
    with origins.looking(), counting("freezing", len(points)) as one_more:
        for point in points:
            resolved.append(point.resolve())
            one_more()
        return identified(resolved, launch_folder)


def identified(points: Sequence[Resolved], launch_folder: Path) -> list[Frozen]:
    """The last step of `freeze`: absolute paths, the name, the identity. Leaves the resolved configs as they are."""
    resolved = alike.Configs(point.config for point in points)
    alike.each(resolved, _require)
    paths = alike.each(resolved, lambda config: _absolute(config, launch_folder))
    configs = [
        origins.settled(with_values(config, changes), launch_folder)
        for config, changes in zip(resolved, paths, strict=True)
    ]
    settled = alike.Configs(configs)
    names, digests = alike.each(settled, _name), identity.digests(settled)
    return [
        Frozen(name, digest, tuple(o for o in point.overrides if not _of_the_launch(o)), config, point.choices)
        for point, config, name, digest in zip(points, configs, names, digests, strict=True)
    ]


def _require(config: Mapping[str, Any]) -> None:
    launcher_settings.require(config)
    if not config["run"].get("results"):
        raise UserError(
            f"run.results={launcher_settings.shown(config['run'].get('results'))}",
            "runs need a folder (an empty NANO_EXP_RESULTS names none)",
            "run.results=results",
        )


def _of_the_launch(override: str) -> bool:
    typed = Override.parse(override)
    return typed.key in (*SWITCHES, *TERMS, IGNORE) or typed.section in ("sweep", "stop", "halving")


def _name(config: Mapping[str, Any]) -> str:
    name = str(config["run"]["name"])
    if not re.fullmatch(r"\w[\w.+=@-]{0,99}", name):
        raise UserError(
            f"run.name={name!r}",
            "it names a folder, a W&B group and jobs: at most 100 letters, digits and . _ - + = @, no . or - first",
            "run.name=lr_sweep_1",
        )
    return name


#: Keys whose value is a path.
_PATHS: tuple[Keys, ...] = (
    ("site", "checkout"),
    ("site", "hf_home"),
    ("site", "venv_dir"),
    ("site", "uv_cache_dir"),
    ("run", "results"),
    ("logger", "log_dir"),
    ("checkpointing", "checkpoint_dir"),
)
#: A model is a name on the hub or a local folder: one that is there, or that is written as a path.
_MODELS: tuple[Keys, ...] = (("policy", "model_name"), ("policy", "tokenizer", "name"))


def _absolute(config: Mapping[str, Any], folder: Path) -> dict[Keys, str]:
    """The paths that have to change to be absolute against the launch folder; `~` is the user's home."""
    paths = {path: absolute(str(value), folder) for path in _PATHS if (value := at(config, path))}
    python = str(config["site"].get("python") or "")
    if "/" in python:  # a bare name is looked up on the node's PATH
        paths["site", "python"] = str(folder / Path(python).expanduser())
    # The embedded engine has its own model, whatever folders there are.
    for path in _MODELS if config["engine"].get("name") != "embedded" else ():
        value = at(config, path)
        if isinstance(value, str) and _is_folder(value, folder):
            paths[path] = absolute(value, folder)
    return {path: made for path, made in paths.items() if made != at(config, path)}


# For the points of a launch these are asked a thousand times the same.
@lru_cache
def absolute(path: str, folder: Path) -> str:
    """A path as the user wrote it, made absolute against the launch folder."""
    return str((folder / Path(path).expanduser()).resolve())


@lru_cache
def _is_folder(model: str, folder: Path) -> bool:
    return model.startswith(("./", "../", "~", "/")) or (folder / model).is_dir()


def place(frozen: Frozen, run_id: str) -> dict[str, Any]:
    """The config with everything that derives from the run: its folders and its W&B identity.

    A log_dir or checkpoint_dir that the user set is the parent: the run's name and id are appended, so no two runs
    share one. (The id alone would not do: the same config under two names is two runs of one id.)
    """
    config = frozen.config
    run_dir = f"{config['run']['results']}/{frozen.name}/{run_id}"
    changes: dict[Keys, Any] = {("run", "id"): run_id, ("run", "dir"): run_dir}
    for section, key, subfolder in (("checkpointing", "checkpoint_dir", "checkpoints"), ("logger", "log_dir", "logs")):
        if section in config:
            parent = config[section].get(key)
            changes[section, key] = f"{parent}/{frozen.name}/{run_id}" if parent else f"{run_dir}/{subfolder}"
    if isinstance(config.get("logger"), dict):
        wandb = dict(config["logger"].get("wandb") or {})
        wandb["project"] = wandb.get("project") or "nano-exp"
        wandb["name"] = f"{wandb['name']}-{run_id}" if wandb.get("name") else title(frozen, run_id)
        wandb["group"] = wandb.get("group") or frozen.name
        wandb["id"] = f"{frozen.name}-{run_id}"
        wandb["resume"] = "allow"
        wandb["tags"] = list(dict.fromkeys([*(wandb.get("tags") or []), *(config["run"].get("tags") or [])]))
        changes["logger", "wandb"] = wandb
    return with_values(config, changes)


#: Overrides that choose what is common to a sweep; a run's title is made of the others.
_COMMON = ("model", "cluster", "nemo_rl", "engine", "sweeps")


def title(frozen: Frozen, run_id: str) -> str:
    """A run's display name in W&B: what sets it apart, and its id."""
    distinct = [o for o in frozen.overrides if Override.parse(o).key not in _COMMON]
    return f"{short_title(distinct) or frozen.name} {run_id}"


def overrides_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """The same wish typed otherwise (in another order, 1e-6 or 1e-06, another place or name) gives an equal key."""
    wishes = []
    for override in overrides:
        typed = Override.parse(override)
        if typed.name != "sweeps" and not axes.of_the_run(typed.name):
            continue  # the place; a sweep's file may set what its runs have in common
        value = typed.value
        with contextlib.suppress(ValueError):
            value = repr(float(value))
        wishes.append(f"{'~' if typed.deletes else ''}{typed.name}={value}")
    return tuple(sorted(wishes))
