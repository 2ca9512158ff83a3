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


def _status(given: argparse.Namespace) -> int:
    from nano_exp import text
    from nano_exp.index import selection
    from nano_exp.report import status, table
    from nano_exp.store.asked import Asked
    from nano_exp.terminal import progress_line

    gc.disable()  # nothing becomes garbage before the end, and looking for it takes a third of the time of many runs
    asked = Asked()
    with progress_line.waiting("reading the runs and asking Slurm ..."):
        lines = status.lines(folder(given), given.what, asked)
    for line in selection.closed(folder(given)):
        print(f"note: {line}", file=sys.stderr)
    if given.state:
        lines = status.filtered(lines, given.state)
    if given.sort:
        lines = status.ordered(lines, given.sort)
    if given.json:
        print(status.as_json(lines, asked))
    elif not lines:
        print(f"no run here is {given.state.replace(',', ' or ')}", file=sys.stderr)
    else:
        print(table.table(lines, asked.error, text.terminal_width()))
        if lacking := table.unsent(lines):
            print(f"\n{lacking}")
    return 0
