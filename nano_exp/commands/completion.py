"""completion: what a shell needs so that tab completes commands, options, names and run ids."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands

SHELLS = ("bash", "zsh", "fish")


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    completion = commands.add_parser(
        "completion",
        epilog='eval "$(nano-exp completion bash)"',
        help="what tab needs to complete names and runs; for launch.py: python launch.py -sc install=bash",
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["nano-exp"], shell=arguments.shell))
    return 0
