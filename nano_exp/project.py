"""Where conf/, sweeps/, slurm/ and env.yaml are looked for: a project folder of the user's own, before the package's.

The package's own files lie beside it in a checkout, and inside it where it was installed from a wheel. A project folder
(`nano-exp init`) has a launch.py and a conf/; it is the one that $NANO_EXP_PROJECT names, else the nearest one above
the folder that a command is typed in. A file of its conf/ wins over the package's of the same path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

#: Names the project folder: set by its launch.py, and by slurm/train.sbatch inside a job.
VARIABLE = "NANO_EXP_PROJECT"
PACKAGE = Path(__file__).resolve().parent
#: In a wheel: what a checkout has beside the package.
INSTALLED = PACKAGE / "_project"
IS_CHECKOUT = not (INSTALLED / "conf").is_dir()
#: The folder that has the package's own conf/, sweeps/ and slurm/.
BASE = PACKAGE.parent if IS_CHECKOUT else INSTALLED


def is_project(folder: Path) -> bool:
    """Whether a folder is one that `nano-exp init` makes; a checkout of nano-exp is none."""
    if not (folder / "conf").is_dir() or (folder / PACKAGE.name / "__init__.py").exists():
        return False
    try:
        return "nano_exp" in (folder / "launch.py").read_text(errors="replace")
    except OSError:
        return False


def _own() -> Path | None:
    if named := os.environ.get(VARIABLE):
        folder = Path(named).expanduser().resolve()
        return folder if is_project(folder) else None
    try:
        here = Path.cwd()
    except OSError:  # the folder was removed
        return None
    return next((folder for folder in (here, *here.parents) if is_project(folder)), None)


#: The user's project folder, where there is one.
OWN = _own()
#: Where env.yaml may lie, and whose commit a launch records.
ROOT = OWN or BASE
#: Where what is written into conf/ goes, and where it is looked for first.
CONF = ROOT / "conf"


def at(path: Path) -> Path:
    """A file of conf/, sweeps/ or slurm/: the project's own, else the package's of the same place."""
    packaged = _packaged(path)
    return packaged if packaged is not None and not path.exists() and packaged.exists() else path


def glob(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder of conf/, and the package's of the same place that it does not replace; by their names."""
    packaged = _packaged(folder)
    found = {path.relative_to(packaged): path for path in packaged.glob(pattern)} if packaged is not None else {}
    found |= {path.relative_to(folder): path for path in folder.glob(pattern)}
    return [found[name] for name in sorted(found)]


def copy(conf: Path, target: Path) -> None:
    """A conf/ as it counts: the package's files, and over them the project's."""
    for folder in (_packaged(conf), conf):
        if folder is not None:
            shutil.copytree(folder, target, dirs_exist_ok=True)


def _packaged(path: Path) -> Path | None:
    """The package's place of a path inside the project; None for any other path."""
    if OWN is None or not path.is_relative_to(OWN):
        return None
    return BASE / path.relative_to(OWN)


def launcher() -> str:
    """The command that launches from here: launch.py where there is one, else `nano-exp launch`."""
    return "python launch.py" if Path("launch.py").is_file() else "nano-exp launch"


def words() -> Iterator[str]:
    """Which conf/ is used, in lines."""
    yield f"conf: {CONF}" + ("" if OWN is None else f", then {BASE / 'conf'}")
    if OWN is None:
        yield "no project folder here (nano-exp init makes one)" if not IS_CHECKOUT else "project: this checkout"
