"""The synthetic sweep, made once, with Slurm commands that say that nothing is queued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import results_case

from nano_exp.results import Results, load_results


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_case.make(tmp_path_factory.mktemp("case"))


@pytest.fixture
def slurm(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's commands for this store, first on PATH."""
    monkeypatch.setenv("PATH", results_case.commands(store.parent), prepend=":")


@pytest.fixture(scope="session")
def found(store: Path) -> Iterator[Results]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", results_case.commands(store.parent), prepend=":")
    yield load_results(store, [results_case.NAME])
    patch.undo()
