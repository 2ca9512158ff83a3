"""explain: the cause and the remedy of any log of NeMo RL or Slurm."""

from __future__ import annotations

import argparse
import shutil
import sys

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain",
        epilog="nano-exp explain slurm-4711.out",
        help="why a job failed, by its logs alone, also of jobs that were launched without nano-exp",
    )
    explain.add_argument(
        "what",
        nargs="+",
        metavar="FILE",
        help="a log; - for standard input. Two that differ in out and err (slurm-12.out slurm-12.err) are one job's",
    )
    explain.add_argument("--json", action="store_true", help="the same for scripts")
    explain.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    from nano_exp.report import explain

    diagnosed = explain.explain(arguments.what)
    if arguments.json:
        print(explain.as_json(diagnosed))
    else:
        print(explain.as_text(diagnosed, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    return 0
