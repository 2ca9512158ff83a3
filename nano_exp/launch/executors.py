"""submitit's executors, with our command and a manifest in place of pickles.

The command is `python -m nano_exp.job <launch folder>`; what it executes stands in the launch's manifest, written
before the job exists. submitit renders the batch script and starts local processes; its signal, checkpoint and requeue
are not used: an attempt times itself from the allocation's end.

Everything private in submitit that is used stands here, checked against submitit 1.5.4, to which it is pinned:
`_submitit_command_str` (there is no other way to another command), `_make_submission_file_text` (the text without
submitting it), `_convert_parameters`, `_valid_parameters` and `_equivalence_dict` (its check and its names of them).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from submitit import LocalExecutor, SlurmExecutor
from submitit.local.local import LocalJob

from nano_exp import environment
from nano_exp.engines import parts
from nano_exp.engines.parts import Part
from nano_exp.errors import UserError


def attempt_command(
    launch_dir: Path, array: int | str, python: str = sys.executable, packages: Sequence[str] = ()
) -> str:
    """The shell command of an attempt: only the launch's own copy of the code is importable before site-packages.

    PYTHONSAFEPATH keeps the folder that the job starts in off the module path: an edited checkout must not be run.

    Parameters
    ----------
    packages: folders of the module path that come after the copy, for the attempt and not for NeMo RL's interpreter
    """
    path = os.pathsep.join([str(launch_dir / "code"), *packages])
    settings = f"PYTHONPATH={shlex.quote(path)} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1"
    if packages:
        settings += f" {environment.PACKAGES}={shlex.quote(os.pathsep.join(packages))}"
    words = [python, "-m", "nano_exp.job", str(launch_dir), "--array", str(array)]
    return f"exec env {settings} {shlex.join(words)}"


def own_packages() -> list[str]:
    """The folders that PYTHONPATH gave to this process: what nano-exp needs may lie in one of them alone."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys(os.path.abspath(folder) for folder in named if folder))  # noqa: PTH100 (keeps links)


class ManifestSlurmExecutor(SlurmExecutor):
    """Renders the batch script of one array (or one job) of a launch."""

    def __init__(self, launch_dir: Path, array: int | str) -> None:
        self.launch_dir, self.array = launch_dir, array
        super().__init__(folder=launch_dir / "slurm")

    @classmethod
    def affinity(cls) -> int:
        return 2  # a script can be shown where there is no Slurm; submitting asks for sbatch itself

    @property
    def _submitit_command_str(self) -> str:
        return attempt_command(self.launch_dir, self.array)

    def script(self, count: int) -> str:
        """The batch script for `count` runs: a job array, or a plain job for one."""
        if count > 1:
            self.parameters["map_count"] = count
        text = self._make_submission_file_text(self._submitit_command_str, uid="")
        # submitit always asks for a signal, which would kill every process of the steps, and sets a wckey of its own.
        lines = [s for s in text.splitlines() if not s.startswith(("#SBATCH --signal", "#SBATCH --wckey=submitit"))]
        return "\n".join(_literal(line) for line in lines if line != "export SUBMITIT_EXECUTOR=slurm") + "\n"

    def check(self, **parameters: Any) -> None:
        """`update_parameters` with submitit's complaint in three parts."""
        try:
            self.update_parameters(**self._convert_parameters(parameters))
        except (ValueError, TypeError) as error:
            valid = ", ".join(sorted(self._valid_parameters() | set(self._equivalence_dict())))
            raise UserError(
                f"hydra.launcher: {str(error).splitlines()[0]}", "submitit has no such parameter", f"one of: {valid}"
            ) from error


def _literal(line: str) -> str:
    """The line, where it names the file for the job's output with a folder of which no part is a pattern of Slurm's."""
    option = "#SBATCH --output="
    if not line.startswith(option):
        return line
    folder, _, name = shlex.split(line.removeprefix(option))[0].rpartition("/")
    return option + shlex.quote(f"{folder.replace('%', '%%')}/{name}")


class ManifestLocalExecutor(LocalExecutor):
    """Starts attempts on this machine, each in a session of its own, so that Ctrl-C reaches them through us alone."""

    def __init__(self, launch_dir: Path) -> None:
        self.launch_dir, self.array = launch_dir, 0
        super().__init__(folder=launch_dir / "local")

    @property
    def _submitit_command_str(self) -> str:
        return attempt_command(self.launch_dir, self.array, packages=own_packages())

    def log(self, array: int, task: int) -> Path:
        """What the attempt of run number `task` of an array printed."""
        return Path(self.folder) / f"{array}-{task}.log"

    def start(self, array: int, task: int, part: Part | None = None) -> LocalJob[None]:
        """Start the attempt of run number `task` of one of the launch's arrays, with its part of the machine."""
        self.array = array
        with self.log(array, task).open("ab") as out:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"{self._submitit_command_str} --task {task}"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(parts.environment(part) if part else {})},
                start_new_session=True,
                preexec_fn=partial(os.sched_setaffinity, 0, part.cpus) if part and part.cpus else None,
            )
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process)
