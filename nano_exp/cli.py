"""`nano-exp`: everything about runs that is not launching them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nano_exp.errors import UserError, nearest

RESULTS_ENV = "NANO_EXP_RESULTS"
#: The modules of the commands (nano_exp/commands/__init__.py says what is in one), in the order of --help.
COMMANDS = (
    "nano_exp.commands.look",
    "nano_exp.commands.explain",
    "nano_exp.commands.control",
    "nano_exp.commands.check",
    "nano_exp.commands.render",
    "nano_exp.commands.recipes",
    "nano_exp.commands.plan",
    "nano_exp.commands.sync",
    "nano_exp.commands.complete",
)


def default_results() -> Path:
    """Where runs are looked for: NANO_EXP_RESULTS, or ./results as a launch from here would write."""
    return Path(os.environ.get(RESULTS_ENV) or "results").expanduser().resolve()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="nano-exp", description="Look after runs that launch.py made.")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--results",
        type=Path,
        default=default_results(),
        help=f"folder of the runs (default: ${RESULTS_ENV} or ./results)",
    )

    for module in COMMANDS:
        importlib.import_module(module).add(commands, where)
    return main_parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes a list of names on one side of an option only; here they may stand on both."""
    main_parser = parser()
    words = _joined(list(sys.argv[1:] if argv is None else argv))
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next (nano-exp completion)
        import argcomplete

        argcomplete.autocomplete(main_parser)
    _require_command(main_parser, words)
    given, rest = main_parser.parse_known_args(words)
    for name in ("what", "overrides"):
        if isinstance(getattr(given, name, None), list):
            getattr(given, name).extend(word for word in rest if not word.startswith("-"))
            rest = [word for word in rest if word.startswith("-")]
    if rest:
        main_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return given


def _joined(words: list[str]) -> list[str]:
    """`--sort -reward` as one word: argparse takes a value that begins with - for another option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort" and word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _require_command(main_parser: argparse.ArgumentParser, words: list[str]) -> None:
    """A mistyped command is answered with the nearest one; argparse would list all of them."""
    [commands] = [a for a in main_parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not words or words[0].startswith("-") or words[0] in commands.choices:
        return
    near = nearest(words[0], commands.choices)
    raise UserError(
        f"nano-exp {words[0]}",
        f"there is no such command; there are: {', '.join(commands.choices)}",
        f"nano-exp {' '.join([*near[:1], *words[1:]])}" if near else "nano-exp --help",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `nano-exp` command. Returns the exit code."""
    try:
        given = _parse(argv)
        code = int(given.run(given))
        sys.stdout.flush()  # here, where a reader that went away (`nano-exp status | head`) is no fault
        return code
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
