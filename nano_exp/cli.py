"""`nano-exp`: everything about runs that is not launching them."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import nano_exp
from nano_exp import project
from nano_exp.errors import UserError, nearest
from nano_exp.store.results_folder import RESULTS_ENV, default_results

#: The commands, each in the module of its name (nano_exp/commands/__init__.py says what is in one), in the order of
#: --help -> what stands above them there.
COMMANDS = {
    **dict.fromkeys(("status", "logs", "open", "watch", "explain", "sync", "notify"), "Look at runs"),
    **dict.fromkeys(("compare", "summary", "study", "report", "plot"), "Results"),
    **dict.fromkeys(("cancel", "retry", "promote", "clean", "rm"), "End runs, start them again, free disk"),
    **dict.fromkeys(("export", "eval", "fork", "chain"), "What comes after a run"),
    **dict.fromkeys(("init", "launch"), "A project of your own, and its launches"),
    **dict.fromkeys(("check", "render", "plan", "prepare"), "Before a launch"),
    **dict.fromkeys(("recipes", "model"), "Versions of NeMo RL, and models"),
    **dict.fromkeys(("site", "doctor"), "A cluster that is new to you"),
    "completion": "In the shell",
}


class _Parser(argparse.ArgumentParser):
    """nano-exp's own, whose help shows the commands in groups, each with an example.

    Parameters
    ----------
    groups: what stands above commands -> their names
    """

    def __init__(self) -> None:
        super().__init__(
            prog="nano-exp",
            description="Looks after runs that launch.py made.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        version = "\n".join((f"nano-exp {nano_exp.__version__}", *project.words()))
        self.add_argument("--version", action="version", version=version)
        self.commands = self.add_subparsers(
            dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
        )
        self.groups: dict[str, list[str]] = {}

    def format_help(self) -> str:
        help_texts = {action.dest: action.help or "" for action in self.commands._choices_actions}
        room = shutil.get_terminal_size().columns
        out = ["usage: nano-exp COMMAND ...", "", str(self.description)]
        for title, names in self.groups.items():
            out += ["", title]
            for name in names:
                out += textwrap.wrap(f"  {name:12}{help_texts[name]}", room, subsequent_indent=" " * 14)
                out += [" " * 14 + (self.commands.choices[name].epilog or "")]
        out += ["", f"nano-exp COMMAND --help has the options. For launching: {project.launcher()} --help"]
        return "\n".join(line.rstrip() for line in out if line.strip() or not line) + "\n"


def parser(only: str | None = None) -> _Parser:
    """The command line, or the part of it that has one command: all of them take as long to make as a short one."""
    main_parser = _Parser()
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--results",
        type=Path,
        default=default_results(),
        help=f"folder of the runs (default: ${RESULTS_ENV} or ./results)",
    )
    for name, title in COMMANDS.items():
        if only not in (None, name):
            continue
        importlib.import_module(f"nano_exp.commands.{name}").add(main_parser.commands, where)
        main_parser.groups.setdefault(title, []).append(name)
    return main_parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes a list of names on one side of an option only; here they may stand on both."""
    words = _joined(list(sys.argv[1:] if argv is None else argv))
    completes = "_ARGCOMPLETE" in os.environ
    main_parser = parser(words[0] if words and words[0] in COMMANDS and not completes else None)
    if completes:  # a shell asks what may come next (nano-exp completion)
        import argcomplete

        argcomplete.autocomplete(main_parser)
    if not words:
        main_parser.print_help()
        main_parser.exit()
    _require_command(main_parser, words)
    arguments, rest = main_parser.parse_known_args(words)
    for name in ("what", "overrides"):
        if isinstance(getattr(arguments, name, None), list):
            getattr(arguments, name).extend(word for word in rest if not word.startswith("-"))
            rest = [word for word in rest if word.startswith("-")]
    if rest:
        main_parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _joined(words: list[str]) -> list[str]:
    """`--sort -reward` as one word: argparse takes a value that begins with - for another option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort" and word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _require_command(main_parser: _Parser, words: list[str]) -> None:
    """A mistyped command is answered with the nearest one; argparse would list all of them."""
    commands = main_parser.commands
    if words[0].startswith("-") or words[0] in commands.choices:
        return
    near = nearest(words[0], commands.choices)
    raise UserError(
        f"nano-exp {words[0]}",
        f"there is no such command; the commands are: {', '.join(commands.choices)}",
        f"nano-exp {' '.join([*near[:1], *words[1:]])}" if near else "nano-exp --help",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `nano-exp` command. Returns the exit code."""
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        if words[:1] == ["launch"]:  # what follows is Hydra's to read
            from nano_exp.commands import launch

            return launch.launched(words[1:])
        arguments = _parse(argv)
        code = int(arguments.run(arguments))
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
