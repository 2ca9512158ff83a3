"""What the pages tell to type can be typed: each command, option, script, make target and extra is there.

tests/test_documented.py composes the overrides, and tests/slurm/test_first_run.py runs docs/first-run.md.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from nano_exp import cli

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "slurm"))
from mini.cli import _parser as mini_parser  # noqa: E402

PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "nano_exp/commands/project/README.md.txt")),
    *sorted((ROOT / "docs").glob("*.md")),
)
OURS = r"(?:nano-exp|python launch\.py|slurm/minicluster|make|pip install|sbatch(?! runs)) "
#: A command is a line of a block, fenced or indented, or stands between backquotes.
BLOCKS = re.compile(r"```(?:bash|sh)?\n(.*?)```|((?:^    .*\n)+)", re.DOTALL | re.MULTILINE)
ON_A_LINE = re.compile(rf"^ *(?:\$ )?({OURS}.*)$", re.MULTILINE)
IN_TEXT = re.compile(rf"`({OURS}[^`\n]+)`")
BEHIND = re.compile(r"\s+#.*$| > \S+$| &$")
PLACEHOLDER = re.compile(r"\.\.\.|\[[\w ]+\]")


def commands() -> list[str]:
    """Every one of the pages, once."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        blocks = "\n".join(fenced or indented for fenced, indented in BLOCKS.findall(text))
        for line in [*ON_A_LINE.findall(blocks), *IN_TEXT.findall(text)]:
            parts = re.split(r" && | \| |; ", BEHIND.sub("", line))
            found |= dict.fromkeys(part.strip() for part in parts if re.match(OURS, part))
    return list(found)


@cache
def our_parser() -> cli._Parser:
    return cli.parser()


def by_nano_exp(words: list[str]) -> None:
    if words[0] == "launch":
        by_launch(words[1:])
    elif words != ["--version"]:
        require_known(our_parser().parse_known_args(words)[1])


def by_launch(words: list[str]) -> None:
    require_known(get_args_parser().parse_known_args(words)[1])


def require_known(rest: list[str]) -> None:
    """Of what a parser left over, nothing is an option: words may stand between options."""
    unknown = [word for word in rest if word.startswith("-")]
    assert not unknown, f"no option {unknown}"


def by_minicluster(words: list[str]) -> None:
    mini_parser().parse_args(words)


def by_make(words: list[str]) -> None:
    assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "no such target"


def by_pip(words: list[str]) -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"(?:nano-exp|\.)\[([\w,]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(there)


def by_sbatch(words: list[str]) -> None:
    for script in (word for word in words if word.endswith(".sbatch")):
        assert (ROOT / script).is_file()


PARSERS: dict[str, Callable[[list[str]], None]] = {
    "nano-exp": by_nano_exp,
    "python launch.py": by_launch,
    "slurm/minicluster": by_minicluster,
    "make": by_make,
    "pip install": by_pip,
    "sbatch": by_sbatch,
}


def refused(command: str) -> str:
    """Why a command cannot be typed so; empty where it can."""
    program = next(name for name in PARSERS if command.startswith(f"{name} "))
    words = [word for word in shlex.split(command.removeprefix(program)) if not PLACEHOLDER.fullmatch(word)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            PARSERS[program](words)
    except SystemExit:
        why = said.getvalue().splitlines()[-1]
        is_mention = "are required" in why and not any(word.startswith("-") for word in words)
        return "" if is_mention else f"{command}: {why}"
    except AssertionError as error:
        return f"{command}: {error}"
    return ""


def test_every_command_of_the_pages_can_be_typed() -> None:
    assert len(commands()) > 150
    assert [problem for problem in map(refused, commands()) if problem] == []


@pytest.mark.parametrize(
    "command",
    [
        *("nano-exp statsu", "nano-exp status --jsn", "nano-exp site innit x", "nano-exp check --rule x --no"),
        *("python launch.py --mutlirun model=a", "make tests-all", "pip install 'nano-exp[all]'"),
        *("slurm/minicluster upp", "sbatch slurm/trian.sbatch"),
    ],
)
def test_one_that_cannot_is_found(command: str) -> None:
    assert refused(command)
