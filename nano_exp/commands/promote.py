"""promote: have a run go on that its study paused."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, folder, named_runs, of_runs


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    promote = commands.add_parser(
        "promote",
        epilog="nano-exp promote r1a2b3c4d5",
        parents=[results],
        help="have runs go on that a study paused, to its next rung or to their end",
    )
    of_runs(promote.add_argument("what", nargs="+", metavar="RUN", help="run ids"))
    promote.add_argument("-y", "--yes", action="store_true", help="do not ask where an id is that of several runs")
    promote.set_defaults(run=_promote)


def _promote(arguments: argparse.Namespace) -> int:
    from nano_exp.launch import promotion

    return promotion.promote(folder(arguments), named_runs(arguments, arguments.what, "promote"))
