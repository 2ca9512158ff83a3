"""What the checks said, for people and for scripts."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence

from nano_exp.doctor.check import EXIT_CODES, Checked, Said

_NAME = 17


def exit_code(checked: Sequence[Checked]) -> int:
    """0: nothing to say; 1: warnings; 2: errors, which would stop a launch or its runs."""
    return max((EXIT_CODES[one.level] for one in checked), default=0)


def as_text(checked: Sequence[Checked]) -> str:
    """A line a check; what is wrong with why and fix below it."""
    lines = [line for one in checked for said in one.said for line in _lines(one.name, said)]
    count = Counter(said.level for one in checked for said in one.said)
    parts = [f"{count[level]} {level}{'s' if count[level] != 1 else ''}" for level in ("error", "warning")]
    slowest = max((one.seconds for one in checked), default=0.0)
    return "\n".join([*lines, f"doctor: {len(checked)} checks, {', '.join(parts)}, in {slowest:.1f} s"])


def _lines(name: str, said: Said) -> list[str]:
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    head = f"{said.level:8}{name:{_NAME}}"
    parts = [(head, said.found)]
    if said.level in ("warning", "error"):
        parts += [("  why: ", said.why), ("  fix: ", said.fix)]
    lines = []
    for before, words in parts:
        if not room:
            lines.append(before + words)
            continue
        lines += textwrap.wrap(
            words,
            max(room, 60),
            initial_indent=before,
            subsequent_indent=" " * len(before),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def as_json(checked: Sequence[Checked]) -> str:
    """The same for scripts."""
    checks = [
        {
            "name": one.name,
            "level": one.level,
            "seconds": round(one.seconds, 3),
            "said": [vars(said) for said in one.said],
        }
        for one in checked
    ]
    return json.dumps({"exit_code": exit_code(checked), "checks": checks}, indent=1, ensure_ascii=False)
