"""What interpolations in conf/ may use: arithmetic (`${mul:a, b}` and its kin), and the choice of a recipe."""

from __future__ import annotations

import re

from omegaconf import OmegaConf

from nano_exp import hydra_internals
from nano_exp.compose import kept, nearest
from nano_exp.compose.arithmetic import FUNCTIONS

_OPENING = re.compile(r"\$\{\s*([A-Za-z_][\w.\[\]]*)\s*([}:])")


def reads(text: str) -> list[list[str]] | None:
    """The paths that an interpolation may read, by its text alone.

    Returns
    -------
    None where the text does not tell: relative or computed keys, resolvers that look elsewhere
    """
    openings = _OPENING.findall(text)
    if len(openings) != text.count("${") or any(end == ":" and name not in FUNCTIONS for name, end in openings):
        return None
    return [hydra_internals.split_key(name) for name, end in openings if end == "}"]


def register(cached: bool = True) -> None:
    """Register the resolvers and, unless told not to, the caches of `hydra_internals`; again is harmless."""
    if cached:
        hydra_internals.cache_parsing()
        hydra_internals.cache_reading()
        hydra_internals.skip_search_path()
        hydra_internals.share_store()
        hydra_internals.reuse_compositions(kept.key, kept.recall, kept.keep)
    for name, function in FUNCTIONS.items():
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, function)
    for choose in nearest.RESOLVERS:  # of conf/config.yaml's defaults list alone
        if not OmegaConf.has_resolver(choose.__name__):
            OmegaConf.register_new_resolver(choose.__name__, choose)
