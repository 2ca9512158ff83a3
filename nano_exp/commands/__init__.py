"""The commands of `nano-exp`, each in the module of its name.

A module here has `add(commands, results)`, which adds its subparser. That sets `run`: a function from the parsed
arguments to the exit code. It imports argparse at its top, and what does its work inside that function, so that every
command starts quickly. To add one: write the module, and name it in `nano_exp.cli.COMMANDS`. Its `epilog`
is an example of it, a line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nano_exp.errors import UserError

if TYPE_CHECKING:
    from nano_exp.store.runs import Run

#: What `add` gets: the subparsers of nano-exp.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def of_runs(action: argparse.Action) -> None:
    """Tab completes names and run ids at this argument."""
    action.completer = _runs  # type: ignore[attr-defined]  # argcomplete's


def folder(arguments: argparse.Namespace) -> Path:
    """The results folder of a command that was added with `parents=[results]`."""
    return Path(arguments.results).expanduser().resolve()


def _runs(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The names, and the run ids, that begin so. argcomplete calls it."""
    from nano_exp.index import selection

    every = selection.folders(folder(parsed_args))
    return [word for word in {*(f.name for f in every), *(f.id for f in every)} if word.startswith(prefix)]


def named_runs(arguments: argparse.Namespace, words: list[str], command: str) -> list[Run]:
    """The runs of these words. Asks where a word that stands for one run is several. Raises UserError without a yes."""
    from nano_exp.index import selection

    results = folder(arguments)
    for word, hits in {} if arguments.yes else selection.ambiguous(results, words).items():
        listed = ", ".join(f"{f.name}/{f.id}" for f in hits[:6]) + (", ..." if len(hits) > 6 else "")
        if not confirm(f"{word} stands for {len(hits)} runs: {listed}; {command} all of them?"):
            raise UserError(
                f"{word} stands for {len(hits)} runs: {listed}",
                f"{command} does not guess which one is meant",
                f"nano-exp {command} {hits[0].name}/{hits[0].id}, or all of them: nano-exp {command} {word} --yes",
            )
    return selection.loaded(results, words)


def confirm(question: str) -> bool:
    """Whether the user says yes; False where nobody is there to ask."""
    return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
