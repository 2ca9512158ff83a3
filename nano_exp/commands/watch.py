"""watch: status, live."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, folder, of_runs


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    watch = commands.add_parser(
        "watch", epilog="nano-exp watch lr", parents=[results], help="status, live; keys follow a log, cancel, retry"
    )
    of_runs(watch.add_argument("what", nargs="*", metavar="SWEEP|RUN", help="as for status"))
    watch.set_defaults(run=_watch)


def _watch(arguments: argparse.Namespace) -> int:
    from nano_exp.report import watch

    return watch.watch(folder(arguments), arguments.what)
