"""nano-exp: GRPO experiments of Nemotron Nano models with NeMo RL on Slurm."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from nano_exp.api import Runs

__version__ = "0.1.0"


def load(path: str | PathLike[str] = "results") -> Runs:
    """The runs of a results folder, of a name in it or of one run, for scripts and notebooks (docs/api.md)."""
    from nano_exp import api  # here, so that an attempt or `nano-exp --help` does not load it

    return api.load(path)
