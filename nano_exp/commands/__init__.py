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


def ranking_options(parser: argparse.ArgumentParser, at: bool = True) -> None:
    """What sweeps are compared by: of every command that ranks points."""
    what = parser.add_argument("what", nargs="*", metavar="NAME|RUN", help="names, run ids or Slurm jobs; default: all")
    of_runs(what)
    parser.add_argument("--by", default="reward", help="reward (default), validation, loss, or any metric's name")
    if at:
        parser.add_argument(
            "--at",
            default="steps",
            help="equal steps (default), tokens, gpu-hours or time; gpu-hours=50: at so much a run",
        )
    parser.add_argument(
        "--seeds", default="grpo.seed", metavar="KEY", help="runs that differ in it alone are one point"
    )


def checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint is meant, and where the work is done: of every command about one."""
    of_runs(parser.add_argument("run_id", metavar="RUN"))
    parser.add_argument(
        "--step", default="", help="best, last or a step (default: best, or last where none has a value)"
    )
    parser.add_argument("--submit", action="store_true", help="as a job of Slurm's")
    parser.add_argument("--dry-run", action="store_true", help="the command that would do it")


def output_file(given: Path, endings: tuple[str, ...], what: str) -> Path:
    """The file of -o, made sure of before anything is read.

    Parameters
    ----------
    endings: that it may have; the first is the one to type
    what: the file is, as `a picture`

    Raises
    ------
    UserError: a folder, no such folder, or no such format
    """
    whole = given.expanduser().resolve()
    if whole.is_dir():
        raise UserError(f"-o {given}", f"that is a folder, and {what} is one file", f"-o {given}/name{endings[0]}")
    if whole.suffix not in endings:
        ends = f"it ends in {whole.suffix}" if whole.suffix else "it has no ending"
        one_of = f"one of {', '.join(endings)}" if len(endings) > 1 else endings[0]
        raise UserError(f"-o {given}", f"{ends}, and {what} is {one_of}", f"-o {given.with_suffix(endings[0])}")
    if not whole.parent.is_dir():
        raise UserError(f"-o {given}", f"there is no folder {whole.parent}", f"mkdir -p {whole.parent}")
    return whole


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
