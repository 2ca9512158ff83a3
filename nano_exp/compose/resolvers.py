"""What interpolations in conf/ may use: arithmetic (`${mul:a, b}` and its kin), and the choice of a recipe."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from nano_exp import hydra_internals
from nano_exp.compose import kept, nearest

Number = int | float


def ratio(a: Number, b: Number) -> float:
    """Return a / b to 12 significant digits.

    The published recipes write a tenth of 5e-6 as 5e-7; binary floating point makes it 5.000000000000001e-07,
    another number in a config that is compared key by key.
    """
    return float(f"{a / b:.12g}")


#: Resolvers that see their arguments and nothing else.
PURE = ("mul", "div", "max", "add", "ratio")

_OPENING = re.compile(r"\$\{\s*([A-Za-z_][\w.\[\]]*)\s*([}:])")


def reads(text: str) -> list[list[str]] | None:
    """The paths that an interpolation may read, by its text alone.

    Returns
    -------
    None where the text does not tell: relative or computed keys, resolvers that look elsewhere
    """
    openings = _OPENING.findall(text)
    if len(openings) != text.count("${") or any(end == ":" and name not in PURE for name, end in openings):
        return None
    return [hydra_internals.split_key(name) for name, end in openings if end == "}"]


def register(cached: bool = True) -> None:
    """Register the resolvers and, unless told not to, the caches of `hydra_internals`; again is harmless.

    mul, div and max mean what NeMo RL's do (nemo_rl/utils/config.py, register_omegaconf_resolvers, at v0.7.0):
    plain Python arithmetic, so mul of two ints is an int and div is true division. add and ratio are ours; NeMo RL
    never sees them, since it receives resolved values.
    """
    if cached:
        hydra_internals.cache_parsing()
        hydra_internals.cache_reading()
        hydra_internals.skip_search_path()
        hydra_internals.share_store()
        hydra_internals.reuse_compositions(kept.key, kept.recall, kept.keep)
    functions: dict[str, Callable[[Any, Any], Number]] = {
        "mul": operator.mul,
        "div": operator.truediv,
        "max": max,
        "add": operator.add,
        "ratio": ratio,
    }
    for name, function in functions.items():
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, _of_numbers(function))
    for choose in nearest.RESOLVERS:  # of conf/config.yaml's defaults list alone
        if not OmegaConf.has_resolver(choose.__name__):
            OmegaConf.register_new_resolver(choose.__name__, choose)


def _of_numbers(function: Callable[[Any, Any], Number]) -> Callable[[Any, Any], Number]:
    """Python multiplies a text by a number too, and adds lists."""

    def computed(a: Any, b: Any) -> Number:
        for value in (a, b):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{value!r} is not a number")
        return function(a, b)

    return computed
