"""A module's name says what is in it: no two modules share one, and none has a name of Python's own library."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import nano_exp

PACKAGE = Path(nano_exp.__file__).parent
#: Names that two modules have, which mean the same there.
SHARED = {
    "__main__": "Python's own name for what `python -m` starts",
    "compose": "the package's one entry point, and the package",
    "nemo_rl": "engine=nemo_rl loads the engine by its name; nano_exp.nemo_rl has its versions and keys",
}


def by_name() -> dict[str, list[Path]]:
    """Each name with the modules and packages that have it, relative to the package; not the modules of commands.

    `nano_exp/commands/<name>.py` may be called as what does the command's work: it is the way there.
    """
    named: defaultdict[str, list[Path]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE)
        if path.name != "__init__.py" and module.parts[0] != "commands":
            named[path.stem].append(module)
        elif path.name == "__init__.py" and path.parent != PACKAGE:
            named[path.parent.name].append(module.parent)
    return named


def test_no_two_modules_share_a_name() -> None:
    shared = {name: paths for name, paths in by_name().items() if len(paths) > 1}
    assert {name: paths for name, paths in shared.items() if name not in SHARED} == {}
    assert set(shared) == set(SHARED), "a name that is shared no more leaves the list"


def test_no_module_has_a_name_of_the_standard_library() -> None:
    commands = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__"}
    # `nano-exp site` is the conf group's name; Python's own `site` is loaded before anything of a package.
    assert set(by_name()) & sys.stdlib_module_names <= {"__main__"}
    assert commands & sys.stdlib_module_names <= {"site"}
