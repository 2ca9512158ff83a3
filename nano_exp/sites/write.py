"""A site's file: its keys with how each is known, and those that are still to be filled in."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError, nearest
from nano_exp.sites.propose import Key, Proposal

NAME = re.compile(r"[A-Za-z][\w-]*")
#: Values of conf/site/default.yaml that need no line.
_PLAIN: dict[str, Any] = {"modules": [], "env": {}, "entry": None}


def require_name(name: str) -> str:
    """Raises UserError for what is no name of a file or of an option of Hydra's."""
    if not NAME.fullmatch(name) or name in ("default", "null"):
        raise UserError(
            f"site init {name}",
            "a site's name is a file's and stands in site=NAME: letters, digits, _ and -, a letter first; default is "
            "the file that all start from",
            "nano-exp site init mysite",
        )
    return name


def given(words: list[str], default: Path) -> dict[str, Any]:
    """`--set key=value`, each a key of conf/site/default.yaml.

    Raises
    ------
    UserError: no such key, or a value that is not YAML
    """
    known = files.read_yaml(default)
    keys = [key for key in known if key not in ("name", "container")]
    keys += [f"container.{name}" for name in known["container"]]
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.removeprefix("site.").partition("=")
        if not equals or key not in keys:
            near = nearest(key, keys)
            raise UserError(
                f"--set {word}",
                "it takes KEY=VALUE with a key of conf/site/default.yaml",
                f"--set {near[0]}=..." if near and equals else f"--set partition=NAME; {default} has every key",
            )
        values[key] = parsed(text)
    return values


def parsed(text: str) -> Any:
    """A value as YAML reads it; text where it is none."""
    import yaml

    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return text


def text(made: Proposal) -> str:
    """The file."""
    lines = [
        f"# Site {made.name}: `nano-exp site init` wrote it on {time.strftime('%Y-%m-%d')} from what the cluster says.",
        "# Every key: conf/site/default.yaml; examples: docs/sites.md. Lines of null only say what was seen.",
        "defaults:",
        "  - default",
        f"name: {made.name}",
    ]
    in_container: list[str] = []
    for name, key in made.keys.items():
        section, _, leaf = name.rpartition(".")
        if key.value == _PLAIN.get(name) and not key.ask and not key.how:
            continue
        if section:
            in_container.append("  " + _line(leaf, key))
        else:
            lines.append(_line(name, key))
    at = next((i for i, line in enumerate(lines) if line.lstrip("# ").startswith("entry:")), len(lines) - 1)
    if any(not line.lstrip().startswith("#") for line in in_container):
        in_container.insert(0, "container:")
    lines[at + 1 : at + 1] = in_container
    return "\n".join(lines) + "\n"


def _line(name: str, key: Key) -> str:
    value = files.dump_yaml({name: key.value}).rstrip() if not isinstance(key.value, dict | list) else _flow(name, key)
    missing = "FILL IN: " if key.ask and key.value is None else ""
    comment = f"  # {missing}{key.how}" if key.how or missing else ""
    return ("# " if key.value is None else "") + value + comment


def _flow(name: str, key: Key) -> str:
    import yaml

    flow = yaml.safe_dump(key.value, default_flow_style=True, width=1000).strip()
    return f"{name}: {flow}"


def path_of(name: str, sites: Path, force: bool) -> Path:
    """Where a site's file goes. Raises UserError where one is and may not be replaced."""
    path = sites / f"{name}.yaml"
    if path.exists() and not force:
        raise UserError(
            f"{path} is there",
            "it may have what you wrote by hand, and would be lost",
            f"nano-exp site init {name} --force replaces it, --print only shows; or site init {name}2, another",
        )
    return path
