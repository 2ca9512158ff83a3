"""Fixtures that bring up the one-machine Slurm, in a folder of their own and with short timers.

`minicluster` is one cluster for the whole session, with accounting; `minicluster_no_accounting` another, beside it.
A test that uses either has SLURM_CONF and PATH set for it. Where the cluster cannot run, tests are skipped with the
tool's own words; with NANO_EXP_REQUIRE_SLURM=1 they fail instead.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import Lab, opened
from minicluster_tool import PREFIX, MiniCluster, brought_up, tool


@pytest.fixture(scope="session")
def _no_abandoned_clusters() -> None:
    """Take down the clusters of test sessions that were killed before they could."""
    for state in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"):
        owner = state.name.removeprefix(PREFIX).split("-")[0]
        if os.geteuid() == 0 and not Path(f"/proc/{owner}").exists():
            tool("down", "--state", str(state), check=True)


@pytest.fixture(scope="session")
def minicluster(_no_abandoned_clusters: None) -> Iterator[MiniCluster]:
    """mini1 and mini2 with accounting and short timers."""
    with brought_up("--fast") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def minicluster_no_accounting(_no_abandoned_clusters: None) -> Iterator[MiniCluster]:
    """The same without slurmdbd: sacct fails, as on many sites."""
    with brought_up("--fast", "--no-accounting") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _slurm_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point this process at the cluster that the test uses."""
    for name in ("minicluster", "minicluster_no_accounting"):
        if name in request.fixturenames:
            cluster: MiniCluster = request.getfixturevalue(name)
            for stale in [v for v in os.environ if v.startswith(("SLURM_", "SBATCH_"))]:
                monkeypatch.delenv(stale)
            for variable in ("SLURM_CONF", "PATH"):
                monkeypatch.setenv(variable, cluster.env[variable])


@pytest.fixture
def lab(minicluster: MiniCluster, tmp_path: Path) -> Iterator[Lab]:
    """A folder to launch from, on the session's cluster."""
    with opened(minicluster, tmp_path / "launch") as made:
        yield made
