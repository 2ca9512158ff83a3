"""status: a table of runs, what became of them and what to do next."""

from __future__ import annotations

import argparse
import gc
import sys

from nano_exp.commands import Commands, folder, of_runs


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


def _status(arguments: argparse.Namespace) -> int:
    from nano_exp import text
    from nano_exp.index import selection
    from nano_exp.report import status, table
    from nano_exp.store.queue_lookup import QueueLookup
    from nano_exp.terminal import progress_line

    gc.disable()  # nothing becomes garbage before the end, and looking for it takes a third of the time of many runs
    lookup = QueueLookup()
    with progress_line.waiting("reading the runs and asking Slurm ..."):
        lines = status.lines(folder(arguments), arguments.what, lookup)
    for line in selection.closed(folder(arguments)):
        print(f"note: {line}", file=sys.stderr)
    if arguments.state:
        lines = status.filtered(lines, arguments.state)
    if arguments.sort:
        lines = status.ordered(lines, arguments.sort)
    if arguments.json:
        print(status.as_json(lines, lookup))
    elif not lines:
        print(f"no run here is {arguments.state.replace(',', ' or ')}", file=sys.stderr)
    else:
        print(table.table(lines, lookup.error, text.terminal_width()))
        if lacking := table.unsent(lines):
            print(f"\n{lacking}")
    return 0
