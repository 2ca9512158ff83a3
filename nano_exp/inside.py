"""A launch from inside an allocation that sbatch made: what slurm/train.sbatch starts.

It composes and freezes one run as `python launch.py` does, which makes a launch's folder, checks that the allocation is
what the run needs, records this job as the run's, and becomes the batch script of the launch, which starts the attempt.
A requeued train.sbatch does not come here again: it was left a file with the launch's folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nano_exp import app, files, project
from nano_exp.compose.freeze import Freezable
from nano_exp.compose.sweep import Constraint
from nano_exp.engines.origin import INIT
from nano_exp.errors import UserError
from nano_exp.job.by_hand import SWEEP, Allocation, allocation, become, require_shape
from nano_exp.launch import (
    convergence,
    dependency,
    flow,
    job_arrays,
    launch_request,
    show,
    spending,
    staging,
    submit,
)
from nano_exp.slurm import shapes

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
                f"leave --array out; a sweep: {project.launcher()} -m ... submit=false, which prints how to send "
                f"{SWEEP}",
            )

    def start(
        self,
        points: Sequence[Freezable],
        parameters: dict[str, Any],
        folder: Path,
        constraints: Sequence[Constraint] = (),
    ) -> flow.Launched:
        """Plan, freeze and record the run; stands in the place of `flow.launch` and has its arguments."""
        if len(points) != 1:
            raise UserError(
                f"{len(points)} points in one allocation",
                "a job of train.sbatch trains one run",
                f"{project.launcher()} -m ... submit=false, which prints how to send {SWEEP}",
            )
        parameters = {**parameters, **self.have.place}  # a retry goes where this job was
        request = launch_request.read(points, parameters, folder, constraints)
        self._require_inside(request)
        shape = shapes.shape(request.frozen_configs[0].config)
        if request.switches["dry_run"]:
            plan = flow.dry_run(request, parameters)
        flow.check(request.frozen_configs, parameters, submitting=not request.switches["dry_run"], inside=True)
        remark = require_shape(self.have, shape, self.command)
        if request.switches["dry_run"]:
            return flow.Launched(plan)
        if remark:
            print(remark, file=sys.stderr)
        with submit.lock(request.results):
            plan = request.plan()
            show.plan(plan)
            if not plan.to_submit:
                show.nothing_to_do(plan)
                return flow.Launched(plan, flow.code_of(plan))
            names = [plan.to_submit[0].frozen.name]
            for line in spending.require(request.results, names, request.terms.budget):
                print(line)
            spending.settle(request.results, names, request.terms.budget)
            ready = job_arrays.arrange(plan.to_submit, job_arrays.new_id(), request.results)
            ready.axes = request.swept
            ready.arrays[0].job = self.have.job
            files.make_dir(self.record.parent)
            # First: where nothing follows, nothing was started either, and a requeue begins anew.
            files.write_text(self.record, f"{ready.dir}\n", durable=True)
            staging.prepare(ready, "slurm", parameters, sys.argv[1:], request.env_file)
        print(f"\nlaunch {ready.id}: {plan.to_submit[0].id} executes here, in job {self.have.job}")
        self.script = ready.dir / "array-0.sbatch"
        return flow.Launched(plan)

    def _require_inside(self, request: launch_request.Request) -> None:
        sources = dependency.sources_of(frozen.config for frozen in request.frozen_configs)
        if dependency.after((), request.results, convergence.QueueLookup(), sources).waits:
            raise UserError(
                f"{INIT}={sources[0]} in job {self.have.job}: that run has not ended",
                "the allocation is there already, and would wait for it",
                f"the same on a login node: {project.launcher()} {' '.join(self.command[1:])}, which queues behind it",
            )
        if request.terms.after or request.terms.canary:
            raise UserError(
                f"{'after' if request.terms.after else 'canary'}= in job {self.have.job}",
                "the allocation is there already: nothing is left to wait for",
                f"sbatch --dependency=afterok:JOB {self.command[0]} ...",
            )
        if request.terms.pack:
            raise UserError(
                f"pack={request.terms.pack} in job {self.have.job}",
                "a job of train.sbatch trains one run",
                "leave pack out, or launch from a login node",
            )
        if request.where != "slurm":
            typed = " ".join(self.command[1:]) or "no model= and no cluster="
            raise UserError(
                f"{typed}: cluster=local, in job {self.have.job}",
                "that shape is for a machine without Slurm; a job wants a cluster= of Slurm's",
                f"sbatch {self.command[0]} model=nano_9b cluster=1n8g",
            )
        if not request.switches["submit"]:
            raise UserError(
                f"submit=false in job {self.have.job}",
                "the allocation is there already: it would do nothing with it",
                f"leave submit=false out, or on a login node: {project.launcher()} {' '.join(self.command[1:])}",
            )


def main(argv: Sequence[str]) -> int:
    """`RECORD SCRIPT [OVERRIDES]`: the exit code, or this becomes the batch script."""
    record, *command = argv
    try:
        train = Train(allocation(os.environ), Path(record), command)
        sys.argv[1:] = command[1:]
        code = app.run(app.by_hydra, train.start)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    if code or train.script is None:
        return code
    become(train.script)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
