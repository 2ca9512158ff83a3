"""A launch from inside an allocation that sbatch made: what slurm/train.sbatch and slurm/sweep.sbatch start.

`train` composes and freezes one run as `python launch.py` does, which makes a launch's folder; `sweep` is given such a
folder. Both check that the allocation is what the run needs, record this job as the run's, and become the batch script
of the launch, which starts the attempt. A requeued train.sbatch does not come here again: `train` left it a file with
the launch's folder.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from nano_exp import app, files
from nano_exp.compose import conf_tree
from nano_exp.compose.compose import Point
from nano_exp.compose.family import Sibling
from nano_exp.compose.sweep import Constraint
from nano_exp.errors import UserError
from nano_exp.launch import flow, hydra_plugins, show, submit
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
    found = Shape(have.nodes, have.gpus_per_node, have.cpus_per_node)
    typed = sbatch(want, command)
    if (
        found.nodes != want.nodes
        or found.gpus_per_node < want.gpus_per_node
        or have.cpus_per_node < (want.cpus_per_node or 0)
    ):
        raise UserError(
            f"job {have.job} has {found}",
            f"the run needs {want}: its cluster section is what NeMo RL is told",
            f"{typed}   (with your other options of sbatch)",
        )
    idle = found.gpus_per_node - want.gpus_per_node
    return f"note: {idle} of {found.gpus_per_node} GPUs a node stay idle; without them: {typed}" if idle else ""


def sbatch(shape: Shape, command: Sequence[str], *options: str) -> str:
    """The command that asks for a shape."""
    asked = [f"-N{shape.nodes}", f"--gpus-per-node={shape.gpus_per_node}"]
    if shape.cpus_per_node is not None:
        asked.append(f"--cpus-per-task={shape.cpus_per_node}")
    elif not shape.whole:
        asked.append(f"--cpus-per-gpu={shapes.CPUS_PER_GPU}")
    asked += ["--exclusive", "--mem=0"] if shape.whole else []
    return shlex.join(["sbatch", *options, *asked, *command])


# --- one run, composed here -----------------------------------------------------------------------------------------


class Train:
    """The first start of slurm/train.sbatch.

    Parameters
    ----------
    record: the file by which a requeue finds the launch's folder
    command: the script and its arguments as they were given to sbatch
    """

    def __init__(self, have: Allocation, record: Path, command: Sequence[str]) -> None:
        self.have, self.record, self.command = have, record, command
        self.script: Path | None = None  # what to become, where there is something to execute
        if have.task is not None:
            raise UserError(
                f"{command[0]} as task {have.task} of an array",
                "it trains one run, and every task would be that run",
                f"leave --array out; a sweep: python launch.py -m ... submit=false, which prints how to send {SWEEP}",
            )

    def start(
        self,
        points: Sequence[Point | Sibling],
        parameters: dict[str, Any],
        folder: Path,
        constraints: Sequence[Constraint] = (),
    ) -> flow.Launched:
        """Plan, freeze and record the run; stands in the place of `flow.launch` and has its arguments."""
        if len(points) != 1:
            raise UserError(
                f"{len(points)} points in one allocation",
                "a job of train.sbatch trains one run",
                f"python launch.py -m ... submit=false, which prints how to send {SWEEP}",
            )
        parameters = {**parameters, **self.have.place}  # a retry goes where this job was
        wish = flow.read(points, parameters, folder, constraints)
        self._require_inside(wish)
        shape = shapes.shape(wish.wanted[0].config)
        if wish.switches["dry_run"]:
            made = flow.dry_run(wish, parameters)
        flow.check(wish.wanted, parameters, submitting=not wish.switches["dry_run"], inside=True)
        remark = require_shape(self.have, shape, self.command)
        if wish.switches["dry_run"]:
            return flow.Launched(made)
        if remark:
            print(remark, file=sys.stderr)
        with submit.lock(wish.results):
            made = wish.plan()
            show.plan(made)
            if not made.to_submit:
                show.nothing_to_do(made)
                return flow.Launched(made, flow.code_of(made))
            ready = submit.arrange(made.to_submit, submit.new_id(), wish.results)
            ready.axes = wish.swept
            ready.arrays[0].job = self.have.job
            files.make_dir(self.record.parent)
            # First: where nothing follows, nothing was started either, and a requeue begins anew.
            files.write_text(self.record, f"{ready.dir}\n", durable=True)
            submit.prepare(ready, "slurm", parameters, sys.argv[1:], wish.env_file)
        print(f"\nlaunch {ready.id}: {made.to_submit[0].id} executes here, in job {self.have.job}")
        self.script = ready.dir / "array-0.sbatch"
        return flow.Launched(made)

    def _require_inside(self, wish: flow.Wish) -> None:
        if wish.terms.after or wish.terms.canary:
            raise UserError(
                f"{'after' if wish.terms.after else 'canary'}= in job {self.have.job}",
                "the allocation is there already: nothing is left to wait for",
                f"sbatch --dependency=afterok:JOB {self.command[0]} ...",
            )
        if wish.where != "slurm":
            typed = " ".join(self.command[1:]) or "no model= and no cluster="
            raise UserError(
                f"{typed}: cluster=local, in job {self.have.job}",
                "that shape is for a machine without Slurm; a job wants a cluster= of Slurm's",
                f"sbatch {self.command[0]} model=nano_9b cluster=1n8g",
            )
        if not wish.switches["submit"]:
            raise UserError(
                f"submit=false in job {self.have.job}",
                "the allocation is there already: it would do nothing with it",
                f"leave submit=false out, or type it on a login node: python launch.py {' '.join(self.command[1:])}",
            )


@hydra.main(version_base="1.3", config_path=str(conf_tree.CONF_DIR), config_name=conf_tree.CONFIG_NAME)
def _composed(cfg: DictConfig) -> None:
    raise hydra_plugins.not_our_path()


# --- the runs of a launch that is frozen ----------------------------------------------------------------------------


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
    command = [SWEEP, show.relative(folder), str(number)]
    whole = sbatch(shape, command, *([f"--array=0-{count - 1}"] if count > 1 else []))
    held = f"array {number} of launch {folder.name} has {count} run{'s' if count != 1 else ''}: 0-{count - 1}"
    if have.task is None and count > 1:
        raise UserError(f"job {have.job} is not an array", held, whole)
    if have.task is not None and have.task >= count:
        raise UserError(f"array task {have.task}", held, whole)
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
            "ls results/.launches lists the launches; python launch.py ... submit=false makes one",
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
    shown = [f"{SWEEP} {show.relative(folder)} {n}" for n in range(len(arrays))]
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
    return UserError(
        f"{folder / 'manifest.json'}: {why}", "the file is damaged", "make another: python launch.py ... submit=false"
    )


def main(argv: Sequence[str]) -> int:
    """`train RECORD SCRIPT [OVERRIDES]` or `sweep LAUNCH [ARRAY]`: the exit code, or this becomes the batch script."""
    mode, *words = argv
    try:
        have = allocation(os.environ)
        if mode == "train":
            record, *command = words
            train = Train(have, Path(record), command)
            sys.argv[1:] = command[1:]
            code = app.run(_composed, train.start)
            script = train.script
        else:
            code, script = 0, sweep(have, words)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    if code or script is None:
        return code
    sys.stdout.flush()
    os.execv("/bin/bash", ["/bin/bash", str(script)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
