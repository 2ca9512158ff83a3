"""What a run keeps of its config, what an engine reads of it, and the place that each launch gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nano_exp.dotted import Config, at, with_values
from nano_exp.store import identity

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
    "show_yaml",
    "yes",
    "ignore",
    "parallel",
    "pack",
    "after",
    "fail_fast",
    "canary",
    "budget",
    "stop",
    "halving",
    "after_training",
    "init_from",
    "fork_from",
)


#: Switches of one launch: they say how to launch, not what, and are not part of what a run remembers.
SWITCHES = ("dry_run", "wait", "submit", "fresh", "show_yaml", "yes")


#: Its terms (`nano_exp.launch.terms`), which are not either.
TERMS = ("parallel", "pack", "after", "fail_fast", "canary", "budget", "stop", "halving", "after_training")


#: Which of preflight's rules do not count. Of one launch too; run.json says it by itself.
IGNORE = "ignore"


def remembered(config: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen config as its run keeps it: without what says only how it was launched."""
    return {key: value for key, value in config.items() if key not in (*SWITCHES, *TERMS, IGNORE)}


def engine_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine reads: NeMo RL's sections and nothing else; the embedded engine also reads its own section."""
    sections = {key: value for key, value in config.items() if key not in LAUNCHER_KEYS}
    if config["engine"]["name"] == "embedded":
        sections["engine"] = config["engine"]
    return sections


_ABSENT = object()


def placement(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of what says where and how long an engine runs, and is no part of what it computes."""
    read = Config(config)
    return {key: read.get(key) for key in identity.PLACEMENT if read.has(key)}


def sent_with(config: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with what its newest launch says: site, Slurm and placement.

    Parameters
    ----------
    entry: of the launch's manifest; KeyError for one that lacks something
    """
    placed_config = {**config, "site": dict(entry["site"]), "slurm": dict(entry["slurm"])}
    placed = entry.get("placement") or {}
    paths = {tuple(key.split(".")): placed.get(key, _ABSENT) for key in {*placement(placed_config), *placed}}
    changes = {path: value for path, value in paths.items() if isinstance(at(placed_config, path[:-1]), dict)}
    placed_config = with_values(placed_config, changes)
    for path, value in changes.items():
        if value is _ABSENT:
            del at(placed_config, path[:-1])[path[-1]]
    return placed_config
