"""sync: the runs' metrics to W&B."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from nano_exp.commands import Commands, folder, of_runs

if TYPE_CHECKING:
    from nano_exp.store.runs import Run
    from nano_exp.sync import Outcome

#: Kinds of outcome that a look at all runs does not list one by one.
_QUIET = ("current", "off", "empty")


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    sync = commands.add_parser(
        "sync",
        epilog="nano-exp sync lr",
        parents=[results],
        help="send runs to W&B, from a machine with a network: only what is new",
    )
    of_runs(sync.add_argument("what", nargs="*", metavar="NAME|RUN", help="names, run ids or Slurm jobs; default: all"))
    sync.add_argument("--watch", action="store_true", help="go on until all of them have ended")
    sync.add_argument("--every", type=float, default=60.0, metavar="SECONDS", help="how often --watch looks (60)")
    sync.add_argument(
        "--all",
        action="store_true",
        dest="every_row",
        help="of runs that ended early, also the rows after the last checkpoint",
    )
    sync.add_argument("--json", action="store_true", help="the same for scripts, one object a run")
    sync.set_defaults(run=_sync)


def _sync(arguments: argparse.Namespace) -> int:
    from nano_exp import sync
    from nano_exp.index import selection

    sync.require()
    while True:
        runs = selection.loaded(folder(arguments), arguments.what)
        outcomes, active = _once(arguments, runs)
        if not arguments.watch or not active:
            return 1 if any(outcome.kind in ("failed", "skipped") for outcome in outcomes) else 0
        time.sleep(arguments.every)


def _once(arguments: argparse.Namespace, runs: list[Run]) -> tuple[list[Outcome], bool]:
    """Send what there is now. Returns the outcomes, and whether a run has not ended."""
    from nano_exp import sync
    from nano_exp.store import state
    from nano_exp.store.queue_lookup import QueueLookup
    from nano_exp.terminal import progress_line

    lookup, live = QueueLookup(), progress_line.Live()
    lookup.include(runs)
    active = any(lookup.state(run).kind in (*state.ACTIVE, "unknown") for run in runs)  # before what may end meanwhile
    outcomes = []
    for outcome in sync.sync(runs, lookup, arguments.every_row, live.show if live.tty else lambda _: None):
        live.clear()
        outcomes.append(outcome)
        if arguments.json:
            print(json.dumps(vars(outcome)), flush=True)
        elif outcome.kind not in _QUIET or (arguments.what and len(runs) == 1 and not arguments.watch):
            print(line(outcome), flush=True)
    if not arguments.json and not arguments.watch:
        print(_total(outcomes), file=sys.stderr)
    return outcomes, active


def line(outcome: Outcome) -> str:
    """`lr/r1a2b  sent 12 rows, to step 12  https://...`, and below it what there is to say."""
    result = outcome.kind
    if outcome.kind == "sent":
        result = f"sent {outcome.rows} rows" + (f", to step {outcome.step}" if outcome.step is not None else "")
    first = "  ".join(filter(None, [outcome.run, result, outcome.url]))
    return first + (f"\n  {outcome.remark}" if outcome.remark else "")


def _total(outcomes: list[Outcome]) -> str:
    """`3 sent, 12 current, 1 failed`"""
    kinds = dict.fromkeys(outcome.kind for outcome in outcomes)
    phrases = {"current": "have nothing new", "off": "have W&B off", "empty": "have no rows to send yet"}
    counted = [(sum(o.kind == kind for o in outcomes), phrases.get(kind, kind)) for kind in kinds]
    return ", ".join(f"{count} {word}" for count, word in counted)
