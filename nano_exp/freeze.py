"""From a composed config to a frozen run: resolved, without secrets, with absolute paths, identified.

After this nothing composes, interpolates or reads the environment again: the job gets exactly this.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from nano_exp import identity, secrets
from nano_exp.compose import Point, raw
from nano_exp.errors import UserError, nearest
from nano_exp.text import short_title

#: The launcher's sections and switches. Everything else in a config is NeMo RL's.
LAUNCHER_KEYS = (
    "nemo_rl",
    "model",
    "optimizer",
    "engine",
    "site",
    "slurm",
    "run",
    "sweep",
    "dry_run",
    "wait",
    "submit",
    "fresh",
)
#: Switches of one launch: they say how to launch, not what, and are not part of what a run remembers.
SWITCHES = ("dry_run", "wait", "submit", "fresh")


@dataclass(frozen=True)
class Frozen:
    """A run as it will be stored.

    Parameters
    ----------
    name: the folder of runs that it belongs to (and its W&B group)
    digest: SHA-256 of its identity, hex
    overrides: as typed, without the switches of the launch
    config: resolved; paths that hold the run's id are filled by `place`
    """

    name: str
    digest: str
    overrides: tuple[str, ...]
    config: dict[str, Any]


def freeze(point: Point, launch_folder: Path) -> Frozen:
    """Resolve and identify one point.

    Raises
    ------
    UserError: a secret, a missing value, an interpolation that leads nowhere, an unusable run.name
    """
    secrets.refuse_overrides(point.overrides)
    secrets.refuse(raw(point.cfg))
    config = resolve(point.cfg)
    secrets.refuse(config)  # again: a variable with a harmless name may have held one
    _absolute(config, launch_folder)
    name = _name(config)
    kept = tuple(o for o in point.overrides if not _of_the_launch(o))
    return Frozen(name, identity.digest(config), kept, config)


def _of_the_launch(override: str) -> bool:
    key = override.lstrip("+~").split("=")[0]
    return key in SWITCHES or key.split(".")[0] == "sweep"


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """All values computed; every `???` and broken interpolation is named with its key."""
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise UserError(
                f"no value for {', '.join(missing)}",
                "the config marks it as ??? : only you can know it",
                " ".join(f"{key}=..." for key in missing),
            )
        return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise _broken(error, cfg) from error


def _broken(error: OmegaConfBaseException, cfg: DictConfig) -> UserError:
    key = str(error.full_key or "a key")
    text = str(
        (OmegaConf.select(cfg, key.rsplit(".", 1)[0], default=None) and _text_at(cfg, key)) or "an interpolation"
    )
    first = str(error).splitlines()[0]
    if isinstance(error, InterpolationKeyError):
        wanted = first.split("'")[1] if "'" in first else text
        known = [k for k, _ in identity.flatten(raw(cfg))]
        near = nearest(wanted, known)
        fix = f"set {wanted}=... or correct {key}" + (f" (nearest key: {near[0]})" if near else "")
        return UserError(f"{key} is {text}", f"there is no key '{wanted}' to take the value from", fix)
    if isinstance(error, InterpolationResolutionError):
        return UserError(f"{key} is {text}", first, f"give {key} a plain value: {key}=...")
    return UserError(f"{key}: {first}", "its value cannot be computed", f"give {key} a plain value: {key}=...")


def _text_at(cfg: DictConfig, key: str) -> Any:
    node: Any = raw(cfg)
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        elif isinstance(node, list) and part.isdigit():
            node = node[int(part)]
    return node


def _name(config: Mapping[str, Any]) -> str:
    name = str(config["run"]["name"])
    if not re.fullmatch(r"\w[\w.+=@-]{0,99}", name):
        raise UserError(
            f"run.name={name!r}",
            "it names a folder, a W&B group and jobs: at most 100 letters, digits and . _ - + = @, no . or - first",
            "run.name=lr_sweep_1",
        )
    return name


def _absolute(config: dict[str, Any], folder: Path) -> None:
    """Paths become absolute against the launch folder, in place; `~` is the user's home."""
    for key in ("checkout", "hf_home", "venv_dir", "uv_cache_dir"):
        _make_absolute(config.get("site"), key, folder)
    for section, key in (("run", "results"), ("logger", "log_dir")):
        _make_absolute(config.get(section), key, folder)
    _make_absolute(config.get("checkpointing"), "checkpoint_dir", folder)
    if "/" in str(config["site"].get("python") or ""):  # a bare name is looked up on the node's PATH
        config["site"]["python"] = str(folder / Path(str(config["site"]["python"])).expanduser())
    policy = config.get("policy", {})
    for holder, key in ((policy, "model_name"), (policy.get("tokenizer"), "name")):
        value = holder.get(key) if isinstance(holder, dict) else None
        # A model is a name on the hub or a local folder: one that is there, or that is written as a path.
        if isinstance(value, str) and (value.startswith(("./", "../", "~", "/")) or (folder / value).is_dir()):
            _make_absolute(holder, key, folder)


def _make_absolute(holder: Any, key: str, folder: Path) -> None:
    if isinstance(holder, dict) and holder.get(key):
        holder[key] = str((folder / Path(str(holder[key])).expanduser()).resolve())


def place(frozen: Frozen, run_id: str) -> dict[str, Any]:
    """The config with everything that derives from the run: its folders and its W&B identity.

    A log_dir or checkpoint_dir that the user set is the parent: the run's name and id are appended, so no two runs
    share one. (The id alone would not do: the same config under two names is two runs of one id.)
    """
    config = copy.deepcopy(frozen.config)
    run_dir = Path(config["run"]["results"]) / frozen.name / run_id
    config["run"].update(id=run_id, dir=str(run_dir))
    for section, key, own in (("checkpointing", "checkpoint_dir", "checkpoints"), ("logger", "log_dir", "logs")):
        if section in config:
            parent = config[section].get(key)
            config[section][key] = str(Path(parent) / frozen.name / run_id if parent else run_dir / own)
    if isinstance(config.get("logger"), dict):
        wandb = dict(config["logger"].get("wandb") or {})
        wandb["project"] = wandb.get("project") or "nano-exp"
        wandb["name"] = f"{wandb['name']}-{run_id}" if wandb.get("name") else title(frozen, run_id)
        wandb["group"] = wandb.get("group") or frozen.name
        wandb["id"] = f"{frozen.name}-{run_id}"
        wandb["resume"] = "allow"
        wandb["tags"] = list(dict.fromkeys([*(wandb.get("tags") or []), *(config["run"].get("tags") or [])]))
        config["logger"]["wandb"] = wandb
    return config


#: Overrides that choose what is common to a sweep; a run's title is made of the others.
_COMMON = ("model", "cluster", "nemo_rl", "engine", "sweeps")


def title(frozen: Frozen, run_id: str) -> str:
    """A run's display name in W&B: what sets it apart, and its id."""
    own = [o for o in frozen.overrides if o.lstrip("+~").split("=")[0] not in _COMMON]
    return f"{short_title(own) or frozen.name} {run_id}"


def engine_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine reads: NeMo RL's sections and nothing else; the embedded engine also reads its own section."""
    own = {key: value for key, value in config.items() if key not in LAUNCHER_KEYS}
    if config["engine"]["name"] == "embedded":
        own["engine"] = config["engine"]
    return own


def set_dotted(config: dict[str, Any], key: str, value: object) -> None:
    """Set a dotted key in plain dicts, making the levels that are not there."""
    *path, leaf = key.split(".")
    for part in path:
        if not isinstance(config.get(part), dict):
            config[part] = {}
        config = config[part]
    config[leaf] = value


def overrides_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """The same wish typed otherwise (in another order, 1e-6 or 1e-06, another place or name) gives an equal key."""
    wishes = []
    for override in overrides:
        key, _, value = override.strip().partition("=")
        bare = key.lstrip("+")
        if bare.split(".")[0] in ("hydra", "site") or (not identity.counts(bare) and bare.split(".")[0] not in _KNOBS):
            continue
        with contextlib.suppress(ValueError):
            value = repr(float(value))
        wishes.append(f"{bare}={value}")
    return tuple(sorted(wishes))


#: Left out of the identity, yet what a user asks for with them is a wish about the run.
_KNOBS = ("optimizer", "model")
