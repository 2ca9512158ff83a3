"""init: a project folder of the user's own, outside of any checkout."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from nano_exp.commands import Commands
from nano_exp.errors import UserError

TEMPLATE = Path(__file__).with_name("project")
#: Kept as they are in the package, and copied: what a user edits.
COPIED = ("env.example.yaml", "slurm/train.sbatch", "slurm/sweep.sbatch")


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    init = commands.add_parser(
        "init",
        epilog="nano-exp init my-exp",
        help="make a project folder: launch.py, and a conf/ that goes before the package's",
        description="Makes a folder to launch from: launch.py, conf/ and sweeps/ for files of your own, which win over "
        "the package's of the same name, slurm/, env.example.yaml, README.md and .gitignore.",
    )
    init.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.folder).expanduser().absolute()
    _require_empty(folder, arguments.folder)
    try:
        for name, text in texts().items():
            _write(folder / name, text)
        (folder / "conf" / "sweeps").symlink_to("../sweeps")
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror}",
            "the project folder is made there",
            "nano-exp init /another/folder, on a file system that the nodes see",
        ) from None
    print(f"{arguments.folder}: a project folder, with nano-exp of {sys.prefix}")
    for name in sorted(texts()):
        print(f"  {name}")
    print(f"\nnext: cd {shlex.quote(str(arguments.folder))} && nano-exp launch dry_run=true    (README.md: the rest)")
    return 0


def texts() -> dict[str, str]:
    """Path below the folder -> text."""
    from nano_exp import project

    made = {str(path.relative_to(TEMPLATE)).removesuffix(".txt"): path.read_text() for path in _templates()}
    for name in COPIED:
        made[name] = (project.BASE / name).read_text()
    site = (project.BASE / "conf/site/default.yaml").read_text()
    made["conf/site/example.yaml"] = site.replace("name: default", "name: example", 1)
    # The nodes start what made the folder, unless NANO_EXP_PYTHON names another.
    python = f"PYTHON=${{NANO_EXP_PYTHON:-{shlex.quote(sys.executable)}}}"
    made["slurm/train.sbatch"] = made["slurm/train.sbatch"].replace("PYTHON=   #", f"{python}   #", 1)
    return made


def _templates() -> list[Path]:
    return [path for path in TEMPLATE.rglob("*.txt") if path.is_file()]


def _require_empty(folder: Path, typed: Path) -> None:
    from nano_exp import project

    if project.is_project(folder):
        raise UserError(f"{typed} is a project folder already", "its files are yours", f"cd {shlex.quote(str(typed))}")
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"{typed} is a file", "a project is a folder", f"nano-exp init {typed}-project")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{typed} is not empty",
            "no file of yours is overwritten",
            f"nano-exp init {shlex.quote(str(typed / 'my-exp'))}",
        )


def _write(path: Path, text: str) -> None:
    from nano_exp import files

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)
