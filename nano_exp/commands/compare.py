"""compare: which point of a sweep is best at equal cost, and how sure that is; or what differs between two runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nano_exp.commands import Commands, folder, ranking_options

if TYPE_CHECKING:
    from nano_exp.results import Results


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    compare = commands.add_parser(
        "compare",
        epilog="nano-exp compare lr --by validation --at gpu-hours=50",
        parents=[results],
        help="rank the points of sweeps at equal cost, over seeds; or two runs side by side",
    )
    ranking_options(compare)
    order = compare.add_mutually_exclusive_group()
    order.add_argument("--lowest", action="store_true", default=None, help="less is better (known of losses and times)")
    order.add_argument("--highest", action="store_false", dest="lowest", help="more is better")
    form = compare.add_mutually_exclusive_group()
    for name, said in (
        ("csv", "a row a point, numbers in full"),
        ("json", "the same with each run's own values"),
        ("md", "a table for a README"),
        ("latex", "a tabular for booktabs"),
    ):
        form.add_argument(f"--{name}", action="store_true", help=said)
    compare.set_defaults(run=_compare)


def _compare(given: argparse.Namespace) -> int:
    from nano_exp import text
    from nano_exp.errors import UserError
    from nano_exp.results import load_results, ranking_table
    from nano_exp.results.ranking import rank
    from nano_exp.terminal import progress_line

    with progress_line.waiting("reading the runs ..."):
        found = load_results(folder(given), given.what, given.seeds)
        two = len(given.what) == 2 == len(found.runs)
        if len(given.what) == 2 and len(found.runs) == 1:
            raise UserError(
                f"nano-exp compare {' '.join(given.what)}",
                f"both words stand for the one run {found.runs[0].id}",
                f"nano-exp compare {found.runs[0].name}, or another run's id",
            )
        made = None if two else rank(found, given.by, given.at, given.lowest)
    if made is None:
        return _two(given, found)
    if given.csv:
        print(ranking_table.as_csv(made))
    elif given.json:
        print(ranking_table.as_json(made))
    elif given.md:
        print(ranking_table.as_markdown(made))
    elif given.latex:
        print(ranking_table.as_latex(made))
    else:
        print(ranking_table.words(made, text.terminal_width()))
    return 0


def _two(given: argparse.Namespace, found: Results) -> int:
    from nano_exp import text
    from nano_exp.errors import UserError
    from nano_exp.results import pair

    if given.csv or given.md or given.latex:
        raise UserError(
            "two runs with --csv, --md or --latex",
            "what differs between two runs is no table of points",
            f"nano-exp compare {' '.join(given.what)} --json, or nano-exp compare {found.runs[0].name} --csv",
        )
    first, second = found.runs
    if first.id not in given.what[0] and second.id in given.what[0]:
        first, second = second, first  # as they were typed
    made = pair.compare(first, second)
    print(pair.as_json(made, given.by) if given.json else pair.words(made, given.by, text.terminal_width()))
    return 0
