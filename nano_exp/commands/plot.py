"""plot: a picture of sweeps for a paper or a slide."""

from __future__ import annotations

import argparse
from pathlib import Path

from nano_exp.commands import Commands, folder, output_file, ranking_options

FORMATS = (".svg", ".png", ".pdf")
KINDS = ("curves", "heatmap", "bars", "phases")


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    plot = commands.add_parser(
        "plot",
        epilog="nano-exp plot lr --kind heatmap -o lr.pdf",
        parents=[results],
        help="a picture for a paper: curves, heat map, bars or phases, as svg, png or pdf",
    )
    ranking_options(plot)
    plot.add_argument("--kind", choices=KINDS, default="curves", help="what to draw (default: curves)")
    plot.add_argument("-o", "--output", type=Path, required=True, help="the file: .svg, .png or .pdf")
    plot.add_argument("--metric", action="append", default=[], metavar="NAME", help="curves of it (default: of --by)")
    plot.add_argument("--dpi", type=int, default=200, help="dots an inch of a png (200)")
    plot.set_defaults(run=_plot)


def _plot(given: argparse.Namespace) -> int:
    from nano_exp import text
    from nano_exp.figures import save
    from nano_exp.results import load_results
    from nano_exp.results.charts import charts
    from nano_exp.results.curves import metric_name
    from nano_exp.results.ranking import rank
    from nano_exp.terminal import progress_line

    output = output_file(given.output, FORMATS, "a picture")
    with progress_line.waiting("reading the runs ..."):
        results = load_results(folder(given), given.what, given.seeds)
        ranking = rank(results, given.by, given.at)
        names = [metric_name(word, results.metric_names, "--metric ") for word in given.metric] or [ranking.metric]
        metrics = {chart.metric: chart for chart in charts(names)}
        save.picture(ranking, given.kind, [metrics[name] for name in names], output, given.dpi)
    print(text.relative(output))
    return 0
