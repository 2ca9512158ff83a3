"""The Hydra launcher and sweeper: where composing ends and launching begins.

Hydra's own sweeper composes every point, throws the result away and writes folders even for a dry run;
hydra-submitit-launcher pickles, waits for the jobs and composes again on the node. These two expand, compose once, and
hand over to `launch`.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nano_exp import project
from nano_exp.advice import mistakes
from nano_exp.compose import conf_tree, launcher_settings, quick, sweep
from nano_exp.errors import UserError
from nano_exp.launch import slurm_options
from nano_exp.planner import auto

PLUGIN_MODULE = "hydra_plugins.nano_exp"


class NanoExpLauncher(Launcher):
    """Freezes, plans and submits all points at once.

    Parameters
    ----------
    take: `flow.launch`, or what another entry does with the points
    parameters: hydra-submitit-launcher's
    """

    def __init__(self, take: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
        self.take = take
        self.parameters = {
            k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in parameters.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.master = hydra_context.config_loader, config
        if not str(config.hydra.sweeper._target_).startswith(f"{PLUGIN_MODULE}."):
            raise UserError(
                f"hydra/sweeper={config.hydra.runtime.choices['hydra/sweeper']}",
                "launches go through nano-exp's own sweepers",
                "hydra/sweeper=optuna for a search; else leave hydra/sweeper out",
            )
        self.sweep = sweep.read(conf_tree.raw(config.sweep) if config.get("sweep") is not None else None)
        typed = OverridesParser.create(config_loader=self.loader).parse_overrides(conf_tree.typed(config))
        slurm_options.refuse_typed(list(config.hydra.overrides.hydra))
        refuse_several_sweeps(self.loader, typed)
        refuse_swept_site(typed)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        with mistakes.explained(self.loader):
            points = auto.compose_points(self.loader, job_overrides, self.master)
        if len(job_overrides) <= quick.MOST and not self.master.hydra.sweeper.get("params"):
            quick.keep(self.loader, job_overrides[0])
        self.take(points, self.parameters, Path.cwd(), self.sweep.constraints)
        return []


class _OurSweeper(Sweeper):
    """What both sweepers have: the axes of a sweep's file, and our launcher."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.master: DictConfig = config
        self.refuse_mistakes(config)
        try:
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        except (OmegaConfBaseException, InstantiationException) as error:
            mistyped = next(mistakes.diagnose(self.loader, conf_tree.typed(config)), None)
            raise mistyped or UserError(
                f"hydra.launcher: {str(error).splitlines()[0]}",
                "what is asked of Slurm reads the site's settings",
                f"{project.launcher()} --cfg hydra --package hydra.launcher shows what it reads",
            ) from error
        if not isinstance(launcher, NanoExpLauncher):
            raise not_our_path()
        self.points = launcher

    def refuse_mistakes(self, config: DictConfig) -> None:
        """Refuse what is better said before the batch script's settings are computed, and an axis is cut into points:
        values of another kind, and axes over a key that there is not."""
        typed = conf_tree.typed(config)
        try:
            has_recipe = OmegaConf.select(config, "nemo_rl.recipe", default=None) is not None
            launcher_settings.require(conf_tree.raw(config), whole=has_recipe)
        except UserError as error:
            raise next(mistakes.diagnose(self.loader, typed), None) or error from error
        groups = self.loader.list_groups("")
        for override in OverridesParser.create(config_loader=self.loader).parse_overrides(typed):
            key = override.key_or_group
            if override.is_sweep_override() and not override.is_add() and not override.is_force_add():
                known = key.split("/")[0].split("@")[0] in groups or not _missing(config, key)
                if not known and (mistyped := next(mistakes.diagnose(self.loader, typed), None)):
                    raise mistyped

    def parsed(self, arguments: Sequence[str]) -> tuple[list[Override], list[Override]]:
        """The overrides of the sweep's file, and those that were typed."""
        parser = OverridesParser.create(config_loader=self.loader)
        of_file = parser.parse_overrides([f"{key}={value}" for key, value in self.params.items()])
        return of_file, parser.parse_overrides(list(arguments))


class NanoExpSweeper(_OurSweeper):
    """Expands the axes of a sweep and launches every point in one go."""

    def sweep(self, arguments: list[str]) -> Any:
        of_file, typed = self.parsed(arguments)
        require_multirun(typed)
        refuse_swept_site(of_file)
        self.points.launch(expand(of_file, typed), initial_job_idx=0)
        return []


class OptunaSweeper(_OurSweeper):
    """hydra/sweeper=optuna: launches points one by one, each by what the ones before it reached.

    Parameters
    ----------
    ended: gets the search's exit code; None where there can be none
    given: the settings of `hydra.sweeper`
    """

    def __init__(self, ended: Callable[[int], object] | None, **given: Any) -> None:
        super().__init__(given.pop("params", None))
        self.ended, self.given = ended, given

    def sweep(self, arguments: list[str]) -> Any:
        from nano_exp.launch import search_draw, search_loop, search_request  # what a launch loads

        if self.ended is None:
            raise UserError(
                "hydra/sweeper=optuna in a job of train.sbatch",
                "such a job trains one run",
                f"{project.launcher()} hydra/sweeper=optuna wait=true ..., outside of a job",
            )
        of_file, typed = self.parsed(arguments)
        refuse_swept_site(of_file)
        search_request.require_results(self.master)
        bare = {override.key_or_group for override in typed}
        overrides = [*(one for one in of_file if one.key_or_group not in bare), *typed]
        launcher = self.points
        wanted = search_request.read(self.given, overrides, launcher.sweep)
        place = search_draw.Place(launcher.take, self.loader, launcher.parameters, Path.cwd())
        first = search_draw.first_point(place, wanted.space)
        search_request.require(first, wanted)
        self.ended(search_loop.search(place, wanted, first, lambda: Path(self.master.hydra.sweep.dir)))
        return []


def _missing(config: DictConfig, key: str) -> bool:
    """Whether a master config, composed without the swept overrides, lacks a key."""
    nothing = object()
    return OmegaConf.select(config, key, default=nothing) is nothing


def require_multirun(typed: Sequence[Override]) -> None:
    """A comma on the command line means a sweep, which -m has to confirm: it may be a typo."""
    swept = [o for o in typed if o.is_sweep_override()]
    if swept and not {"-m", "--multirun"} & set(sys.argv):
        shown = " ".join(str(o.input_line) for o in swept)
        count = 1
        for override in swept:
            count *= len(_values(override))
        raise UserError(
            f"{shown} asks for {count} runs, without -m",
            "several values of one key are a sweep, and a sweep is confirmed with -m",
            f"{project.launcher()} -m ... {shown}   (or quote a list that is one value: 'key=[a,b]')",
        )


def refuse_several_sweeps(loader: ConfigLoader, typed: Sequence[Override]) -> None:
    """A launch has one sweep: of two, one would give the name and the constraints, and the other lose its own."""
    named = [o for o in typed if o.key_or_group == "sweeps" and not o.is_delete()]
    if len(named) > 1:
        raise _one_sweep(" ".join(str(o.input_line) for o in named), str(named[0].input_line))
    for override in named:
        choices = [c for some in conf_tree.choices_of(override) for c in (some if isinstance(some, list) else [some])]
        if not isinstance(override.value(), str):
            mistyped = next(mistakes.diagnose(loader, [str(override.input_line)]), None)
            raise mistyped or _one_sweep(str(override.input_line), f"sweeps={choices[0]}" if choices else "sweeps=lr")


def _one_sweep(typed: str, one: str) -> UserError:
    return UserError(
        typed,
        "a launch has one sweep: its name, its axes, its constraints",
        f"{one}, and more axes typed beside it, as in: -m sweeps=lr grpo.seed=1,2",
    )


#: Keys of a site that stand in the batch script, which Hydra composes once for all points.
_OF_A_LAUNCH = ("partition", "account", "qos", "timeout_min", "setup", "modules")


def refuse_swept_site(overrides: Sequence[Override]) -> None:
    """A swept site would change what the runs remember and not where they are sent."""
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override() and (key == "site" or key in [f"site.{k}" for k in _OF_A_LAUNCH]):
            raise UserError(
                str(override.input_line),
                "partition, account, time limit and set-up are those of a whole launch: it goes to one site",
                f"one launch for each value: {key}=...",
            )


def expand(sweep_overrides: Sequence[Override], typed: Sequence[Override]) -> list[list[str]]:
    """Every point as a list of overrides, the last axis fastest.

    A typed override replaces the sweep's own axis of the same key, however it is written (`++key` too). Of typed ones
    a swept key replaces an earlier sweep of it; what else they do to each other is Hydra's to say.
    """
    bare = {override.key_or_group for override in typed}
    swept = {override.key_or_group: override for override in typed if override.is_sweep_override()}
    axes = [override for override in sweep_overrides if override.key_or_group not in bare]
    axes += [o for o in typed if not o.is_sweep_override() or swept[o.key_or_group] is o]
    return [list(point) for point in itertools.product(*map(_values, axes))]


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        kind = override.value_type.name if override.value_type else "?"
        raise UserError(
            f"{override.input_line}",
            f"a sweep of the kind {kind.lower().replace('_', ' ')} has no list of points",
            "choice(a,b,c), range(1,10) or glob(*); an interval is for hydra/sweeper=optuna",
        )
    try:
        overrides = [f"{key}={value}" for value in override.sweep_string_iterator()]
    except ValueError as error:
        raise UserError(
            str(override.input_line), str(error), f"{key}=range(START,STOP,STEP), or {key}=A,B,C"
        ) from error
    if not overrides:
        raise UserError(
            str(override.input_line),
            "it gives no value at all, so there would be no run",
            f"{key}=range(START,STOP) with START below STOP, a glob that matches an option, or {key}=A,B,C",
        )
    return overrides


def register(take: Callable[..., Any], ended: Callable[[int], object] | None = None) -> None:
    """Make all three findable for Hydra, which makes them by their classes' names below `hydra_plugins`.

    Parameters
    ----------
    take: gets the points, hydra.launcher's parameters, the launch folder, and the constraints of the sweep
    ended: gets the exit code of a search; None where there can be none
    """

    class Taking(NanoExpLauncher):
        def __init__(self, **parameters: Any) -> None:
            super().__init__(take, parameters)

    class Searching(OptunaSweeper):
        def __init__(self, **given: Any) -> None:
            super().__init__(ended, **given)

    module = ModuleType(PLUGIN_MODULE)
    sys.modules[PLUGIN_MODULE] = module
    for plugin, named in ((Taking, NanoExpLauncher), (NanoExpSweeper, NanoExpSweeper), (Searching, OptunaSweeper)):
        name = named.__name__
        plugin.__module__, plugin.__name__, plugin.__qualname__ = PLUGIN_MODULE, name, name
        setattr(module, name, plugin)
        Plugins.instance().register(plugin)
    _register_search()


def _register_search() -> None:
    """Make hydra/sweeper=optuna ours, where Optuna is installed; its samplers are hydra-optuna-sweeper's."""
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        return
    import hydra_plugins.hydra_optuna_sweeper.config  # noqa: F401  it registers the samplers, and a sweeper

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it says what it loads
    ours = {
        "_target_": f"{PLUGIN_MODULE}.{OptunaSweeper.__name__}",
        "defaults": [{"sampler": "tpe"}],
        "direction": "maximize",
        "n_trials": 20,
        "n_jobs": 2,
        "storage": None,
        "study_name": None,
        "params": None,
    }
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=ours, provider="optuna_sweeper")


def not_our_path() -> UserError:
    """hydra.mode=RUN or another launcher would call the task function itself."""
    return UserError(
        "hydra.mode=RUN, or a hydra/launcher other than nano_exp",
        "a launch goes through nano-exp's launcher, also for a single run; there is nothing to call here",
        "leave hydra.mode and hydra/launcher out; cluster=local runs on this machine",
    )
