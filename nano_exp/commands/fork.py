"""fork: go on with a run from one of its checkpoints, optimizer included, with other values from there on."""

from __future__ import annotations

import argparse
from pathlib import Path

from nano_exp.commands import Commands, folder
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    fork = commands.add_parser(
        "fork",
        epilog="nano-exp fork r0123456789@200 optimizer.lr=1e-6",
        parents=[results],
        help="a new run that goes on from a run's checkpoint, optimizer included, with other values",
    )
    fork.add_argument(
        "what", nargs="+", metavar="RUN@STEP", help="a run's checkpoint (RUN@best, RUN@last), then KEY=VALUE ..."
    )
    fork.set_defaults(run=_fork)


def _fork(arguments: argparse.Namespace) -> int:
    from nano_exp.commands import launch
    from nano_exp.compose import origins
    from nano_exp.engines.origin import FORK
    from nano_exp.index import selection
    from nano_exp.launch import forks

    sources = [word for word in arguments.what if "=" not in word]
    changes = [word for word in arguments.what if "=" in word]
    if len(sources) != 1 or not changes:
        raise UserError(
            " ".join(arguments.what),
            "a fork has one source, and values that change",
            "nano-exp fork RUN@STEP optimizer.lr=1e-6",
        )
    results = folder(arguments)
    run = selection.one(results, sources[0].partition("@")[0])
    origin, source = origins.find(FORK, sources[0], results, Path.cwd())
    forks.require_same_config(run, source)
    print("\n".join(forks.stays(origin, source)))
    return launch.launched(forks.words(run, origin, changes))
