"""docs/first-run.md word for word: a new folder, an empty hub's cache, no NeMo RL, and at the end a queued run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hub_case
import pytest
import upstream_case
from minicluster_tool import MiniCluster
from pace import limit

ROOT = Path(__file__).resolve().parents[2]
MODEL = "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
#: How a line may end besides 0: there are warnings, or something is not made yet.
ENDS = {"nano-exp doctor": (1, 2), "nano-exp prepare": (1,)}
#: Lines that are not typed here: the installation, whose wheel tests/test_installed.py walks, and a screen.
NOT_HERE = ("cd /shared/me", "git clone", "python3 -m venv", "source ", "pip install", "nano-exp watch")


def lines() -> list[str]:
    """The page's commands, as they are typed."""
    [block] = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "first-run.md").read_text(), re.DOTALL)
    typed = [line.partition(" #")[0].strip() for line in block.splitlines() if not line.startswith("#")]
    return [line for line in typed if line and not line.startswith(NOT_HERE)]


@pytest.fixture
def environ(minicluster: MiniCluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user's shell on a login node: an empty home, uv on PATH; the hub and NeMo RL's repository are local."""
    home = tmp_path / "home"
    home.mkdir()
    apart = ("NANO_EXP", "PYTHON", "HF_", "NEMO_RL", "NRL_", "STANDIN", "WANDB", "XDG", "UV_")
    outer = {name: value for name, value in minicluster.env.items() if not name.startswith(apart)}
    path = f"{upstream_case.uv(tmp_path / 'bin')}:{Path(sys.executable).parent}:{outer['PATH']}"
    source = f"url.{upstream_case.upstream(tmp_path)}.insteadOf"
    git = {**upstream_case.GIT_ENV, "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_1": source}
    git["GIT_CONFIG_VALUE_1"] = "https://github.com/NVIDIA-NeMo/RL.git"
    with hub_case.hub() as hub:
        hub.models = (MODEL,)
        yield {**outer, **git, "HOME": str(home), "HF_HOME": str(home / "hf"), "PATH": path, "HF_ENDPOINT": hub.url}


def test_the_first_run_word_for_word(environ: dict[str, str], tmp_path: Path) -> None:
    folder, said = tmp_path, {}
    for line in lines():
        if line.startswith("cd "):
            folder /= line.removeprefix("cd ")
            continue
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit(120),
        )
        allowed = (0, *ENDS.get(" ".join(line.split()[:2]), ()))
        assert done.returncode in allowed, f"{line}\n{done.stdout}{done.stderr}"
        said[line] = done.stdout
    [status] = [out for line, out in said.items() if line.endswith("--status")]
    assert (folder / "nemo-rl-v0.7.0" / "examples").is_dir() and "prepared: 7 of 8; not there: conversion" in status
    [prepared] = [out for line, out in said.items() if "--checkout" in line]
    assert prepared.endswith("next: python launch.py model=nano_9b cluster=1n8g site=mysite\n")
    assert "submitted as launch" in done.stdout, "the page's last command that is typed here"
    rows = json.loads(subprocess.check_output(["nano-exp", "status", "--json"], cwd=folder, env=environ))["runs"]
    assert {row["name"] for row in rows} == {"first", "nano_9b"}
