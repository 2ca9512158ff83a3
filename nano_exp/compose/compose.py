"""From overrides to one composed config.

Composing is Hydra's; this module adds the check that Hydra leaves out: a (model, cluster) pair without a published
recipe. `nano_exp.advice.mistakes` has the words for what cannot be composed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nano_exp import credentials, project
from nano_exp.compose import freeze, launcher_settings, nearest, recipe_file, resolving
from nano_exp.compose.conf_tree import CONF_DIR, plain, raw, typed
from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions
from nano_exp.overrides import Override
from nano_exp.store import axes


def compose(config_loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    """Compose one point exactly as Hydra does, without the `hydra` node; unresolved.

    Raises
    ------
    UserError: the (model, cluster) pair has no published recipe
    HydraException, OmegaConfBaseException: as Hydra raises them; `mistakes.explain` turns them into a UserError
    """
    return point(overrides, _whole(config_loader, overrides)).cfg


def _whole(config_loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    recipe_file.register(overrides, CONF_DIR)
    return plain(config_loader, overrides)


def without_launch(cfg: DictConfig) -> DictConfig:
    """What a composed config says about its run: without `hydra` and `sweep`, which are of the launch.

    Raises
    ------
    UserError: the (model, cluster) pair has no published recipe
    """
    choices = dict(cfg.hydra.runtime.choices)
    training_cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "sweep")])
    OmegaConf.set_struct(training_cfg, True)
    _require_named_recipe(training_cfg, choices.get("recipe"), str(choices.get("nemo_rl")))
    _require_layout(choices)
    model = str(choices.get("model")) if _is_typed(cfg, "model") else None
    require_recipe(training_cfg, model, str(choices.get("cluster")), str(choices.get("nemo_rl")))
    return training_cfg


def _require_layout(choices: Mapping[str, Any]) -> None:
    """A layout of conf/parallelism cuts NeMo RL's models; nothing of the embedded engine reads it."""
    layout = choices.get("parallelism")
    if str(choices.get("engine")).startswith("embedded") and layout not in ("published", "auto", None):
        raise UserError(
            f"parallelism={layout} with engine=embedded",
            "the embedded engine trains in one process, so that there is nothing to lay out",
            "leave parallelism= out, or name a model of NeMo RL's: model=nano_9b cluster=1n8g",
        )


def _is_typed(cfg: DictConfig, group: str) -> bool:
    return any(Override.parse(word).key == group for word in typed(cfg))


def _require_named_recipe(cfg: DictConfig, name: str | None, version: str) -> None:
    if name is None or cfg.nemo_rl.recipe is not None:
        return
    there = project.glob(CONF_DIR / "nemo_rl", f"*/recipes/{name}.yaml")
    have = sorted((path.parent.parent.name for path in there), key=versions.age)
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
    if model is None:
        models = sorted(p.stem for p in project.glob(CONF_DIR / "model", "*.yaml"))
        published = [(m, cluster) for m in models if nearest.has_recipe(version, m, cluster)]
        raise UserError(
            f"cluster={cluster} and no model=",
            "without model= the tiny model is trained, and it has no recipe for that cluster",
            f"one of these: {', '.join(_typed(published or nearest.recipes(version)))}",
        )
    why, fix = _without_recipe(model, cluster, version)
    raise UserError(f"model={model} with cluster={cluster} has no recipe in {CONF_DIR}/nemo_rl/{version}", why, fix)


def _without_recipe(model: str, cluster: str, version: str) -> tuple[str, str]:
    """Why a model has no recipe on a cluster, not even a near one, and what has."""
    published = _typed((model, c) for m, c in nearest.recipes(version) if m == nearest.source(model))
    if published:
        is_local = "it needs a Slurm cluster" if cluster == "local" else "no recipe of that shape is published"
        return is_local, " or ".join(published)
    others = [v for v in versions.options(CONF_DIR / "nemo_rl") if nearest.has_recipe(v, model, cluster)]
    if others:
        return "that version has no recipe of this model", " or ".join(f"nemo_rl={other}" for other in others)
    return "none is published for this model, and its file names no other one to start from", name_a_source(model)


def name_a_source(model: str) -> str:
    """What to write into a file of conf/model that has no recipes of its own."""
    return (
        f"`{nearest.SOURCE_KEY}: nano_9b` (or another model with recipes) below `model:` in "
        f"{project.at(CONF_DIR / 'model' / f'{model}.yaml')}, beside its hf_id"
    )


def _typed(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"model={model} cluster={cluster}" for model, cluster in pairs]


@dataclass(frozen=True)
class Point:
    """One point of a launch.

    Parameters
    ----------
    overrides: as typed
    cfg: composed, unresolved
    notes: what was chosen for it, a line each (parallelism=auto, a recipe of another shape)
    choices: group -> its option, typed or not; of groups that say what a run computes
    """

    overrides: tuple[str, ...]
    cfg: DictConfig
    notes: tuple[str, ...] = ()
    choices: Mapping[str, str | None] = field(default_factory=dict)

    def resolve(self) -> freeze.Resolved:
        """As `freeze.Freezable` says."""
        credentials.refuse_overrides(self.overrides)
        plain_config = raw(self.cfg)
        credentials.refuse(plain_config)
        launcher_settings.require(plain_config)  # before what reads a value of another kind cannot be computed
        config = resolving.resolve(self.cfg)
        credentials.refuse(config)  # again: a variable with a harmless name may have held one
        return freeze.Resolved(self.overrides, config, self.choices)


def point(overrides: Sequence[str], whole: DictConfig) -> Point:
    """A point from what Hydra composed, its own node among it.

    Raises
    ------
    UserError: the (model, cluster) pair has no published recipe
    """
    choices = {
        group: option
        for group, option in whole.hydra.runtime.choices.items()
        if axes.of_the_run(group) and "@" not in group
    }
    recipe = nearest.note(whole.hydra.runtime.choices)
    return Point(tuple(overrides), without_launch(whole), (recipe,) if recipe else (), choices)


#: What Hydra and OmegaConf raise where they do not expect what was typed.
TYPED = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, LookupError, AssertionError)


class Uncomposable(Exception):
    """A point that cannot be composed: its overrides, and what Hydra or OmegaConf raised as the cause."""

    def __init__(self, overrides: Sequence[str], cause: Exception) -> None:
        super().__init__(f"{' '.join(overrides)}: {cause}")
        self.overrides, self.cause = tuple(overrides), cause


def compose_point(config_loader: ConfigLoader, overrides: Sequence[str], words: Sequence[str] | None = None) -> Point:
    """Compose one point.

    Parameters
    ----------
    overrides: as typed
    words: what is composed in their place, where that is something else

    Raises
    ------
    UserError: a recipe file that cannot be used, or a (model, cluster) pair without a recipe
    Uncomposable: anything else
    """
    try:
        return point(overrides, _whole(config_loader, overrides if words is None else words))
    except TYPED as error:
        raise Uncomposable(overrides, error) from error
