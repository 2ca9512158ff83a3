"""The project's conf tree and Hydra's loader over it: what Hydra composes, as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nano_exp import project
from nano_exp.compose import BASE as BASE
from nano_exp.compose import CONF_DIR as CONF_DIR
from nano_exp.compose import resolvers
from nano_exp.errors import UserError

CONFIG_NAME = "config"


class ProjectFirst(SearchPathPlugin):
    """A project's conf/ before the package's, on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if project.OWN is not None and any(_folder(p.path) == BASE for p in search_path.get_path()):
            search_path.prepend(provider="project", path=f"file://{CONF_DIR}")


def _folder(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def register() -> None:
    """Make Hydra look into the project's conf/; again is harmless."""
    Plugins.instance().register(ProjectFirst)


@contextmanager
def loader(conf_dir: Path = CONF_DIR) -> Iterator[ConfigLoader]:
    """Hydra's loader over the project's conf tree, for use outside `python launch.py`."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if not project.at(conf_dir / f"{CONFIG_NAME}.yaml").is_file():
        raise UserError(
            f"no {CONFIG_NAME}.yaml in {conf_dir}",
            "the config tree of the project is what commands compose from",
            "install nano-exp again: pip install --force-reinstall nano-exp, or pip install -e . in a checkout",
        )
    resolvers.register()
    register()
    primary = BASE if project.OWN is not None and conf_dir == project.CONF else conf_dir
    with initialize_config_dir(config_dir=str(primary), version_base="1.3"):
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
    with loader() as config_loader:
        yield config_loader


def plain(config_loader: ConfigLoader, overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, as it is."""
    resolvers.register()
    # `from_shell=False` lets the literal values of already split sweeps through, as Hydra does for its own jobs.
    return config_loader.load_configuration(CONFIG_NAME, list(overrides), run_mode=RunMode.RUN, from_shell=False)


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
