"""docs/results.md: the commands that stand in it, and what they print on the synthetic sweep."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import results_case
from core_case import ROOT

from nano_exp import cli

PAGE = ROOT / "docs" / "results.md"
#: Columns of the terminal that the page shows.
WIDTH = 100
_BLOCK = re.compile(r"```\n\$ (nano-exp .*)\n(?:.*\n)*?```\n")


def printed(command: str, folder: Path) -> str:
    """What a command prints, in a terminal of WIDTH columns."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), mock.patch("nano_exp.text.terminal_width", lambda: WIDTH):
        code = cli.main([*shlex.split(command)[1:], "--results", str(folder / "results")])
    assert code == 0, command
    return out.getvalue()


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Each command with what the page says that it prints."""
    for match in _BLOCK.finditer(page):
        yield match[1], match[0].partition("\n")[2].partition("\n")[2].removesuffix("```\n")


def written(page: str, folder: Path) -> str:
    """The page with what its commands print now; the store is made in a folder."""
    results_case.make(folder)
    return _BLOCK.sub(lambda match: f"```\n$ {match[1]}\n{printed(match[1], folder)}```\n", page)
