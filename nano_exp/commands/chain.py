"""chain: runs of which each starts from the one before, launched together."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    chain = commands.add_parser(
        "chain",
        epilog="nano-exp chain sft_then_grpo grpo:optimizer.lr=1e-3",
        help="a chain of conf/chain: runs of which each starts from the one before, launched together",
    )
    name = chain.add_argument("name", nargs="?", metavar="NAME", help="a chain; without it, the chains that there are")
    name.completer = _names  # type: ignore[attr-defined]  # argcomplete's
    chain.add_argument(
        "overrides",
        nargs="*",
        metavar="[LINK:]KEY=VALUE",
        help="as for launch.py, for all links or for one of them; dry_run=true shows what would be done",
    )
    chain.set_defaults(run=_chain)


def _names(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The chains that begin so. argcomplete calls it."""
    from nano_exp.launch import chain_file

    return [name for name in chain_file.names() if name.startswith(prefix)]


def _chain(given: argparse.Namespace) -> int:
    from nano_exp.launch import chain_file, chains

    if given.name is None:
        for name in chain_file.names():
            print(f"{name:24}{' -> '.join(link.name for link in chain_file.read(name))}")
        return 0
    return chains.launch(given.name, given.overrides)
