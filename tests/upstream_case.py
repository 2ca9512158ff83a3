"""NeMo RL's repository as it is cloned: a release with the stand-in's scripts and a submodule, and a uv that makes
environments of nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from nano_exp.prepare.data_sets import CONFIGS, GYM
from nano_exp.prepare.environments import PREFETCH

STANDIN = Path(__file__).with_name("standin")
#: For git: submodules from a folder, which it refuses otherwise.
GIT_ENV = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
#: What a program of NeMo Gym's does for its data, and what uv does in NeMo RL's checkout and in Gym's.
PREPARE_DATA = """\
#!/bin/sh
mkdir -p data/workplace_assistant && cd data/workplace_assistant
for name in train validation; do echo '{"agent_ref": 1}' > $name.jsonl; done
"""
UV = f"""\
#!/bin/sh
case "$1 $2 $3" in
"sync --extra dev") mkdir -p .venv/bin && cp {{tool}} .venv/bin/ng_prepare_data ;;
"sync  ") mkdir -p .venv/bin .venv/lib/python3/site-packages/ray && ln -sf {sys.executable} .venv/bin/python ;;
"run {PREFETCH} "*) shift 2
  for worker; do
    folder=$NEMO_RL_VENV_DIR/nemo_rl.$worker
    mkdir -p $folder/bin && touch $folder/bin/python $folder/package
  done ;;
"run python "*) shift 2; exec {sys.executable} "$@" ;;
*) exit 9 ;;
esac
"""


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def _repository(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")


def upstream(folder: Path) -> Path:
    """Make it in `folder`, which is empty; the repository, whose tag is v0.7.0."""
    gym, rl = folder / "gym", folder / "upstream"
    _repository(gym, {"pyproject.toml": "", **dict.fromkeys(CONFIGS, "{}\n")})
    shutil.copytree(STANDIN, rl, ignore=shutil.ignore_patterns("__pycache__"))
    _repository(rl, {"nemo_rl/package_info.py": "MAJOR = 0\nMINOR = 7\nPATCH = 0\n", PREFETCH: ""})
    git(rl, "submodule", "add", "-q", str(gym), GYM)
    git(rl, "commit", "-qm", "two")
    git(rl, "tag", "v0.7.0")
    return rl


def uv(folder: Path) -> Path:
    """A folder for PATH that has it."""
    folder.mkdir()
    for name, text in (("uv", UV.format(tool=folder / "prepare_data")), ("prepare_data", PREPARE_DATA)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
