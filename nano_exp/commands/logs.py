"""logs: what the engine of a run printed."""

from __future__ import annotations

import argparse
import sys

from nano_exp.commands import Commands, folder, of_runs
from nano_exp.errors import UserError


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    logs = commands.add_parser(
        "logs", epilog="nano-exp logs -f r3f9", parents=[results], help="what a run's engine printed"
    )
    what = logs.add_argument(
        "what", metavar="RUN|TASK", help="a run's id (its first letters do), a name with one run, or a Slurm job: 39_2"
    )
    of_runs(what)
    logs.add_argument("-f", "--follow", action="store_true", help="go on while it grows, into the next attempt too")
    logs.add_argument("--attempt", type=int, help="which attempt (default: the newest)")
    logs.add_argument(
        "--stream", choices=("out", "err", "attempt"), default="out", help="stdout, stderr or the attempt's own log"
    )
    logs.add_argument("--node", metavar="HOST", help="what Ray and the set-up lines said on one of several nodes")
    logs.set_defaults(run=_logs)


def _logs(arguments: argparse.Namespace) -> int:
    from nano_exp.index import selection
    from nano_exp.report import logs
    from nano_exp.store import runs, state
    from nano_exp.store.queue_lookup import QueueLookup

    run = selection.one(folder(arguments), arguments.what)
    number = arguments.attempt if arguments.attempt is not None else logs.attempt_of_job(run, arguments.what)
    log = logs.node_log(run, number, arguments.node) if arguments.node else logs.STREAMS[arguments.stream]
    if not arguments.follow:
        return logs.show_log(run, number, log, sys.stdout)
    if arguments.attempt is not None:
        raise UserError("-f with --attempt", "only the newest attempt grows", "leave one of the two out")

    def ended() -> bool:
        now = QueueLookup().state(runs.load(run.dir))
        return now.kind not in (*state.ACTIVE, "unknown")

    return logs.follow(run, log, sys.stdout, ended)
