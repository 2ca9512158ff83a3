"""Which recipe a model starts from on a shape: its published one, or else the nearest.

conf/config.yaml's defaults list asks, through the resolvers below, so that the answer is the same for a launch, each
point of a sweep, --cfg and Tab. They answer with an option's name, whether or not there is a file of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp import files, project
from nano_exp.compose import BASE, CONF_DIR

#: The key of a model's file that names the model whose recipes and data it starts from.
SOURCE_KEY = "recipes_of"
_RECIPE_CHOICE = "nemo_rl@_global_"


def recipe_of(version: str, model: str, cluster: str) -> str:
    """The option of conf/nemo_rl for a model on a shape.

    Returns
    -------
    v0_7/nano_12b_2n8g for nano_12b on 4n8g: the published recipe of the most nodes that are not more than the shape's,
    of the model or of the one that its file names; <version>/<model>_<cluster> where there is none
    """
    exact = f"{version}/{model}_{cluster}"
    if _file(f"nemo_rl/{exact}") is not None:
        return exact
    nearest = _nearest(version, source(model), cluster) if _facts(model).get("hf_id") else None
    return f"{version}/{nearest}" if nearest else exact


def has_recipe(version: str, model: str, cluster: str) -> bool:
    """Whether there is an option of that name."""
    return _file(f"nemo_rl/{recipe_of(version, model, cluster)}") is not None


def recipes(version: str, conf_dir: Path = CONF_DIR) -> list[tuple[str, str]]:
    """The (model, cluster) pairs that have a recipe at a version of conf/nemo_rl, sorted."""
    models = {p.stem for p in project.glob(conf_dir / "model", "*.yaml")}
    clusters = {p.stem for p in project.glob(conf_dir / "cluster", "*.yaml")}
    pairs = {p.stem for p in project.glob(conf_dir / "nemo_rl" / version, "*.yaml")}
    return sorted((m, c) for m in models for c in clusters if f"{m}_{c}" in pairs)


def source(model: str) -> str:
    """The model whose recipes a model starts from: its own, unless its file names another one."""
    return str(_facts(model).get(SOURCE_KEY) or model)


def data_of(version: str, model: str, cluster: str) -> str:
    """The option of conf/data that the recipe of a model on a shape trains on: its own, else the model's."""
    names = (Path(recipe_of(version, model, cluster)).name, model)
    return next((f"default/{name}" for name in names if _file(f"data/default/{name}")), f"default/{source(model)}")


def has_data(model: str) -> bool:
    """Whether a model has data to train on."""
    return any(_file(f"data/default/{name}") is not None for name in (model, source(model)))


def weights_of(model: str) -> str:
    """The option of conf/model/weights: `own` for a model that starts from another one's recipe."""
    return "own" if source(model) != model else "published"


#: What interpolations of the defaults list call.
RESOLVERS = (recipe_of, data_of, weights_of)


def note(choices: Mapping[str, Any]) -> str:
    """In a line, what a composed recipe has of the choices that its published one has not; "" where it is that one.

    Parameters
    ----------
    choices: Hydra's record of them
    """
    version, model, cluster = (str(choices.get(group)) for group in ("nemo_rl", "model", "cluster"))
    recipe = str(choices.get(_RECIPE_CHOICE))
    published = recipe.removeprefix(f"{version}/")
    if not recipe.startswith(f"{version}/") or published == f"{model}_{cluster}":
        return ""
    their_model, _, their_cluster = published.rpartition("_")
    other = [f"the weights of {model}"] if their_model != model else []
    other += [f"num_nodes and gpus_per_node of {cluster}"] if their_cluster != cluster else []
    return f"recipe: {their_model}'s of {their_cluster}, with {' and '.join(other)}"


def _nearest(version: str, model: str, cluster: str) -> str | None:
    shape = _shape(cluster)
    if shape is None:
        return None
    fitting = [
        (other_shape[0], -abs(other_shape[1] - shape[1]), name)
        for other in options("cluster")
        if _file(f"nemo_rl/{version}/{(name := f'{model}_{other}')}") is not None
        and (other_shape := _shape(other)) is not None
        and other_shape[0] <= shape[0]
    ]
    return max(fitting)[2] if fitting else None


def _shape(cluster: str) -> tuple[int, int] | None:
    """Nodes and GPUs of each, as an option of conf/cluster has them; None where it lacks one, or is not a cluster's."""
    option = _load(f"cluster/{cluster}")
    section = option.get("cluster", option)
    if not isinstance(section, Mapping) or (option.get("slurm") or {}).get("where") == "local":
        return None
    nodes, gpus = section.get("num_nodes"), section.get("gpus_per_node")
    return (nodes, gpus) if isinstance(nodes, int) and isinstance(gpus, int) else None


def _facts(model: str) -> Mapping[str, Any]:
    facts = _load(f"model/{model}").get("model")
    return facts if isinstance(facts, Mapping) else {}


def folders() -> list[Path]:
    """Where Hydra looks for files: the conf tree it composes, and what hydra.searchpath adds; else the project's."""
    searched: list[str] = []
    if "hydra" in sys.modules:  # it is not loaded for this
        from hydra.core.global_hydra import GlobalHydra

        hydra = GlobalHydra.instance().hydra
        paths = hydra.config_loader.get_search_path().get_path() if hydra is not None else []
        searched = [path for p in paths if "://" not in (path := p.path.removeprefix("file://"))]
    return [Path(folder) for folder in searched] or own_folders()


def own_folders() -> list[Path]:
    """Where a project looks for options, whatever Hydra is told besides: in its own conf/, then in nano-exp's."""
    return list(dict.fromkeys((CONF_DIR, BASE)))


def _file(option: str) -> Path | None:
    return next((path for folder in folders() if (path := folder / f"{option}.yaml").is_file()), None)


def options(group: str) -> list[str]:
    """Those of a group that are files right below it."""
    return sorted({path.stem for folder in folders() for path in (folder / group).glob("*.yaml")})


def _load(option: str) -> dict[str, Any]:
    """An option as its file has it; {} where there is none that can be read: Hydra reads it too, and says so."""
    file = _file(option)
    try:
        content = files.read_yaml(file) if file is not None else None
    except files.Damaged:
        return {}
    return content if isinstance(content, dict) else {}
