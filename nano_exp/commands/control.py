"""cancel and retry: what is done to runs that exist."""

from __future__ import annotations

import argparse
import sys

from nano_exp.commands import Commands, folder, of_runs
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    cancel = commands.add_parser("cancel", parents=[results], help="end active runs; asks first for more than one")
    what = cancel.add_argument("what", nargs="+", metavar="RUN|NAME", help="run ids, or names: all active runs of it")
    of_runs(what)
    cancel.add_argument("-y", "--yes", action="store_true", help="do not ask")
    cancel.set_defaults(run=_cancel)

    retry = commands.add_parser("retry", parents=[results], help="submit again what is neither done nor active")
    what = retry.add_argument(
        "what", nargs="+", metavar="RUN|NAME", help="run ids, names, and hydra.launcher.KEY=VALUE"
    )
    of_runs(what)
    retry.set_defaults(run=_retry)


def _cancel(given: argparse.Namespace) -> int:
    from nano_exp import control
    from nano_exp.report import select

    def confirm(question: str) -> bool:
        return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    return control.cancel(select.loaded(folder(given), given.what), given.yes, confirm)


def _retry(given: argparse.Namespace) -> int:
    from nano_exp import control
    from nano_exp.report import select

    results = folder(given)
    overrides = [word for word in given.what if "=" in word]
    words = [word for word in given.what if "=" not in word]
    if not words:
        raise UserError(
            "no run named", "retry submits what you name", "nano-exp retry RUN|NAME [hydra.launcher.KEY=VALUE]"
        )
    return control.retry(results, select.loaded(results, words), overrides)
