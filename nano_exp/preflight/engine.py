"""What the engines themselves refuse, shown as findings like all others."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp import engines
from nano_exp.errors import UserError
from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View


def _refusal(c: View) -> Iterator[Found]:
    try:
        engines.get(c.engine).check(dict(c.config))
    except UserError as error:
        yield Found((), error.why, error.fix, error.found)


@rule(place=True)
def nemo_rl_starts(c: View) -> Iterator[Found]:
    """NeMo RL's checkout, interpreter or container is there, in the version that the config was made for."""
    yield from _refusal(c)


@rule(engine="embedded")
def embedded_engine(c: View) -> Iterator[Found]:
    """The embedded engine can run the config as it is written."""
    yield from _refusal(c)
