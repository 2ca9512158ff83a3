"""The one error that a user sees: what was found, why it cannot work, what to type instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


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
    """The up to `n` candidates that `word` is a slip of the finger away from, best first; empty when none is.

    A nearest name by letters is no nearest meaning, so little counts as a slip: upper and lower case, `-` for `_`, and
    one letter that is missing, too much, swapped with its neighbour or (from five letters on) another one; two of them
    from eight letters on. Digits are sizes and counts: with other digits it is another thing. Of a dotted key each part
    is compared with its like.
    """
    distances = {candidate: _slips(_folded(word), _folded(candidate)) for candidate in candidates}
    near = [candidate for candidate, distance in distances.items() if distance is not None]
    return sorted(near, key=lambda candidate: (distances[candidate], candidate))[:n]


def choice(before: str, near: Sequence[str], there: Iterable[str]) -> str:
    """What to type where one of several names is wanted: what is near, or else whatever there is.

    Parameters
    ----------
    before: what stands before the name, as in `site.partition=`
    """
    if near:
        return " or ".join(f"{before}{name}" for name in near)
    return f"one of these: {', '.join(f'{before}{name}' for name in there)}"


def short_for(word: str, candidates: Iterable[str], anywhere: bool = False) -> str | None:
    """The only candidate that begins with the parts of `word` and has at most as many again (num_generations for
    num_generations_per_prompt), or with `anywhere` has them somewhere (9b for nano_9b)."""
    parts = _folded(word).split("_")
    matches = []
    for candidate in candidates:
        whole = _folded(candidate).split("_")
        starts = range(len(whole) - len(parts) + 1) if anywhere else [0]
        enough = anywhere or 2 * len(parts) >= len(whole)
        if enough and any(whole[start : start + len(parts)] == parts for start in starts):
            matches.append(candidate)
    return matches[0] if len(matches) == 1 and "" not in parts else None


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")


_DIGITS = re.compile(r"\d+")


def _slips(word: str, other: str) -> int | None:
    """How many slips lead from one to the other; None where they are not near."""
    parts, others = word.split("."), other.split(".")
    if len(parts) != len(others) or _DIGITS.findall(word) != _DIGITS.findall(other):
        return None
    total = 0
    for one, two in zip(parts, others, strict=True):
        length = max(len(one), len(two))
        slips = 0 if one == two else _edits(one, two, substitutes=length >= 5)
        if slips > (2 if length >= 8 else 1):
            return None
        total += slips
    return total if total <= 2 else None


def _edits(word: str, other: str, substitutes: bool) -> int:
    """The optimal string alignment distance: letters left out, put in, swapped or, where allowed, replaced."""
    cost = 1 if substitutes else 2
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(word, 1):
        older, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            same = before[j - 1] + (0 if letter == wanted else cost)
            best = min(before[j] + 1, row[j - 1] + 1, same)
            if i > 1 and j > 1 and letter == other[j - 2] and wanted == word[i - 2]:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]
