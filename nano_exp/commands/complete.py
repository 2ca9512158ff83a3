"""completion: what a shell needs so that tab completes commands, options, names and run ids."""

from __future__ import annotations

import argparse
from typing import Any

from nano_exp.commands import Commands, folder

SHELLS = ("bash", "zsh", "fish")


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    completion = commands.add_parser(
        "completion",
        epilog='eval "$(nano-exp completion bash)"',
        help="what tab needs to complete names and runs; for launch.py: python launch.py -sc install=bash",
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=_completion)


def _completion(given: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["nano-exp"], shell=given.shell))
    return 0


def runs(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The names, and the run ids, that begin so. argcomplete calls it."""
    from nano_exp.report import select

    found = select.folders(folder(parsed_args))
    return [word for word in {*(f.name for f in found), *(f.id for f in found)} if word.startswith(prefix)]
