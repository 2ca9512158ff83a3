"""A model of the user's own: from its config.json to a file of conf/model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files, project
from nano_exp.compose.nearest import SOURCE_KEY, recipes
from nano_exp.errors import UserError, nearest
from nano_exp.layout import architecture, parameters
from nano_exp.layout.architecture import ATTENTION, MLP, MOE, Architecture
from nano_exp.nemo_rl import versions

#: config.json's keys that published files of conf/model do not have, and that `architecture.parse` reads.
_MORE_KEYS = ("chunk_size", "use_bias")
_HEAD = """\
# @package _global_
# Written by `nano-exp model add` from {path}.
"""


@dataclass(frozen=True)
class Added:
    """A file of conf/model, not written yet.

    Parameters
    ----------
    name: the option: model=<name>
    source: the model whose published recipes and data it starts from
    """

    name: str
    source: str
    architecture: Architecture
    text: str


def read(path: Path, conf: Path, name: str | None = None, weights: str | None = None, like: str | None = None) -> Added:
    """Read a config.json, or the folder that has one.

    Parameters
    ----------
    name: the option's; default: from the folder's name
    weights: a name on the hub or a folder; default: the folder itself, or the name that its path or config.json tells
    like: the model whose recipes it starts from; default: the nearest in size among those of its kind

    Raises
    ------
    UserError: a config.json that cannot be used, a name that is taken, weights that are not known
    """
    file = (path / "config.json" if path.is_dir() else path).absolute()
    read_architecture = architecture.from_file(file)
    values = files.read_json(file)
    option = name or _option(_hub_name(file) or file.parent.name)
    if not re.fullmatch(r"[a-z]\w*", option):
        raise UserError(
            f"a model called {option!r}",
            "it becomes an option of the group model: a small letter, then letters, digits or _",
            f"nano-exp model add {path} --name my_model",
        )
    if (there := project.at(conf / "model" / f"{option}.yaml")).exists():
        raise UserError(
            f"{there} is there already",
            "a file of conf/model is not overwritten: frozen runs were made from it",
            f"nano-exp model add {path} --name {option}_2",
        )
    known = _published(conf)
    source = like or _most_alike(read_architecture, known)
    if source not in known:
        raise UserError(
            f"--like {source}",
            f"these models have published recipes: {', '.join(known)}",
            " or ".join(f"--like {one}" for one in nearest(source, known) or known),
        )
    facts = {
        "name": option,
        "hf_id": weights or _weights(file, values, path),
        SOURCE_KEY: source,
        "total_parameters": parameters.total(read_architecture).total,
        **_sizes(values, read_architecture, known),
        "tool_parser": known[source]["tool_parser"],
    }
    return Added(option, source, read_architecture, _HEAD.format(path=file) + files.dump_yaml({"model": facts}))


def write(added: Added, conf: Path) -> Path:
    """Write the file. Returns where."""
    file = conf / "model" / f"{added.name}.yaml"
    files.make_dir(file.parent)
    files.write_text(file, added.text)
    return file


def _published(conf: Path) -> dict[str, Mapping[str, Any]]:
    """The models with published recipes at any version, and their facts; without the tiny one, which has no weights."""
    models = {model for version in versions.options(conf / "nemo_rl") for model, _ in recipes(version, conf)}
    facts = {model: files.read_yaml(project.at(conf / "model" / f"{model}.yaml"))["model"] for model in sorted(models)}
    return {model: fact for model, fact in facts.items() if fact.get("hf_id")}


def _most_alike(a: Architecture, known: Mapping[str, Mapping[str, Any]]) -> str:
    """The nearest in size, of those with experts or of those without."""

    def distance(model: str) -> tuple[bool, float]:
        other = architecture.from_facts(known[model])
        ratio = parameters.total(a).total / parameters.total(other).total
        return (MOE in a.layers) != (MOE in other.layers), abs(math.log(ratio))

    return min(known, key=distance)


def _sizes(values: Mapping[str, Any], a: Architecture, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """config.json's keys that conf/model has; the layers' letters for a hybrid however its config.json writes them."""
    keys = dict.fromkeys(key for facts in known.values() for key in facts)
    sizes = {key: values[key] for key in (*keys, *_MORE_KEYS) if values.get(key) is not None}
    if set(a.layers) <= {ATTENTION, MLP}:
        return sizes
    return {**sizes, "num_hidden_layers": len(a.layers), "hybrid_override_pattern": a.layers}


def _option(name: str) -> str:
    return re.sub(r"\W+", "_", name.rpartition("/")[2]).strip("_").lower()


def _hub_name(file: Path) -> str | None:
    """owner/name of a file in the hub's cache: .../models--owner--name/snapshots/<hash>/config.json."""
    match = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/", str(file))
    return "/".join(match.groups()) if match else None


def _weights(file: Path, values: Mapping[str, Any], path: Path) -> str:
    if hub := _hub_name(file):
        return hub
    if any(file.parent.glob("*.safetensors")):
        return str(file.parent)
    name = str(values.get("_name_or_path") or "")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    raise UserError(
        f"{file} does not say which weights it is of",
        f"there is no .safetensors beside it, and its _name_or_path is {name or 'not there'}",
        f"nano-exp model add {path} --weights owner/name (on the hub), or --weights /folder/with/the/weights",
    )
