"""What hydra/sweeper=optuna is asked for, and what of it cannot be: refused before anything is launched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from nano_exp.compose.freeze import Frozen
from nano_exp.compose.sweep import Sweep
from nano_exp.errors import UserError
from nano_exp.launch import search_space
from nano_exp.launch.search_draw import Wanted
from nano_exp.launch.terms import AUTO
from nano_exp.preflight.studies import VALIDATES, not_logged
from nano_exp.preflight.view import View
from nano_exp.study import halving
from nano_exp.text import as_typed

DIRECTIONS = ("maximize", "minimize")
#: Terms of a launch of many runs that say nothing of a search, whose points are launched one by one.
NO_TERMS = {
    "parallel": "hydra.sweeper.n_jobs=N runs at once",
    "pack": "leave pack out",
    "fail_fast": "leave fail_fast out",
    "canary": "leave canary out",
    "after_training": "leave it out; then nano-exp export RUN of the best one",
}


def read(given: dict[str, Any], overrides: Iterable[Override], settings: Sweep) -> Wanted:
    """The search of a command.

    Parameters
    ----------
    given: the sweeper's settings, `hydra.sweeper`

    Raises
    ------
    UserError: one of them cannot be
    """
    for key in ("storage", "study_name"):
        if given.get(key) is not None:
            raise UserError(
                f"hydra.sweeper.{key}={given[key]}",
                "the runs of the name are the study: the same command goes on with them",
                f"leave hydra.sweeper.{key} out; run.name=NAME is another study",
            )
    direction = str(given["direction"])
    if direction not in DIRECTIONS:
        raise UserError(
            f"hydra.sweeper.direction={direction}",
            "a search has one metric, and wants it large or small",
            " or ".join(f"hydra.sweeper.direction={one}" for one in DIRECTIONS),
        )
    n_trials, n_jobs = (search_space.count(key, given[key]) for key in ("n_trials", "n_jobs"))
    space = search_space.read(overrides)
    return Wanted(space, search_space.sampler(given["sampler"], space), direction, n_trials, n_jobs, settings)


def require_results(config: DictConfig) -> None:
    """Raises UserError where a launch would return before there are results."""
    for switch, required in (("dry_run", False), ("submit", True), ("fresh", False)):
        if config.get(switch, required) is not required:
            why = "its points follow from the results of the ones before"
            fix = f"leave {switch} out; or leave hydra/sweeper out and give one value for each key"
            if switch == "fresh":
                why, fix = "the runs of the name are its trials", "run.name=ANOTHER, which begins with none"
            raise UserError(f"{switch}={str(not required).lower()} with a search", why, fix)
    if config.wait is not True and config.slurm.where != "local":
        raise UserError(
            f"a search with wait={str(config.wait).lower()}",
            "it chooses points by the results of the ones before, so it has to wait for them",
            "wait=true",
        )


def require(first: Frozen, wanted: Wanted) -> None:
    """Refuse what the config of all points does not go with.

    Parameters
    ----------
    first: one of the points

    Raises
    ------
    UserError: terms of a sweep; another metric or direction than the rungs have; a metric that nobody logs
    """
    for key, fix in NO_TERMS.items():
        if first.config.get(key) not in (None, [], False, AUTO):
            value = as_typed(first.config[key])
            raise UserError(f"{key}={value} with a search", "its points are launched one by one", fix)
    metric = wanted.settings.metric
    rules = halving.of(first.config.get("halving"))
    if rules is not None and rules.metric != metric:
        raise UserError(
            f"sweep.metric={metric} and halving.metric={rules.metric}",
            "a trial that ends at a rung is compared with those that are done, by the same metric",
            f"sweep.metric={rules.metric}, or halving.metric={metric}",
        )
    if rules is not None and rules.higher_is_better != (wanted.direction == "maximize"):
        higher = str(rules.higher_is_better).lower()
        raise UserError(
            f"hydra.sweeper.direction={wanted.direction} and halving.higher_is_better={higher}",
            "the rungs would keep what the search looks away from",
            f"halving.higher_is_better={str(not rules.higher_is_better).lower()}, or hydra.sweeper.direction="
            + DIRECTIONS[not rules.higher_is_better],
        )
    if (unlogged := not_logged(View(first.config), metric)) is not None:
        why, instead = unlogged
        raise UserError(f"sweep.metric={metric}", why, f"sweep.metric={instead}" if instead else VALIDATES)
