"""A point with other overrides than were typed, composed by Hydra: for a fix that is tried, where no quick way is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nano_exp import hydra_internals
from nano_exp.compose import conf_tree, freeze, quick
from nano_exp.compose.compose import Point, Uncomposable
from nano_exp.compose.freeze import Frozen
from nano_exp.planner import auto


class Trials:
    """Variants of one point.

    Parameters
    ----------
    typed: the point's own overrides
    folder: the launch folder
    """

    def __init__(self, loader: ConfigLoader, typed: Sequence[str], folder: Path) -> None:
        self.loader, self.typed, self.folder = loader, typed, folder

    def frozen(self, words: Sequence[str], added: Sequence[str] | None) -> tuple[Frozen, dict[str, Any]]:
        """A variant frozen, and hydra.launcher's parameters with it.

        Parameters
        ----------
        added: what `words` has more than was typed, where that is values of NeMo RL's keys alone: they are set in the
            point, and the parameters stay as they are ({})

        Raises
        ------
        UserError, ValueError, TypeError: it does not compose
        """
        try:
            if added is not None:
                return freeze.freeze(self._with(words, added), self.folder), {}
            point = auto.compose_point(self.loader, words)
            quick.keep(self.loader, words)
            return freeze.freeze(point, self.folder), self._parameters(words)
        except (Uncomposable, HydraException, OmegaConfBaseException) as error:
            raise ValueError(str(error)) from error

    @cached_property
    def _point(self) -> Point:
        return auto.compose_point(self.loader, self.typed)

    def _with(self, words: Sequence[str], added: Sequence[str]) -> Point:
        cfg = copy.deepcopy(self._point.cfg)
        parser = OverridesParser.create(config_loader=self.loader)
        hydra_internals.set_values(cfg, parser.parse_overrides(list(added)))
        return Point(tuple(words), cfg)

    def _parameters(self, words: Sequence[str]) -> dict[str, Any]:
        cfg = conf_tree.plain(self.loader, [word for word in words if "parallelism=auto" not in word])
        return cast(dict[str, Any], OmegaConf.to_container(cfg.hydra.launcher, resolve=True))
