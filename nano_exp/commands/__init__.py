"""The commands of `nano-exp`, a module for each group of them.

A module here has `add(commands, results)`, which adds its subparsers. Each one sets `run`: a function from the parsed
arguments to the exit code. It imports argparse at its top, and what does its work inside that function, so that every
command starts quickly. To add one: write the module, and name it in `nano_exp.cli.COMMANDS`. Its `epilog`
is an example of it, a line.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeAlias

#: What `add` gets: the subparsers of nano-exp.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def of_runs(action: argparse.Action) -> None:
    """Tab completes names and run ids at this argument."""
    action.completer = _runs  # type: ignore[attr-defined]  # argcomplete's


def folder(given: argparse.Namespace) -> Path:
    """The results folder of a command that was added with `parents=[results]`."""
    return Path(given.results).expanduser().resolve()


def _runs(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The names, and the run ids, that begin so. argcomplete calls it."""
    from nano_exp.index import selection

    found = selection.folders(folder(parsed_args))
    return [word for word in {*(f.name for f in found), *(f.id for f in found)} if word.startswith(prefix)]
