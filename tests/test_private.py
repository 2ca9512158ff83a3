"""Private parts of Hydra, OmegaConf and submitit are used in one module each, and their versions are pinned."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

import nano_exp

PACKAGE = Path(nano_exp.__file__).parent
ALLOWED = {"hydra_internals.py": ("hydra", "omegaconf"), "launch/executors.py": ("submitit",)}
PRIVATE = ("hydra._internal", "omegaconf._utils", "omegaconf._impl", "omegaconf.base")
LIBRARIES = ("hydra", "omegaconf", "submitit")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")  # `_target_` is a key of Hydra's


@cache
def private_names(library: str) -> frozenset[str]:
    """What the library's classes and modules call private."""
    package = importlib.import_module(library)
    names: set[str] = set()
    for found in pkgutil.walk_packages(package.__path__, f"{library}."):
        if ".test_" in found.name or ".grammar." in found.name or found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == found.name]
        names |= {name for owner in (module, *classes) for name in vars(owner) if _is_private(name)}
    return frozenset(names)


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses(source: str) -> list[str]:
    """Private modules that are imported, and private names that are asked of something else than `self`."""
    tree = ast.parse(source)
    modules = [name for node in ast.walk(tree) for name in imported(node) if name.split(".")[0] in LIBRARIES]
    found = [name for name in modules if name.startswith(PRIVATE) or any(map(_is_private, name.split(".")))]
    libraries = [one for one in LIBRARIES if any(name.split(".")[0] == one for name in modules)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            found += [f".{node.attr}" for one in libraries if node.attr in private_names(one)]
    return found


SOURCES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_no_other_module_uses_a_private_part() -> None:
    found = {name: uses(path.read_text()) for name, path in SOURCES.items() if name not in ALLOWED}
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    "source",
    [
        "from hydra._internal.hydra import Hydra",
        "import omegaconf.base",
        "from omegaconf._utils import split_key",
        "from omegaconf import DictConfig\ndef f(node: DictConfig): return node._get_node('a')",
        "from hydra.core.config_loader import ConfigLoader\ndef f(x): x._apply_overrides_to_config([], None)",
        "import submitit\nsubmitit.SlurmExecutor('x')._make_submission_file_text('', '')",
    ],
)
def test_a_private_part_is_seen(source: str) -> None:
    assert uses(source)


@pytest.mark.parametrize("name", ["hydra-core", "omegaconf", "submitit"])
def test_the_versions_that_were_checked_are_those_that_are_pinned(name: str) -> None:
    needed = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"{name}=={version(name)}" in needed
    said = "".join(str(ast.get_docstring(ast.parse(SOURCES[module].read_text()))) for module in ALLOWED)
    assert f"{name} {version(name)}" in said
