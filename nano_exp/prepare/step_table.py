"""How the steps are shown: a table with what to type below it, or JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

from nano_exp.prepare.work import Result
from nano_exp.text import terminal_width


def text(results: Sequence[Result]) -> str:
    """A row a step, and for each that is lacking what hinders it and the command."""
    lines = list(_rows(results))
    for result in results:
        if result.error is not None:
            lines += ["", str(result.error)]
        elif result.lacking:
            lines += ["", *_lacking(result)]
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """One line: how many are there, and the names of the others."""
    lacking = [result.step.name for result in results if result.lacking]
    made = sum(result.made for result in results)
    words = f"prepared: {len(results) - len(lacking)} of {len(results)}" + (f", {made} of them now" if made else "")
    return f"{words}; not there: {', '.join(lacking)}" if lacking else words


def as_json(results: Sequence[Result]) -> str:
    rows = [
        {
            "step": result.step.name,
            "state": result.look.state,
            "found": result.look.found,
            "made": result.made,
            "hindered": result.hindered,
            "command": result.step.command() if result.lacking else "",
            "error": {"found": error.found, "why": error.why, "fix": error.fix} if (error := result.error) else None,
        }
        for result in results
    ]
    return json.dumps(rows, indent=1)


def _rows(results: Sequence[Result]) -> Iterator[str]:
    room = terminal_width() or 100
    for result in results:
        state = "made" if result.made else result.look.state
        head = f"  {result.step.name:11} {state:8} "
        yield from textwrap.wrap(
            head + result.look.found,
            room,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
            break_long_words=False,
        )


def _lacking(result: Result) -> list[str]:
    lines = [f"{result.step.name}: {result.hindered}"] if result.hindered else []
    if command := result.step.command():
        lines += [f"  {line}" for line in command.splitlines()]
    return lines if result.hindered else [f"{result.step.name}:", *lines]
