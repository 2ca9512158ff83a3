"""The points of a launch without launching: overrides expanded and composed as `launch.py -m` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from nano_exp import credentials
from nano_exp.advice import mistakes
from nano_exp.compose import conf_tree, recipe_file, sweep
from nano_exp.compose.compose import TYPED
from nano_exp.compose.freeze import Freezable, Frozen, freeze_all
from nano_exp.errors import UserError
from nano_exp.launch import hydra_plugins


@dataclass
class Expanded:
    """What a launch with these overrides would be about.

    Parameters
    ----------
    frozen: each point, without those that a sweep's constraints leave out
    skipped: those that they leave out
    parameters: hydra.launcher's
    notes: what was chosen for the points, in words
    """

    frozen: list[Frozen] = field(default_factory=list)
    skipped: list[sweep.Skipped] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Composed:
    """What a launch is given: the arguments of `flow.launch`."""

    points: Sequence[Freezable]
    parameters: dict[str, Any]
    folder: Path
    constraints: Sequence[sweep.Constraint] = ()


def expanded(overrides: Sequence[str]) -> Expanded:
    """Every point, composed and frozen.

    Raises
    ------
    UserError: an override that cannot be read, or a point that cannot be composed
    """
    one = composed(overrides)
    frozen, skipped = sweep.split(freeze_all(one.points, one.folder), one.constraints)
    return Expanded(frozen, skipped, one.parameters, [note for point in one.points for note in point.notes])


def composed(overrides: Sequence[str]) -> Composed:
    """What a launch with these overrides would be given.

    Raises
    ------
    UserError: an override that cannot be read, or a point that cannot be composed
    """
    found: list[Composed] = []

    def take(
        points: Sequence[Freezable],
        parameters: dict[str, Any],
        folder: Path,
        constraints: Sequence[sweep.Constraint] = (),
    ) -> None:
        found.append(Composed(points, parameters, folder, constraints))

    credentials.refuse_overrides(overrides)
    recipe_file.register(overrides, conf_tree.CONF_DIR)
    hydra_plugins.register(take)
    with conf_tree.loader() as loader:
        try:
            master = loader.load_configuration(conf_tree.CONFIG_NAME, list(overrides), run_mode=RunMode.MULTIRUN)
            sweeper = Plugins.instance().instantiate_sweeper(
                config=master, hydra_context=HydraContext(loader, cast(Any, None)), task_function=lambda _: None
            )
            if not isinstance(sweeper, hydra_plugins.NanoExpSweeper):
                raise UserError(
                    "hydra/sweeper=optuna",
                    "a search's points follow from the results of the ones before: there is no list of them",
                    "leave hydra/sweeper out, and give one value for each key",
                )
            parser = OverridesParser.create(config_loader=loader)
            sweep_overrides = parser.parse_overrides([f"{key}={value}" for key, value in sweeper.params.items()])
            typed = parser.parse_overrides(conf_tree.typed(master))
        except TYPED as error:
            raise _user_error(error) or mistakes.explain(error, loader, overrides) from error
        sweeper.points.launch(hydra_plugins.expand(sweep_overrides, typed), 0)
    return found[0]


def _user_error(error: BaseException) -> UserError | None:
    """A mistake in words that Hydra wrapped in an exception of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    return cause
