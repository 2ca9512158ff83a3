"""rm: remove runs with all of their files."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, confirm, folder, named_runs, of_runs


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    remove = commands.add_parser(
        "rm",
        parents=[results],
        help="remove runs with all of their files; asks first, never an active one",
        epilog="nano-exp rm r3f9",
    )
    of_runs(remove.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all runs of it"))
    remove.add_argument("-y", "--yes", action="store_true", help="do not ask")
    remove.set_defaults(run=_remove)


def _remove(arguments: argparse.Namespace) -> int:
    from nano_exp.launch import remove

    return remove.remove(folder(arguments), named_runs(arguments, arguments.what, "rm"), arguments.yes, confirm)
