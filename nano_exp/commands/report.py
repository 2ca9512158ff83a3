"""report: the results of sweeps as one HTML file, to look at and to send to others."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nano_exp.commands import Commands, folder, output_file, ranking_options

if TYPE_CHECKING:
    from nano_exp.results import Results

#: Seconds between two looks of --watch where none are given; below the shortest the store is read all the time.
EVERY, SHORTEST = 60, 5


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    report = commands.add_parser(
        "report",
        epilog="nano-exp report lr -o lr.html",
        parents=[results],
        help="one HTML file of a sweep: ranking, heat map, curves, time, cost, failures; opens without a network",
    )
    ranking_options(report)
    report.add_argument("-o", "--output", type=Path, help="the file (default: NAME.html here)")
    report.add_argument("--metric", action="append", default=[], metavar="NAME", help="draw this one's curves too")
    report.add_argument("--watch", action="store_true", help="write it anew while runs go on; the page reloads itself")
    report.add_argument("--every", type=int, default=EVERY, metavar="S", help=f"with --watch: seconds ({EVERY})")
    report.set_defaults(run=_report)


def _report(given: argparse.Namespace) -> int:
    from nano_exp.errors import UserError

    if given.every < SHORTEST:
        raise UserError(f"--every {given.every}", f"it is read again every {SHORTEST} s at most", f"--every {EVERY}")
    output = _output(given)
    while True:
        results = _write(given, output)
        going = any(run.state in ("pending", "running") for run in results.runs)
        if not (given.watch and going):
            return 0
        time.sleep(given.every)


def _output(given: argparse.Namespace) -> Path:
    """Where the page goes: NAME.html here where nothing is given."""
    name = "-".join(word.strip("/").replace("/", "-") for word in given.what) or "report"
    return output_file(given.output or Path(f"{name[:80]}.html"), (".html", ".htm"), "a report")


def _write(given: argparse.Namespace, output: Path) -> Results:
    """Read the store and write the page; half a page is never seen."""
    from nano_exp import files, text
    from nano_exp.html_report import document, page
    from nano_exp.results import load_results
    from nano_exp.results.curves import metric_name
    from nano_exp.results.ranking import rank
    from nano_exp.terminal import progress_line

    with progress_line.waiting("reading the runs ..."):
        results = load_results(folder(given), given.what, given.seeds)
        extra = [metric_name(word, results.metric_names, "--metric ") for word in given.metric]
        ranking = rank(results, given.by, given.at)
        content = document.document(ranking, output, extra)
    if given.watch and any(run.state in ("pending", "running") for run in results.runs):
        content["refresh_s"] = given.every
    written = page.page(content)
    files.write_text(output, written)
    runs = f"{len(results.runs)} run" + "s" * (len(results.runs) != 1)
    print(f"{text.relative(output)}: {runs}, {len(written) / 1e6:.1f} MB, opens without a network", flush=True)
    return results
