"""launch: the same as `python launch.py`, from any folder."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    """For --help and Tab: its words are Hydra's, and argparse never reads them (nano_exp.cli.main)."""
    commands.add_parser(
        "launch",
        epilog="nano-exp launch -m model=nano_9b cluster=1n8g grpo.seed=1,2,3",
        help="compose, check and submit runs: python launch.py, from any folder",
    )


def launched(words: Sequence[str]) -> int:
    """Returns the exit code of launch.py."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # as launch.py does
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nano_exp import app

    sys.argv = [sys.argv[0], *words]
    return app.launch()
