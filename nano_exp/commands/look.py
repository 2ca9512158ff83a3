"""status and logs: what became of runs."""

from __future__ import annotations

import argparse
import gc
import shutil
import sys

from nano_exp.commands import Commands, folder
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    status = commands.add_parser(
        "status", parents=[results], help="a table of runs: state and why, step, reward, GPU-hours, what to do next"
    )
    status.add_argument("what", nargs="*", metavar="SWEEP|RUN", help="names, run ids or Slurm jobs; default: all")
    status.add_argument("--state", help="only these: failed,running,...; active: pending and running; stalled")
    status.add_argument(
        "--sort", help="reward, validation, step, age, gpu-hours, created, ..., name; -age: youngest first"
    )
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
    from nano_exp import progress
    from nano_exp.asked import Asked
    from nano_exp.report import status, table

    gc.disable()  # nothing becomes garbage before the end, and looking for it takes a third of the time of many runs
    asked = Asked()
    with progress.waiting("reading the runs and asking Slurm ..."):
        found = status.lines(folder(given), given.what, asked)
    if given.state:
        found = status.filtered(found, given.state)
    if given.sort:
        found = status.ordered(found, given.sort)
    if given.json:
        print(status.as_json(found, asked))
    elif not found:
        print(f"no run here is {given.state.replace(',', ' or ')}", file=sys.stderr)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table.table(found, asked.error, width))
    return 0


def _logs(given: argparse.Namespace) -> int:
    from nano_exp import runs, state
    from nano_exp.asked import Asked
    from nano_exp.report import logs, select

    run = select.one(folder(given), given.what)
    if not given.follow:
        return logs.show_log(run, given.attempt, given.stream, sys.stdout)
    if given.attempt is not None:
        raise UserError("-f with --attempt", "only the newest attempt grows", "leave one of the two out")

    def ended() -> bool:
        now = Asked().state(runs.load(run.dir))
        return now.kind not in (*state.ACTIVE, "unknown")

    return logs.follow(run, given.stream, sys.stdout, ended)
