"""From overrides to one composed config.

Composing is Hydra's; this module adds the check that Hydra leaves out: a (model, cluster) pair without a published
recipe. `nano_exp.mistakes` has the words for what cannot be composed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nano_exp import axes, resolvers
from nano_exp.errors import UserError
from nano_exp.recipes import own

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
CONFIG_NAME = "config"


@contextmanager
def loader(conf_dir: Path = CONF_DIR) -> Iterator[ConfigLoader]:
    """Hydra's loader over the project's conf tree, for use outside `python launch.py`."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if not (conf_dir / f"{CONFIG_NAME}.yaml").is_file():
        raise UserError(
            f"no {CONFIG_NAME}.yaml in {conf_dir}",
            "the config tree of the project is what commands compose from",
            "run from a checkout of the project that is installed with `pip install -e .`",
        )
    resolvers.register()
    with initialize_config_dir(config_dir=str(conf_dir), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


@contextmanager
def at_hand() -> Iterator[ConfigLoader]:
    """The loader that this process composes with, or else one of its own: Hydra has one at a time."""
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        yield GlobalHydra.instance().config_loader()
        return
    with loader() as made:
        yield made


def compose(config_loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    """Compose one point exactly as Hydra does, without the `hydra` node; unresolved.

    Raises
    ------
    UserError: the (model, cluster) pair has no published recipe
    HydraException, OmegaConfBaseException: as Hydra raises them; `mistakes.explain` turns them into a UserError
    """
    return point(overrides, _whole(config_loader, overrides)).cfg


def _whole(config_loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    own.register(overrides, CONF_DIR)
    return plain(config_loader, overrides)


def without_launch(cfg: DictConfig) -> DictConfig:
    """What a composed config says about its run: without `hydra` and `sweep`, which are of the launch.

    Raises
    ------
    UserError: the (model, cluster) pair has no published recipe
    """
    choices = dict(cfg.hydra.runtime.choices)
    kept = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "sweep")])
    OmegaConf.set_struct(kept, True)
    _require_named_recipe(kept, choices.get("recipe"), str(choices.get("nemo_rl")))
    _require_layout(choices)
    model = str(choices.get("model")) if _is_typed(cfg, "model") else None
    require_recipe(kept, model, str(choices.get("cluster")), str(choices.get("nemo_rl")))
    return kept


def _require_layout(choices: Mapping[str, Any]) -> None:
    """A layout of conf/parallelism cuts NeMo RL's models; nothing of the embedded engine reads it."""
    layout = choices.get("parallelism")
    if choices.get("engine") == "embedded" and layout not in ("published", "auto", None):
        raise UserError(
            f"parallelism={layout} with engine=embedded",
            "the embedded engine trains in one process, so that there is nothing to lay out",
            "leave parallelism= out, or name a model of NeMo RL's: model=nano_9b cluster=1n8g",
        )


def _is_typed(cfg: DictConfig, group: str) -> bool:
    return any(override.lstrip("+").partition("=")[0] == group for override in typed(cfg))


def plain(config_loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, as it is."""
    resolvers.register()
    # `from_shell=False` lets the literal values of already split sweeps through, as Hydra does for its own jobs.
    return config_loader.load_configuration(CONFIG_NAME, list(overrides), run_mode=RunMode.RUN, from_shell=False)


def recipes(version: str, conf_dir: Path = CONF_DIR) -> list[tuple[str, str]]:
    """The (model, cluster) pairs that have a recipe at a version of conf/nemo_rl, sorted."""
    models = {p.stem for p in (conf_dir / "model").glob("*.yaml")}
    clusters = {p.stem for p in (conf_dir / "cluster").glob("*.yaml")}
    found = {p.stem for p in (conf_dir / "nemo_rl" / version).glob("*.yaml")}
    return sorted((m, c) for m in models for c in clusters if f"{m}_{c}" in found)


def _require_named_recipe(cfg: DictConfig, name: str | None, version: str) -> None:
    if name is None or cfg.nemo_rl.recipe is not None:
        return
    have = sorted(p.parent.parent.name for p in (CONF_DIR / "nemo_rl").glob(f"*/recipes/{name}.yaml"))
    raise UserError(
        f"recipe={name} with nemo_rl={version}",
        "that version has no such recipe",
        " or ".join(f"nemo_rl={option} recipe={name}" for option in have) or "leave recipe= out",
    )


def require_recipe(cfg: DictConfig, model: str | None, cluster: str, version: str) -> None:
    """The defaults list takes the recipe as optional (a sweep's master has none), so its absence is found here.

    Parameters
    ----------
    model: None where it was not typed: then it is the cluster that is meant
    """
    if OmegaConf.select(cfg, "nemo_rl.recipe", default=None) is not None:
        return
    pairs = recipes(version)
    if model is None:
        of_cluster = [f"model={m} cluster={c}" for m, c in pairs if c == cluster]
        raise UserError(
            f"cluster={cluster} and no model=",
            "without model= it is the tiny model, which has no recipe of that shape",
            f"one of these: {', '.join(of_cluster or [f'model={m} cluster={c}' for m, c in pairs])}",
        )
    clusters = [c for m, c in pairs if m == model]
    if clusters:
        fix = " or ".join(f"model={model} cluster={c}" for c in clusters)
    else:
        fix = "one of: " + ", ".join(f"model={m} cluster={c}" for m, c in pairs)
    needs = "it needs a Slurm cluster" if cluster == "local" else "no recipe of that shape is published"
    raise UserError(f"model={model} with cluster={cluster} has no recipe in {CONF_DIR}/nemo_rl/{version}", needs, fix)


def choices_of(override: Override) -> list[Any]:
    """The values of an override: one, or each choice of a sweep."""
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [v.strip("'\"") if isinstance(v, str) else v for v in override.sweep_string_iterator()]
    return [override.value()]


def raw(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain data with interpolations left as text."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def typed(master: DictConfig) -> list[str]:
    """The overrides as typed, from Hydra's own config, to which an interpolation in one of them is one to resolve."""
    return cast(list[str], OmegaConf.to_container(master.hydra.overrides.task, resolve=False))


@dataclass(frozen=True)
class Point:
    """One point of a launch.

    Parameters
    ----------
    overrides: as typed
    cfg: composed, unresolved
    note: what was chosen for it (parallelism=auto)
    choices: group -> its option, typed or not; of groups that say what a run computes
    """

    overrides: tuple[str, ...]
    cfg: DictConfig
    note: str = ""
    choices: Mapping[str, str | None] = field(default_factory=dict)


def point(overrides: Sequence[str], whole: DictConfig, note: str = "") -> Point:
    """A point from what Hydra composed, its own node among it.

    Raises
    ------
    UserError: the (model, cluster) pair has no published recipe
    """
    chosen = {
        group: option
        for group, option in whole.hydra.runtime.choices.items()
        if axes.of_the_run(group) and "@" not in group
    }
    return Point(tuple(overrides), without_launch(whole), note, chosen)


def compose_points(config_loader: ConfigLoader, overrides: Sequence[Sequence[str]]) -> list[Point]:
    """Compose every point of a launch.

    Raises
    ------
    UserError: the first point that cannot be composed, explained
    """
    from nano_exp import mistakes  # they compose too
    from nano_exp.planner import auto

    points = []
    for one in overrides:
        try:
            words, note = auto.expand(config_loader, one) if auto.asked(one) else (one, "")
            points.append(point(one, _whole(config_loader, words), note))
        except mistakes.TYPED as error:
            raise mistakes.explain(error, config_loader, one) from error
    return points
