"""The arithmetic that interpolations in conf/ may use: `${mul:a, b}` and its kin."""

from __future__ import annotations

from omegaconf import OmegaConf

Number = int | float


def ratio(a: Number, b: Number) -> float:
    """Return a / b to 12 significant digits.

    The published recipes write a tenth of 5e-6 as 5e-7; binary floating point makes it 5.000000000000001e-07,
    another number in a config that is compared key by key.
    """
    return float(f"{a / b:.12g}")


def register() -> None:
    """Register the resolvers; again is harmless.

    mul, div and max mean what NeMo RL's do (nemo_rl/utils/config.py, register_omegaconf_resolvers, at v0.7.0):
    plain Python arithmetic, so mul of two ints is an int and div is true division. add and ratio are ours; NeMo RL
    never sees them, since it receives resolved values.
    """
    for name, function in {
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "max": lambda a, b: max(a, b),
        "add": lambda a, b: a + b,
        "ratio": ratio,
    }.items():
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, function)
