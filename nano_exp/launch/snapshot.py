"""What code a launch ran with: the commit, the uncommitted diff and a copy of the job's half, once per launch."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from nano_exp import __version__, files, project
from nano_exp.credentials import redact

PACKAGE = Path(__file__).resolve().parents[1]
#: What a job runs: the packages that `nano_exp.job` reaches, and the modules beside them that these use.
JOB_CODE = ("job", "after", "study", "triage", "store", "slurm", "notify")
JOB_MODULES = (
    *("__init__", "alike", "credentials", "dotted", "environment", "errors", "files", "overrides", "project", "text"),
    *("nemo_rl/__init__", "nemo_rl/caches", "nemo_rl/checkout", "nemo_rl/model_files", "nemo_rl/versions"),
)
#: Of these packages, what only the launch side uses.
NOT_OF_A_JOB = ("slurm/reasons.py", "store/results_folder.py", "triage/printed.py")
#: Packages whose versions are recorded where they are installed; reading the metadata imports none of them.
PACKAGES = ("hydra-core", "omegaconf", "submitit", "hydra-submitit-launcher", "torch", "transformers", "wandb")


def take(launch_dir: Path, engines: Collection[str]) -> None:
    """Write git.json, diff.patch and code/ into a launch's (still staged) folder.

    Parameters
    ----------
    engines: those of its runs; the code of others stays behind
    """
    facts, diff = git(project.ROOT)
    files.write_json(launch_dir / "git.json", facts)
    if diff:
        files.write_text(launch_dir / "diff.patch", diff)
    copy_code(launch_dir / "code" / PACKAGE.name, engines)


def copy_code(target: Path, engines: Collection[str]) -> None:
    """Copy what a job runs. Raises the first OSError as it is; shutil.copytree would go on and lose its number."""
    target.mkdir(parents=True)
    for path in job_code(engines):
        copy = target / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def job_code(engines: Collection[str]) -> list[Path]:
    """The files that a launch takes along, sorted."""
    # The templates: what the nodes start, and code that every attempt loads.
    folders = [*JOB_CODE, "engines/templates", *(f"engines/{name}" for name in engines)]
    below = [path for folder in folders for path in (PACKAGE / folder).rglob("*")]
    shared = [*(PACKAGE / f"{name}.py" for name in JOB_MODULES), *(PACKAGE / "engines").glob("*.py")]
    every = [*shared, *(path for path in below if path.is_file() and "__pycache__" not in path.parts)]
    return sorted(path for path in every if str(path.relative_to(PACKAGE)) not in NOT_OF_A_JOB)


def git(folder: Path) -> tuple[dict[str, Any], str]:
    """Commit, branch and state of a work tree, and its diff against the commit (secret-looking words taken out)."""
    commit = head(folder)
    if commit is None:
        return {"commit": None, "why": f"{folder.name} is not a git checkout, or git is not installed"}, ""
    diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/") or ""
    untracked = (_git(folder, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    branch = (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip()
    return {"commit": commit, "branch": branch, "dirty": bool(diff), "untracked": untracked[:200]}, redact(diff)


def head(folder: Path) -> str | None:
    """The commit that a folder's checkout stands at; None where it is no checkout."""
    commit = (_git(folder, "rev-parse", "HEAD") or "").strip()
    return commit if re.fullmatch(r"[0-9a-f]{40,64}", commit) else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Python and the packages that matter, as installed."""
    by_package = {"nano-exp": __version__, "python": platform.python_version(), "executable": sys.executable}
    for name in PACKAGES:
        try:
            by_package[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return by_package
