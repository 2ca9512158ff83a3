"""cancel, retry and rm: what is done to runs that exist."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nano_exp.commands import Commands, folder, of_runs
from nano_exp.errors import UserError

if TYPE_CHECKING:
    from nano_exp.store.runs import Run


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    cancel = commands.add_parser(
        "cancel", epilog="nano-exp cancel r3f9", parents=[results], help="end active runs; asks first for more than one"
    )
    what = cancel.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all active runs of it")
    of_runs(what)
    cancel.add_argument("-y", "--yes", action="store_true", help="do not ask")
    cancel.set_defaults(run=_cancel)

    retry = commands.add_parser(
        "retry",
        epilog="nano-exp retry lr hydra.launcher.timeout_min=600",
        parents=[results],
        help="submit again what is neither done nor active",
    )
    what = retry.add_argument(
        "what",
        nargs="+",
        metavar="RUN|NAME",
        help="run ids, names, and other settings: hydra.launcher.KEY=VALUE, parallel=, after=, ...",
    )
    of_runs(what)
    retry.add_argument("-y", "--yes", action="store_true", help="do not ask where an id is that of several runs")
    retry.set_defaults(run=_retry)

    remove = commands.add_parser(
        "rm",
        parents=[results],
        help="remove runs with all of their files; asks first, never an active one",
        epilog="nano-exp rm r3f9",
    )
    of_runs(remove.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all runs of it"))
    remove.add_argument("-y", "--yes", action="store_true", help="do not ask")
    remove.set_defaults(run=_remove)


def _remove(given: argparse.Namespace) -> int:
    from nano_exp.launch import remove

    return remove.remove(folder(given), _meant(given, given.what, "rm"), given.yes, _confirm)


def _cancel(given: argparse.Namespace) -> int:
    from nano_exp.launch import control

    return control.cancel(_meant(given, given.what, "cancel"), given.yes, _confirm)


def _retry(given: argparse.Namespace) -> int:
    from nano_exp.launch import control

    overrides = [word for word in given.what if "=" in word]
    words = [word for word in given.what if "=" not in word]
    if not words:
        raise UserError(
            "no run named", "retry submits what you name", "nano-exp retry RUN|NAME [hydra.launcher.KEY=VALUE]"
        )
    return control.retry(folder(given), _meant(given, words, "retry"), overrides)


def _meant(given: argparse.Namespace, words: list[str], command: str) -> list[Run]:
    """The runs of these words. Asks where a word that stands for one run is several. Raises UserError without a yes."""
    from nano_exp.index import selection

    results = folder(given)
    for word, hits in {} if given.yes else selection.ambiguous(results, words).items():
        shown = ", ".join(f"{f.name}/{f.id}" for f in hits[:6]) + (", ..." if len(hits) > 6 else "")
        if not _confirm(f"{word} is {len(hits)} runs: {shown}; {command} all of them?"):
            raise UserError(
                f"{word} is {len(hits)} runs: {shown}",
                f"{command} does not guess which one is meant",
                f"nano-exp {command} {hits[0].name}/{hits[0].id}, or all of them: nano-exp {command} {word} --yes",
            )
    return selection.loaded(results, words)


def _confirm(question: str) -> bool:
    return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
