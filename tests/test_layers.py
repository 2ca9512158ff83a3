"""The house: layers that know only those below them, and two programs that meet in the store alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nano_exp
from nano_exp.launch import snapshot

PACKAGE = Path(nano_exp.__file__).parent
#: Lowest first. A package imports those in lines above its own, and itself; docs/architecture.md has the picture.
LAYERS = (
    ("__init__", "errors", "overrides", "hydra_internals"),
    ("files", "text", "credentials", "dotted", "synonyms", "project"),
    ("alike",),
    ("nemo_rl", "slurm", "environment"),
    ("store", "layout"),
    ("triage", "index", "notify", "study"),
    ("terminal",),
    ("engines",),
    ("after",),
    ("job", "compose"),
    ("planner",),
    ("preflight",),
    ("advice",),
    ("launch",),
    ("prepare", "recipes", "report", "sync", "doctor", "sites"),
    ("results",),
    ("html_report", "figures"),
    ("api",),
    ("app",),
    ("commands",),
    ("cli",),
    ("inside",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
#: `nano_exp.load` is a shortcut to the API at the top; it is imported when it is called.
SHORTCUT = ("nano_exp", "nano_exp.api")


def _name(path: Path) -> str:
    parts = ["nano_exp", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> Iterator[str]:
    """The package's modules that a module imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in named if name in MODULES and name != module and (module, name) != SHORTCUT)


@cache
def arrows() -> dict[str, list[str]]:
    """Each module and those that it imports."""
    return {module: sorted(set(imports(module))) for module in MODULES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_a_module_imports_its_own_package_and_layers_below() -> None:
    up = [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        for target in targets
        if room(target) != room(module) and RANK[room(target)] >= RANK[room(module)]
    ]
    assert up == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def reached(start: str) -> set[str]:
    """Everything that is loaded with a module, the packages that modules lie in too."""
    found: set[str] = set()
    new = [start]
    while new:
        module = new.pop()
        if module not in found:
            found.add(module)
            new += [*arrows()[module], *(p for p in (module.rpartition(".")[0],) if p in MODULES)]
    return found


def test_a_job_reaches_nothing_of_the_launch_and_a_launch_nothing_of_the_job() -> None:
    engines = {name for name in MODULES if room(name) == "engines"}  # loaded by their name in the config
    job = set().union(*(reached(name) for name in {"nano_exp.job.__main__", *engines}))
    assert {room(name) for name in job} <= {"engines", "nemo_rl", *snapshot.JOB_CODE, *snapshot.JOB_MODULES}
    assert not [name for name in reached("nano_exp.launch.flow") | reached("nano_exp.app") if room(name) == "job"]


@pytest.mark.parametrize("engine", ["embedded", "nemo_rl"])
def test_a_launch_of_one_engine_copies_what_its_job_reaches(engine: str) -> None:
    copied = {_name(path) for path in snapshot.job_code({engine}) if path.suffix == ".py"}
    assert reached("nano_exp.job.__main__") <= copied


def test_what_a_job_reaches_is_what_a_launch_copies() -> None:
    engine_names = {path.name for path in (PACKAGE / "engines").iterdir() if path.is_dir()}
    copied = {_name(path) for path in snapshot.job_code(engine_names) if path.suffix == ".py"}
    engines = {name for name in MODULES if room(name) == "engines"}
    assert set().union(*(reached(name) for name in {"nano_exp.job.__main__", *engines})) <= copied
