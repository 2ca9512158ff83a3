"""How things are written for people, whichever command writes them: tables, paths, overrides. Loads nothing heavy."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nano_exp.overrides import Override


def width(line: str) -> int:
    """Columns of a terminal that a text takes: wide characters and emoji two each, marks over others none."""
    if line.isascii():
        return len(line)
    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(c) in marks else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line
    )


def padded(line: str, columns: int) -> str:
    """Filled up with blanks to so many columns of a terminal."""
    return line + " " * (columns - width(line))


def shortened(line: str, room: int) -> str:
    """As much as there is room for, with an ellipsis where something is missing."""
    if width(line) <= room:
        return line
    part = line[: max(0, room - 1)]
    while part and width(part) > room - 1:
        part = part[:-1]
    return part.rstrip() + "…" if room > 0 else ""


def terminal_width() -> int | None:
    """Of the terminal that is printed on; None where there is none, and lines may be as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(header: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    widths = [max(width(row[i]) for row in cells) for i in range(len(header))]
    lines = [indent + "  ".join(padded(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def relative(path: Path) -> str:
    """As one would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def short_title(overrides: Sequence[str]) -> str:
    """Overrides by the last words of their keys, without those about the place: `lr=1e-6 seed=2`."""
    parts = []
    for override in overrides:
        typed = Override.parse(override)
        if not typed.key.startswith(("run.", "site", "slurm.", "hydra", "logger.", "sweep")):
            parts.append(f"{typed.name.rsplit('.', 1)[-1]}={typed.value}")
    return " ".join(parts)


def as_typed(value: object) -> str:
    """A value as one would type it: null, true, [1, 2], words without quotes."""
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")
#: What Ray and vLLM put before the lines of their processes; NeMo RL's driver prints without one.
FROM_WORKER = re.compile(
    r"^\s{0,2}\(((?:raylet|autoscaler|gcs_server)\b[^()]{0,80}"
    r"|(?:[^()]|\([^()]{0,80}\)){0,120}?\bpid=[^()]{0,80})\)[ \t]?"
)

#: Lines that fill a log and say nothing: Ray's metrics agent, where it is not installed; NeMo RL's workers, which are
#: shut down once more when the interpreter is going.
NOISE = re.compile(r"Error fetching metrics from |^Error during policy shutdown: ")


def plain(raw: str) -> str:
    """A line of a log without colours, its end, and what a progress bar left before a carriage return."""
    line = _ANSI.sub("", raw) if "\x1b" in raw else raw
    return line.rstrip("\r\n \t").rpartition("\r")[2]


Say = Callable[[str], None]


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 12 min, 2 d 3 h: two units at most."""
    total = max(0, round(seconds))
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 3)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n) or "0 s"


def size(count: float) -> str:
    """Bytes as 512 B, 3.0 KiB, 41.2 MiB, 1.3 GiB, ... (powers of 1024)."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1023.95 or unit == "TiB":
            break
    return f"{count:.1f} {unit}"


def dd_hh_mm_ss(seconds: float) -> str:
    """The form of checkpointing.checkpoint_must_save_by (nemo_rl/utils/timer.py, convert_to_seconds): 01:02:03:04,
    rounded down; never negative."""
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day:02d}:{hour:02d}:{minute:02d}:{second:02d}"
