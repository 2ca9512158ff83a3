"""status and logs: what became of runs."""

from __future__ import annotations

import argparse
import gc
import sys

from nano_exp.commands import Commands, folder, of_runs
from nano_exp.errors import UserError
from nano_exp.terminal import progress_line


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    status = commands.add_parser(
        "status",
        epilog="nano-exp status lr --sort reward",
        parents=[results],
        help="a table of runs: state and why, step, reward, GPU-hours, what to do next",
    )
    what = status.add_argument(
        "what", nargs="*", metavar="SWEEP|RUN", help="names, run ids or Slurm jobs; default: all"
    )
    of_runs(what)
    status.add_argument("--state", help="only these: failed,running,...; active: pending and running; stalled")
    status.add_argument(
        "--sort", help="reward, validation, step, age, gpu-hours, created, ..., name; -age: youngest first"
    )
    status.add_argument("--json", action="store_true", help="the same for scripts")
    status.set_defaults(run=_status)

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

    where = commands.add_parser("open", epilog="nano-exp open r3f9", parents=[results], help="every path of a run")
    of_runs(where.add_argument("what", metavar="RUN|TASK", help="a run's id, a name with one run, or a Slurm job"))
    where.add_argument("--json", action="store_true", help="the same for scripts: what it is -> its path")
    where.set_defaults(run=_open)

    watch = commands.add_parser(
        "watch", epilog="nano-exp watch lr", parents=[results], help="status, live; keys follow a log, cancel, retry"
    )
    of_runs(watch.add_argument("what", nargs="*", metavar="SWEEP|RUN", help="as for status"))
    watch.set_defaults(run=_watch)


def _status(given: argparse.Namespace) -> int:
    from nano_exp import text
    from nano_exp.index import selection
    from nano_exp.report import status, table
    from nano_exp.store.asked import Asked

    gc.disable()  # nothing becomes garbage before the end, and looking for it takes a third of the time of many runs
    asked = Asked()
    with progress_line.waiting("reading the runs and asking Slurm ..."):
        found = status.lines(folder(given), given.what, asked)
    for line in selection.closed(folder(given)):
        print(f"note: {line}", file=sys.stderr)
    if given.state:
        found = status.filtered(found, given.state)
    if given.sort:
        found = status.ordered(found, given.sort)
    if given.json:
        print(status.as_json(found, asked))
    elif not found:
        print(f"no run here is {given.state.replace(',', ' or ')}", file=sys.stderr)
    else:
        print(table.table(found, asked.error, text.terminal_width()))
        if said := table.unsent(found):
            print(f"\n{said}")
    return 0


def _logs(given: argparse.Namespace) -> int:
    from nano_exp.index import selection
    from nano_exp.report import logs
    from nano_exp.store import runs, state
    from nano_exp.store.asked import Asked

    run = selection.one(folder(given), given.what)
    number = given.attempt if given.attempt is not None else logs.attempt_of_job(run, given.what)
    log = logs.node_log(run, number, given.node) if given.node else logs.STREAMS[given.stream]
    if not given.follow:
        return logs.show_log(run, number, log, sys.stdout)
    if given.attempt is not None:
        raise UserError("-f with --attempt", "only the newest attempt grows", "leave one of the two out")

    def ended() -> bool:
        now = Asked().state(runs.load(run.dir))
        return now.kind not in (*state.ACTIVE, "unknown")

    return logs.follow(run, log, sys.stdout, ended)


def _open(given: argparse.Namespace) -> int:
    import json
    import os

    from nano_exp import text
    from nano_exp.index import paths, selection

    run = selection.one(folder(given), given.what)
    found = paths.paths(run)
    if given.json:
        print(json.dumps({what: str(path) for what, path in found.items()}, indent=1))
        return 0
    rows = [(what, path if os.access(path, os.F_OK) else f"{path}  (not there)") for what, path in found.items()]
    print(text.table(("what", "path"), rows, indent=""))
    return 0


def _watch(given: argparse.Namespace) -> int:
    from nano_exp.report import watch

    return watch.watch(folder(given), given.what)
