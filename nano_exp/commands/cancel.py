"""cancel: end active runs."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, confirm, named_runs, of_runs


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    cancel = commands.add_parser(
        "cancel", epilog="nano-exp cancel r3f9", parents=[results], help="end active runs; asks first for more than one"
    )
    what = cancel.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all active runs of it")
    of_runs(what)
    cancel.add_argument("-y", "--yes", action="store_true", help="do not ask")
    cancel.set_defaults(run=_cancel)


def _cancel(arguments: argparse.Namespace) -> int:
    from nano_exp.launch import cancel

    return cancel.cancel(named_runs(arguments, arguments.what, "cancel"), arguments.yes, confirm)
