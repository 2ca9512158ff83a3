"""The wheel, installed outside of any checkout: `nano-exp init`, and what its README says to type."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a new environment that has the wheel, and this one's packages behind it."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "these.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    [wheel] = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "-q", "--ignore-installed"]
    done = subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return venv / "bin"


@pytest.fixture(scope="module")
def made(bin_dir: Path) -> Path:
    """A project folder."""
    done = call(bin_dir, bin_dir.parent.parent, "nano-exp init my-exp")
    assert done.returncode == 0, done.stderr
    assert "cd my-exp && nano-exp launch dry_run=true" in done.stdout
    return bin_dir.parent.parent / "my-exp"


def call(bin_dir: Path, folder: Path, words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NANO_EXP", "PYTHON", "SLURM"))}
    environ = {**kept, "PATH": f"{bin_dir}:{os.environ['PATH']}", **variables}
    return subprocess.run(shlex.split(words), cwd=folder, env=environ, capture_output=True, text=True, timeout=120)


def test_a_readme_says_what_works(bin_dir: Path, made: Path) -> None:
    text = (made / "README.md").read_text()
    commands = [line.partition("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in
                block.splitlines()]  # fmt: skip
    assert len(commands) > 4
    for command in commands:
        done = call(bin_dir, made, command)
        assert done.returncode == 0, command + done.stderr
        assert not list(made.glob("results/*")), command


def test_its_own_files_win_and_are_named(bin_dir: Path, made: Path) -> None:
    folder = shutil.copytree(made, made.with_name("changed"), symlinks=True)
    assert (folder / "conf" / "sweeps" / "my_lr.yaml").is_file()
    (folder / "conf" / "optimizer").mkdir()
    packaged = next(bin_dir.parent.glob("lib/python*/site-packages/nano_exp/_project/conf"))
    adamw = (packaged / "optimizer" / "adamw.yaml").read_text()
    (folder / "conf" / "optimizer" / "adamw.yaml").write_text(re.sub(r"(?m)^lr: .*$", "lr: 3.25e-7", adamw))
    (folder / "conf" / "cluster").mkdir()
    (folder / "conf" / "cluster" / "my_4n.yaml").write_text("num_nodes: 4\ngpus_per_node: 8\n")
    below = folder / "results_of_mine"
    below.mkdir()
    said = call(bin_dir, below, "nano-exp --version")
    assert f"conf: {folder}/conf, then {packaged}" in said.stdout
    shown = call(bin_dir, below, "nano-exp render model=nano_9b cluster=my_4n")
    assert shown.returncode == 0, shown.stderr
    assert "num_nodes: 4" in shown.stdout
    assert "lr: 3.25e-07" in shown.stdout
    sweep = "launch.py sweeps=my_lr model=nano_9b cluster=1n8g dry_run=true"
    swept = call(bin_dir, bin_dir, f"python {folder}/{sweep}")  # the folder is launch.py's, wherever it is typed
    assert "2 runs" in swept.stdout, swept.stderr
    wrong = call(bin_dir, folder, "python launch.py model=nano_9b cluster=9n9g dry_run=true")
    assert wrong.returncode == 2
    assert f"(in {folder}/conf, then {packaged})" in wrong.stderr
    assert f"a file {folder}/conf/cluster/9n9g.yaml with" in wrong.stderr


def test_without_a_project_folder(bin_dir: Path, tmp_path: Path) -> None:
    said = call(bin_dir, tmp_path, "nano-exp --version")
    assert "no project folder here (nano-exp init makes one)" in said.stdout
    assert call(bin_dir, tmp_path, "nano-exp launch dry_run=true").returncode == 0
    assert not list(tmp_path.iterdir())


def test_sbatch_starts_the_python_that_made_the_folder(bin_dir: Path, made: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\n[ "$1" = -c ] || echo "$NANO_EXP_PROJECT $PYTHONPATH. $*"\n')
    python.chmod(0o755)
    inside = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(made), "NANO_EXP_PYTHON": str(python)}
    started = call(bin_dir, made, "bash slurm/train.sbatch model=nano_9b", **inside)
    assert started.stdout.startswith(f"{made} . -m nano_exp.inside "), started.stderr
    assert f"PYTHON=${{NANO_EXP_PYTHON:-{bin_dir}/python" in (made / "slurm" / "train.sbatch").read_text()


def test_init_overwrites_nothing(bin_dir: Path, made: Path, tmp_path: Path) -> None:
    again = call(bin_dir, made.parent, "nano-exp init my-exp")
    assert again.returncode == 2
    assert "my-exp is a project folder already" in again.stderr
    (tmp_path / "mine").write_text("")
    full = call(bin_dir, tmp_path, "nano-exp init .")
    assert (full.returncode, "is not empty" in full.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
