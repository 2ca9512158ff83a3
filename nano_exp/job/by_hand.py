"""What slurm/sweep.sbatch starts: the runs of a frozen launch, in an allocation that a user's own sbatch made.

It checks that the allocation is what the runs need, records this job as the array's, and becomes the batch script of
the launch, which starts the attempt. `nano_exp.inside` does it for one run that is composed there (slurm/train.sbatch).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nano_exp import files, project, text
from nano_exp.errors import UserError
from nano_exp.slurm import shapes
from nano_exp.slurm.shapes import Shape
from nano_exp.store import runs

SWEEP = "slurm/sweep.sbatch"


@dataclass(frozen=True)
class Allocation:
    """What Slurm gave this job; CPUs and GPUs are those of the node that has the fewest, as far as Slurm tells.

    Parameters
    ----------
    job: the job's id, the array's for an array task
    task: number in the array; None where it is none
    place: hydra.launcher's parameters that say where the job runs
    """

    job: str
    task: int | None
    nodes: int
    gpus_per_node: int
    cpus_per_node: int
    place: dict[str, str]


def allocation(environ: Mapping[str, str]) -> Allocation:
    """The allocation by a batch script's SLURM_* variables. Raises UserError outside of a job."""
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID")
    if not job:
        raise UserError(
            "no SLURM_JOB_ID",
            "this runs inside the allocation that sbatch makes",
            "sbatch slurm/train.sbatch model=nano_9b cluster=1n8g",
        )
    task = environ.get("SLURM_ARRAY_TASK_ID", "")
    words = {key: environ.get(f"SLURM_JOB_{key.upper()}", "") for key in ("partition", "account", "qos")}
    return Allocation(
        job=job,
        task=int(task) if task.isdigit() else None,
        nodes=int(environ.get("SLURM_JOB_NUM_NODES") or 1),
        gpus_per_node=_gpus(environ),
        cpus_per_node=shapes.fewest_cpus(environ),
        place={key: word for key, word in words.items() if word not in ("", "(null)")},
    )


def _gpus(environ: Mapping[str, str]) -> int:
    """GPUs of a node: `8`, or by type `h100:4,a100:4`; 0 where Slurm names none."""
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"):
        text = environ.get(name, "")
        if text:
            return sum(int(part.rsplit(":", 1)[-1]) for part in text.split(",") if part.rsplit(":", 1)[-1].isdigit())
    return len([part for part in environ.get("SLURM_JOB_GPUS", "").split(",") if part])


def require_shape(have: Allocation, want: Shape, command: Sequence[str]) -> str:
    """Refuse an allocation that is not what a run needs.

    Parameters
    ----------
    command: the script and its arguments, as sbatch takes them

    Returns
    -------
    a remark on GPUs that would idle, or nothing

    Raises
    ------
    UserError: with the sbatch command that asks for the right one
    """
    shape = Shape(have.nodes, have.gpus_per_node, have.cpus_per_node)
    typed = sbatch(want, command)
    if (
        shape.nodes != want.nodes
        or shape.gpus_per_node < want.gpus_per_node
        or have.cpus_per_node < (want.cpus_per_node or 0)
    ):
        raise UserError(
            f"job {have.job} has {shape}",
            f"the run needs {want}: its cluster section is what NeMo RL is told",
            f"{typed}   (with your other options of sbatch)",
        )
    idle = shape.gpus_per_node - want.gpus_per_node
    return f"note: {idle} of {shape.gpus_per_node} GPUs a node stay idle; without them: {typed}" if idle else ""


def sbatch(shape: Shape, command: Sequence[str], *options: str) -> str:
    """The command that asks for a shape."""
    shape_options = [f"-N{shape.nodes}", f"--gpus-per-node={shape.gpus_per_node}"]
    if shape.cpus_per_node is not None:
        shape_options.append(f"--cpus-per-task={shape.cpus_per_node}")
    elif not shape.whole:
        shape_options.append(f"--cpus-per-gpu={shapes.CPUS_PER_GPU}")
    shape_options += ["--exclusive", "--mem=0"] if shape.whole else []
    return shlex.join(["sbatch", *options, *shape_options, *command])


def sweep(have: Allocation, words: Sequence[str]) -> Path:
    """The batch script of one array of a launch, with this job recorded as the array's.

    Parameters
    ----------
    words: the launch's folder, and the number of the array (may be left out where there is one)

    Raises
    ------
    UserError: no such launch, array or run; another shape than the allocation's
    """
    folder = Path(words[0]).resolve()
    arrays = _arrays(folder)
    number = _array_number(folder, arrays, words[1:])
    try:
        shape, count = Shape(**arrays[number]["shape"]), len(arrays[number]["runs"])
    except (KeyError, TypeError) as error:
        raise _damaged(folder, f"array {number} has no {error}") from error
    command = [SWEEP, text.relative(folder), str(number)]
    whole = sbatch(shape, command, *([f"--array=0-{count - 1}"] if count > 1 else []))
    array_size = f"array {number} of launch {folder.name} has {count} run{'s' if count != 1 else ''}: 0-{count - 1}"
    if have.task is None and count > 1:
        raise UserError(f"job {have.job} is not an array", array_size, whole)
    if have.task is not None and have.task >= count:
        raise UserError(f"array task {have.task}", array_size, whole)
    remark = require_shape(have, shape, command if have.task is None else ["--array=...", *command])
    if remark:
        print(remark, file=sys.stderr)
    results = folder.parent.parent
    if runs.jobs_of(results, folder.name).get(number) != have.job:
        runs.record_job(results, folder.name, number, have.job)
    return folder / f"array-{number}.sbatch"


def _arrays(folder: Path) -> list[dict[str, Any]]:
    try:
        manifest = files.read_json(folder / "manifest.json")
        where, arrays = manifest["where"], list(manifest["arrays"])
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}",
            "a launch's folder has a manifest.json",
            f"ls results/.launches lists the launches; {project.launcher()} ... submit=false makes one",
        ) from error
    except (files.Damaged, KeyError, TypeError) as error:
        raise _damaged(folder, str(error)) from error
    if where != "slurm":
        raise UserError(
            f"launch {folder.name} was one of its own machine",
            "it has no batch script",
            "a launch with a cluster= of Slurm's and submit=false",
        )
    return arrays


def _array_number(folder: Path, arrays: list[dict[str, Any]], words: Sequence[str]) -> int:
    shown = [f"{SWEEP} {text.relative(folder)} {n}" for n in range(len(arrays))]
    if not words and len(arrays) == 1:
        return 0
    if len(words) == 1 and words[0].isdigit() and int(words[0]) < len(arrays):
        return int(words[0])
    raise UserError(
        f"array {' '.join(words)}" if words else f"no array named, and launch {folder.name} has {len(arrays)}",
        "a launch has one array for each shape, name and site, numbered from 0",
        " or ".join(shown),
    )


def _damaged(folder: Path, why: str) -> UserError:
    again = f"make another: {project.launcher()} ... submit=false"
    return UserError(f"{folder / 'manifest.json'}: {why}", "the file is damaged", again)


def become(script: Path) -> NoReturn:
    """Go on as a launch's batch script."""
    sys.stdout.flush()
    os.execv("/bin/bash", ["/bin/bash", str(script)])


def main(argv: Sequence[str]) -> int:
    """`LAUNCH [ARRAY]`: the exit code of a refusal, or this becomes the batch script."""
    try:
        script = sweep(allocation(os.environ), argv)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    become(script)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
