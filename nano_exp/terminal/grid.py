"""Tables of runs at any width: the columns of their axes stay whole, whatever else has to go. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nano_exp.store import axes
from nano_exp.store.axes import Value
from nano_exp.text import padded, shortened, width

#: Between two columns.
GAP = "  "


@dataclass(frozen=True)
class Grid:
    """A table that fits.

    Parameters
    ----------
    header: one line, or several where names of axes were broken to fit
    rows: for each run its line, padded to the width of the header, and those below it
    most: the greatest width; None: as wide as it takes
    """

    header: list[str]
    rows: list[list[str]]
    most: int | None


def grid(
    columns: Mapping[str, Sequence[str]],
    points: Sequence[Mapping[str, Value]],
    most: int | None = None,
    give_up: Sequence[str] = (),
    indent: str = "",
    before: str | None = None,
    below: bool = True,
) -> Grid:
    """Lay columns and axes out.

    Where they do not fit, columns go in the order of `give_up`, then long names of axes are broken at _ and . and at
    last the axes stand below each row (`below`), or are cut at the right edge.

    Parameters
    ----------
    columns: header -> cells
    points: each run's values by key; one that lacks a key of the others has a blank there
    most: the greatest width; None: as wide as it takes
    before: the column that the axes stand in front of; None: they come last
    """
    keys = list(dict.fromkeys(key for point in points for key in point))
    named = axes.names(keys, columns)
    cells = {named[key]: [axes.as_typed(p[key]) if key in p else "" for p in points] for key in keys}
    fitting = dict(columns)
    for name in give_up:
        if most is None or _wide(indent, fitting, cells) <= most:
            break
        fitting.pop(name, None)
    heads = {name: [name] for name in (*fitting, *cells)}
    if most is not None and _wide(indent, fitting, cells) > most:
        heads.update({name: _broken(name, values) for name, values in cells.items()})
    folded = below and most is not None and _wide(indent, fitting, cells, heads) > most
    shown = fitting if folded else _joined(fitting, cells, before)
    lines = _lines(indent, shown, heads)
    depth = max((len(heads[name]) for name in shown), default=1)
    rows = [[line] for line in lines[depth:]]
    if folded:
        for row, point in zip(rows, points, strict=True):
            row += _below(point, named, most or 0, indent)
    return Grid(lines[:depth], rows, most)


def _joined(
    columns: Mapping[str, Sequence[str]], cells: Mapping[str, Sequence[str]], before: str | None
) -> dict[str, Sequence[str]]:
    joined: dict[str, Sequence[str]] = {}
    for name, values in columns.items():
        if name == before:
            joined |= cells
        joined[name] = values
    return joined | dict(cells)


def _wide(
    indent: str,
    columns: Mapping[str, Sequence[str]],
    cells: Mapping[str, Sequence[str]],
    heads: Mapping[str, list[str]] | None = None,
) -> int:
    every = {**columns, **cells}
    wide = [max(map(width, [*(heads[name] if heads else [name]), *values])) for name, values in every.items()]
    return len(indent) + sum(wide) + len(GAP) * (len(wide) - 1)


def _broken(name: str, values: Sequence[str]) -> list[str]:
    """A name over several lines, each no wider than the values or its own longest word."""
    parts = re.findall(r"[^_.]+[_.]?|[_.]", name)
    room = max(map(width, [*parts, *values]))
    lines = [""]
    for part in parts:
        if width(lines[-1] + part) > room:
            lines.append("")
        lines[-1] += part
    return lines


def _lines(indent: str, columns: Mapping[str, Sequence[str]], heads: Mapping[str, list[str]]) -> list[str]:
    """All of one width, the header's lines first; a shorter name stands on the last of them."""
    depth = max((len(heads[name]) for name in columns), default=1)
    table = [[*[""] * (depth - len(heads[name])), *heads[name], *values] for name, values in columns.items()]
    wide = [max(map(width, one)) for one in table]
    return [
        indent + GAP.join(padded(cell, w) for cell, w in zip(row, wide, strict=True))
        for row in zip(*table, strict=True)
    ]


def _below(point: Mapping[str, Value], named: Mapping[str, str], most: int, indent: str) -> list[str]:
    words = " ".join(f"{named[key]}={axes.as_typed(one)}" for key, one in point.items())
    return textwrap.wrap(
        words,
        max(most, len(indent) + 12),
        initial_indent=f"{indent}  ",
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )


def text(table: Grid, notes: Sequence[str], head: str = "", minor: Sequence[bool] = ()) -> str:
    """The table as it is printed.

    Parameters
    ----------
    notes: what is said beside each row, or below it where it does not fit
    head: what stands above the notes
    minor: whether a note may be left out instead
    """
    room = None if table.most is None else table.most - width(table.header[-1]) - len(GAP)
    beside = [bool(note) and (room is None or max(width(note), width(head)) <= room) for note in notes]
    out = list(table.header)
    out[-1] += GAP + head if any(beside) else ""
    for index, ((line, *below), note) in enumerate(zip(table.rows, notes, strict=True)):
        out += [line + GAP + note if beside[index] else line, *below]
        if note and not beside[index] and not (minor and minor[index]):
            out.append(shortened(f"  {note}", table.most or 0))
    return "\n".join(line.rstrip() for line in out)
