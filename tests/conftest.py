"""What several tests of the core use and is slow to make: a finished run of the embedded engine, a stand-in's copy."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from core_case import TINY, Finished, copy_standin, launch
from standin_caches import with_caches
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from nano_exp.engines.nemo_rl import engine

with_caches()
#: A developer's own key: launches prepared in this process would ask for it in attempts, whose environment tests make.
os.environ.pop("WANDB_API_KEY", None)


#: Slurm's tests are four scopes, each with a cluster of its own in its process. These files have all that starts Ray,
#: of which this machine's nodes see each other's; the others are three parts, of which two begin with these files.
WITH_RAY = ("tests/slurm/test_launch.py", "tests/slurm/test_nodes.py", "tests/slurm/test_pack_slurm.py")
PARTS = ("tests/slurm/test_convergence.py", "tests/slurm/test_halving_slurm.py")


class _FilesAndSlurm(LoadFileScheduling):
    """A file's tests in one process, and those of Slurm in four: they share a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if not file.startswith("tests/slurm/"):
            return file
        return f"tests/slurm, part {_part(file)}"


def _part(file: str) -> int:
    """0 is what starts Ray; the last one is the shortest."""
    return 0 if file in WITH_RAY else 1 + sum(file >= first for first in PARTS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """What `--dist loadfile` means here."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return _FilesAndSlurm(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also the tests that are marked thorough")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is thorough, where it is not asked for. In xdist's processes: Slurm's first, which wait more than
    they work, then the files with most tests."""
    if not config.getoption("thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    if not hasattr(config, "workerinput"):
        return
    many = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int]:
        file = item.nodeid.partition("::")[0]
        if not file.startswith("tests/slurm/"):
            return 9, -many[item.path]
        return _part(file), 0

    items.sort(key=place)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray of somebody else's is seen in this process, as on a workstation where one runs; given folders are read."""
    look = engine.ray_addresses
    monkeypatch.setattr(engine, "ray_addresses", lambda proc=None: {} if proc is None else look(proc))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """`python launch.py` with the embedded engine, two tiny steps, to its end."""
    folder = tmp_path_factory.mktemp("finished")
    done = launch(folder, *TINY, timeout=180)
    found = sorted((folder / "results" / "nano_tiny").glob("r*"))
    assert len(found) == 1, done.stdout + done.stderr
    return Finished(folder, found[0], done.stdout, done.stderr, done.returncode)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the stand-in that belongs to no git repository."""
    return copy_standin(tmp_path_factory.mktemp("checkout") / "standin")
