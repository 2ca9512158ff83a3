"""retry: submit again what is neither done nor active."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, folder, named_runs, of_runs
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
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


def _retry(arguments: argparse.Namespace) -> int:
    from nano_exp.launch import retry

    overrides = [word for word in arguments.what if "=" in word]
    words = [word for word in arguments.what if "=" not in word]
    if not words:
        raise UserError(
            "no run named", "retry submits what you name", "nano-exp retry RUN|NAME [hydra.launcher.KEY=VALUE]"
        )
    return retry.retry(folder(arguments), named_runs(arguments, words, "retry"), overrides)
