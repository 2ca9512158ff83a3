"""This host: Python, packages, the shell's limits, /tmp, and secrets."""

from __future__ import annotations

import importlib.metadata
import re
import resource
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from nano_exp import environment, project
from nano_exp.doctor.check import Said, check, error, fine, refusal, skipped, warning
from nano_exp.doctor.place import Place
from nano_exp.engines.nemo_rl.engine import OPEN_FILES
from nano_exp.text import size

PROJECT = project.PACKAGE.parent / "pyproject.toml"
#: What a node of eight workers runs at once.
PROCESSES = 4096
#: Less than this in /tmp is too little for Ray's private folder, bytes.
TMP = 10 * 2**30


def _project() -> dict[str, Any]:
    """The section `project` of pyproject.toml; of an installed copy, what its metadata say."""
    try:
        return dict(tomllib.loads(PROJECT.read_text())["project"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        needs = importlib.metadata.requires("nano-exp") or []
        wanted = str(importlib.metadata.metadata("nano-exp")["Requires-Python"])
        return {"requires-python": wanted, "dependencies": [need for need in needs if ";" not in need]}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4])


def satisfied(version: str, terms: str) -> bool:
    """Whether a version is what `==1.3.8`, `>=6` or `>=5.23,<6` ask for."""
    have = _numbers(version)
    for sign, wanted in re.findall(r"(==|>=|<)\s*([\w.]+)", terms):
        number = _numbers(wanted)
        if (sign == "==" and have != number) or (sign == ">=" and have < number) or (sign == "<" and have >= number):
            return False
    return True


@check()
def python(place: Place) -> Iterator[Said]:
    """The interpreter is one that this project and its attempts run with."""
    version, wanted = ".".join(map(str, sys.version_info[:3])), str(_project()["requires-python"])
    if satisfied(version, wanted):
        yield fine(f"{version}, {sys.executable}")
    else:
        yield error(
            f"Python {version} at {sys.executable}",
            f"the project needs Python {wanted}",
            "python3.11 -m venv .venv && .venv/bin/pip install -e .",
        )


@check()
def packages(place: Place) -> Iterator[Said]:
    """The packages of the launch are there, in the versions that pyproject.toml asks for."""
    about, good = _project(), []
    wanted = [str(need) for need in about["dependencies"]]
    if place.frozen and not place.nemo_rl:
        wanted += map(str, about.get("optional-dependencies", {}).get("embedded", []))
    for need in wanted:
        match = re.match(r"[\w-]+", need)
        assert match is not None
        name, terms = match[0], need[match.end() :]
        try:
            have = importlib.metadata.version(name)
        except PackageNotFoundError:
            have = "missing"
        if have != "missing" and satisfied(have, terms):
            good.append(f"{name} {have}")
            continue
        yield error(
            f"{name} is {have}",
            f"the project needs {name}{terms}" + (": it uses private parts of it" if "==" in terms else ""),
            f"{sys.executable} -m pip install '{need}'",
        )
    if len(good) == len(wanted):
        yield fine(", ".join(good))


@check()
def config(place: Place) -> Iterator[Said]:
    """What was typed composes, and the site has its own name."""
    if place.refused is not None:
        yield refusal(place.refused)
        return
    site = next((word.partition("=")[2] for word in place.overrides if word.startswith("site=")), None)
    name = place.config.get("site.name")
    if site and name != site and "," not in site:
        yield warning(
            f"conf/site/{site}.yaml calls itself {name}",
            "a file that was copied keeps the name of the one it is from, and that is what runs record",
            f"name: {site} in conf/site/{site}.yaml",
        )
    elif not place.overrides:
        yield fine("the defaults; `nano-exp doctor model=nano_9b cluster=1n8g site=NAME` looks at those runs' place")
    else:
        yield fine(f"{len(place.frozen)} point{'s' if len(place.frozen) != 1 else ''}: {' '.join(place.overrides)}")


@check()
def secrets(place: Place) -> Iterator[Said]:
    """env.yaml is readable, flat and its owner's alone."""
    path = environment.find(Path.cwd())
    yield fine(environment.summary(path, environment.read(path), ()) if path is not None else "no env.yaml")


@check()
def shell_limits(place: Place) -> Iterator[Said]:
    """The shell allows the open files and processes of an engine."""
    said = []
    for name, kind, enough, flag in (
        ("open files", resource.RLIMIT_NOFILE, OPEN_FILES, "n"),
        ("processes", resource.RLIMIT_NPROC, PROCESSES, "u"),
    ):
        soft, hard = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY or soft >= enough:
            said.append(f"{name} {_amount(soft)}")
            continue
        reachable = hard == resource.RLIM_INFINITY or hard >= enough
        if flag == "n" and reachable:  # an attempt raises it by itself, up to the hard limit
            said.append(f"{name} {soft} (attempts raise it: the hard limit is {_amount(hard)})")
            continue
        yield warning(
            f"{name}: {soft} at most (hard limit {_amount(hard)})",
            "Ray and its workers need more, and Slurm hands this shell's limits on to the nodes",
            f"ulimit -{flag} {enough}"
            if reachable
            else f"ask the administrators for {enough}; PropagateResourceLimits=NONE gives jobs the nodes' own limits",
        )
    if said:
        yield fine(", ".join(said))


def _amount(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


@check()
def tmp(place: Place) -> Iterator[Said]:
    """/tmp has room for Ray's private folder."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if place.on_slurm:
        yield fine(f"{folder} has {size(free)} free here; the nodes' own: --on-node")
    elif free < TMP:
        yield warning(
            f"{folder} has {size(free)} free",
            "engines of this machine keep Ray's and torch's files there while they run",
            "TMPDIR=/a/larger/folder (and site.env.RAY_TMPDIR), or free space there",
        )
    else:
        yield fine(f"{folder} has {size(free)} free")


@check()
def notify(place: Place) -> Iterator[Said]:
    """Whoever is to be told of ends can be told (site.notify)."""
    said = list(place.rules("notify_entries", "notify_variables"))
    yield from said or [fine("site.notify has what it needs" if place.site.get("notify") else "nobody is to be told")]


@check()
def wandb(place: Place) -> Iterator[Said]:
    """W&B's key is there where runs are to log online."""
    from nano_exp.preflight import tokens
    from nano_exp.store import trackers

    if place.refused is not None:
        yield skipped("the config does not compose")
        return
    have = {**dict.fromkeys(place.facts.env_names, "in env.yaml"), **place.environ}
    modes = {trackers.wandb_mode(frozen.config, have) for frozen in place.frozen} - {""}
    if not modes:
        yield fine("the runs do not log to W&B")
    elif "online" in modes and not trackers.wandb_key(have):
        yield error(
            "W&B is to log online, and there is no key",
            "each run ends when W&B asks for it",
            "WANDB_API_KEY in env.yaml (chmod 600), or wandb login; or WANDB_MODE=offline and nano-exp sync later",
        )
    else:
        configs = [frozen.config for frozen in place.frozen]
        lines = tokens.lines(configs, place.environ, place.facts.env_names)
        yield fine(next(line for line in lines if line.startswith("WANDB")))
