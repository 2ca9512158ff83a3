"""The terms of a launch: how many runs at once, after what, and when the rest is not worth starting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp.errors import UserError
from nano_exp.freeze import TERMS, Frozen


@dataclass(frozen=True)
class Terms:
    """What holds for all arrays of one launch.

    Parameters
    ----------
    parallel: at most this many of its runs at once; None: as many as hydra.launcher.array_parallelism an array
    after: runs, names or Slurm jobs that have to end first, as typed
    fail_fast: this many failed runs stop those that wait; None: none do
    canary: two steps of the first run come before everything else
    """

    parallel: int | None = None
    after: tuple[str, ...] = ()
    fail_fast: int | None = None
    canary: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For the launch's manifest; `kept` reads it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def read(wanted: Sequence[Frozen], typed: Sequence[str] = ()) -> Terms:
    """The terms of a launch from its points. Raises UserError for values that cannot be, or that differ.

    Parameters
    ----------
    typed: the overrides of a point as they were typed
    """
    _refuse_joined_digits(typed)
    first = wanted[0].config
    for key in TERMS:
        if any(frozen.config.get(key) != first.get(key) for frozen in wanted):
            raise UserError(f"points of one launch have different {key}=", "it holds for a whole launch", f"{key}=...")
    canary = first.get("canary", False)
    if not isinstance(canary, bool):
        raise UserError(f"canary={canary!r}", "it is true or false, for the whole launch", "canary=true or false")
    return Terms(_count(first, "parallel"), _words(first.get("after")), _count(first, "fail_fast"), canary)


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if value is None or (type(value) is int and value >= 1):
        return value
    raise UserError(f"{key}={value!r}", "it is a number of runs, at least 1", f"{key}=4, or leave it out")


def _words(value: Any) -> tuple[str, ...]:
    """`after`: nothing, one word or a list of them; a Slurm job may be typed as a number."""
    words = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(word, bool) or not isinstance(word, int | str) or not str(word).strip() for word in words):
        raise UserError(
            f"after={value!r}", "it names runs or Slurm jobs", "after=RUN, after=JOB or 'after=[RUN,afterany:JOB]'"
        )
    return tuple(str(word).strip() for word in words)


def _refuse_joined_digits(typed: Sequence[str]) -> None:
    """`after=12_3` is the number 123 to Hydra, as 1_000 is 1000: another job than the one that is meant."""
    for override in typed:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "after" and (joined := re.search(r"(?<![\w:'\"])\d+_\d+(?!\w)", value)):
            raise UserError(
                override,
                f"Hydra reads {joined[0]} as the number {joined[0].replace('_', '')}",
                f"after=afterok:{joined[0]}",
            )


def kept(manifest: Mapping[str, Any]) -> Terms:
    """What of a launch's terms holds for a retry of its runs too: how many at once, and how many may fail."""
    found = manifest.get("terms")
    terms = found if isinstance(found, dict) else {}
    try:
        return Terms(parallel=_count(terms, "parallel"), fail_fast=_count(terms, "fail_fast"))
    except UserError:  # a damaged manifest
        return Terms()


def require(terms: Terms, where: str, submit: bool) -> None:
    """Refuse terms that the place cannot keep. Raises UserError."""
    asked = {"after": terms.after, "fail_fast": terms.fail_fast, "canary": terms.canary}
    typed = [key for key, value in asked.items() if value]
    if where == "local" and typed:
        raise UserError(
            f"{' and '.join(typed)} with slurm.where=local",
            "Slurm keeps them, and runs of this machine have none",
            "leave them out (parallel=N works here too), or choose a cluster= of Slurm's",
        )
    if not submit and terms.canary:
        raise UserError(
            "canary=true with submit=false",
            "the arrays wait for the canary's job, which has no number before it is submitted",
            "leave one of the two out",
        )
