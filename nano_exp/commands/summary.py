"""summary: how a sweep stands: done of total, best point, what it took, what is left and what stands in the way."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, folder, ranking_options


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    summary = commands.add_parser(
        "summary",
        epilog="nano-exp summary lr",
        parents=[results],
        help="a sweep in a few lines: done of total, best point, GPU-hours spent, wasted and left, what is in the way",
    )
    ranking_options(summary, at=False)
    summary.add_argument("--cost", action="store_true", help="what each run took and wasted, the most wasted first")
    summary.add_argument("--json", action="store_true", help="the same for scripts")
    summary.set_defaults(run=_summary)


def _summary(given: argparse.Namespace) -> int:
    from nano_exp import text
    from nano_exp.results import load_results, outlook
    from nano_exp.terminal import progress_line

    with progress_line.waiting("reading the runs ..."):
        found = load_results(folder(given), given.what, given.seeds)
        if given.cost and not given.json:
            print(outlook.cost_table(found, text.terminal_width()))
            return 0
        made = outlook.look(found, given.by)
    print(outlook.as_json(made) if given.json else outlook.words(made, text.terminal_width()))
    return 0
