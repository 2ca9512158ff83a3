"""How things are written for people, whichever command writes them: tables, paths, overrides. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def relative(path: Path) -> str:
    """As one would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def shared_overrides(lists: Sequence[Sequence[str]]) -> list[str]:
    """The overrides that every run has, in the first one's order; none for a single run."""
    if len(lists) < 2:
        return []
    return [o for o in lists[0] if all(o in other for other in lists[1:])]


def own_overrides(overrides: Sequence[str], shared: Sequence[str]) -> str:
    """What sets one run apart, as typed."""
    return " ".join(o for o in overrides if o not in shared) or ("(nothing else)" if shared else "(defaults)")


def short_title(overrides: Sequence[str]) -> str:
    """Overrides by the last words of their keys, without those about the place: `lr=1e-6 seed=2`."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if not key.startswith(("run.", "site", "slurm.", "hydra", "logger.", "sweep")):
            parts.append(f"{key.rsplit('.', 1)[-1]}={value}")
    return " ".join(parts)
