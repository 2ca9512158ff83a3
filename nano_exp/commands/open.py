"""open: every path of a run."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, folder, of_runs


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    where = commands.add_parser("open", epilog="nano-exp open r3f9", parents=[results], help="every path of a run")
    of_runs(where.add_argument("what", metavar="RUN|TASK", help="a run's id, a name with one run, or a Slurm job"))
    where.add_argument("--json", action="store_true", help="the same for scripts: what it is -> its path")
    where.set_defaults(run=_open)


def _open(arguments: argparse.Namespace) -> int:
    import json
    import os

    from nano_exp import text
    from nano_exp.index import paths, selection

    run = selection.one(folder(arguments), arguments.what)
    path_of = paths.paths(run)
    if arguments.json:
        print(json.dumps({what: str(path) for what, path in path_of.items()}, indent=1))
        return 0
    rows = [(what, path if os.access(path, os.F_OK) else f"{path}  (not there)") for what, path in path_of.items()]
    print(text.table(("what", "path"), rows, indent=""))
    return 0
