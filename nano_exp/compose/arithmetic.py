"""What interpolations in conf/ compute with: `${mul:a, b}` and its kin."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

Number = int | float


def ratio(a: Number, b: Number) -> float:
    """Return a / b to 12 significant digits.

    The published recipes write a tenth of 5e-6 as 5e-7; binary floating point makes it 5.000000000000001e-07,
    another number in a config that is compared key by key.
    """
    return float(f"{a / b:.12g}")


def _of_numbers(function: Callable[[Any, Any], Number]) -> Callable[[Any, Any], Number]:
    """Python multiplies a text by a number too, and adds lists."""

    def computed(a: Any, b: Any) -> Number:
        for value in (a, b):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{value!r} is not a number")
        return function(a, b)

    return computed


#: Resolvers that see their arguments and nothing else. mul, div and max mean what NeMo RL's do
#: (nemo_rl/utils/config.py, register_omegaconf_resolvers, at v0.7.0): plain Python arithmetic, so mul of two ints is an
#: int and div is true division. add and ratio are ours; NeMo RL never sees them, since it receives resolved values.
FUNCTIONS: dict[str, Callable[[Any, Any], Number]] = {
    name: _of_numbers(function)
    for name, function in (
        ("mul", operator.mul),
        ("div", operator.truediv),
        ("max", max),
        ("add", operator.add),
        ("ratio", ratio),
    )
}
