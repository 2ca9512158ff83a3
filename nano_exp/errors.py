"""The one error that a user sees: what was found, why it cannot work, what to type instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's or of the place. Shown without a traceback; the process exits with `code`.

    Parameters
    ----------
    found: what was found, with the value
    why: why it cannot work
    fix: what to type or do instead
    code: the exit code (2: refused before anything was done)
    """

    def __init__(self, found: str, why: str, fix: str, code: int = 2) -> None:
        super().__init__(found)
        self.found, self.why, self.fix, self.code = found, why, fix, code

    def __str__(self) -> str:
        return f"error: {self.found}\n  why: {self.why}\n  fix: {self.fix}"


def nearest(word: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """The up to `n` candidates that look most like `word`, best first; empty when nothing is near."""
    return difflib.get_close_matches(word, list(candidates), n=n, cutoff=0.6)
