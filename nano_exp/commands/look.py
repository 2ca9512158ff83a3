"""status and logs: what became of runs."""

from __future__ import annotations

import argparse
import sys

from nano_exp.commands import Commands, folder
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    status = commands.add_parser(
        "status", parents=[results], help="a table of runs: state, step, reward, validation, age"
    )
    status.add_argument("what", nargs="*", help="names or run ids; default: all")
    status.add_argument("--json", action="store_true", help="the same for scripts")
    status.set_defaults(run=_status)

    logs = commands.add_parser("logs", parents=[results], help="what a run's engine printed")
    logs.add_argument("what", metavar="RUN", help="a run's id (its first letters do), or a name with one run")
    logs.add_argument("-f", "--follow", action="store_true", help="go on while it grows, into the next attempt too")
    logs.add_argument("--attempt", type=int, help="which attempt (default: the newest)")
    logs.add_argument(
        "--stream", choices=("out", "err", "attempt"), default="out", help="stdout, stderr or the attempt's own log"
    )
    logs.set_defaults(run=_logs)


def _status(given: argparse.Namespace) -> int:
    from nano_exp.asked import Asked
    from nano_exp.report import status

    asked = Asked()
    found = status.lines(folder(given), given.what, asked)
    print(status.as_json(found, asked) if given.json else status.as_table(found, asked))
    return 0


def _logs(given: argparse.Namespace) -> int:
    from nano_exp import runs, state
    from nano_exp.asked import Asked
    from nano_exp.report import logs, status

    run = status.one(folder(given), given.what)
    if not given.follow:
        return logs.show_log(run, given.attempt, given.stream, sys.stdout)
    if given.attempt is not None:
        raise UserError("-f with --attempt", "only the newest attempt grows", "leave one of the two out")

    def ended() -> bool:
        now = Asked().state(runs.load(run.dir))
        return now.kind not in (*state.ACTIVE, "unknown")

    return logs.follow(run, given.stream, sys.stdout, ended)
