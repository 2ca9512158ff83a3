"""The batch script of a job array: the site's allocation, the user's options, the attempt's command."""

from __future__ import annotations

import math
from typing import Any

from nano_exp.errors import UserError
from nano_exp.launch import allocation, slurm_options
from nano_exp.launch.executors import ManifestSlurmExecutor, attempt_command
from nano_exp.launch.job_arrays import Array, Launch
from nano_exp.slurm import setup_lines


def script(launch: Launch, array: Array, parameters: dict[str, Any]) -> str:
    """The batch script of one array exactly as it is sent.

    Parameters
    ----------
    parameters: hydra.launcher's, in hydra-submitit-launcher's names; the shape comes from the runs
    """
    minutes = parameters.get("timeout_min", 1)
    if type(minutes) not in (int, float) or not 0 < minutes < math.inf:
        raise UserError(
            f"hydra.launcher.timeout_min={minutes}",
            "it is the time limit of a job in minutes, which the run saves before",
            "hydra.launcher.timeout_min=240",
        )
    options = {k: v for k, v in parameters.items() if v is not None}
    form = array.shape
    for key, value, fix in (
        ("nodes", form.nodes, "cluster=2n8g (or ++cluster.num_nodes=N)"),
        ("gpus_per_node", form.gpus_per_node, "another cluster= (or ++cluster.gpus_per_node=N)"),
    ):
        unset = (None, 1) if key == "nodes" else (None,)  # hydra-submitit-launcher's default of nodes is 1
        if options.get(key) not in (*unset, value):
            raise UserError(
                f"hydra.launcher.{key}={options[key]}, but the runs are for {value}",
                "the allocation must be what NeMo RL is told in its cluster section",
                f"leave hydra.launcher.{key} out and choose the shape with {fix}",
            )
    slurm_options.refuse_unused(options)
    for key in ("submitit_folder", "max_num_timeout", "signal_delay_s", "name", "nodes", "gpus_per_node"):
        options.pop(key, None)
    extra = {"requeue": True, **slurm_options.extras(options)}
    site = array.rows[0].config["site"]
    whole = array.allocation
    if not slurm_options.gpus(options, extra, whole.nodes, whole.gpus_per_node):
        options |= allocation.gpus(site, whole)
    for key, value in allocation.options(site, whole, {**options, **slurm_options.typed(options)}).items():
        (options if key == "cpus_per_task" else extra)[key] = value
    if launch.after.terms or launch.canary:
        # What can never start leaves the queue, and is seen as not started.
        extra.setdefault("kill_on_invalid_dep", "yes")
    if launch.after.terms:
        typed = [str(extra["dependency"])] if extra.get("dependency") else []
        extra["dependency"] = ",".join([*typed, *launch.after.terms])
    if array.throttle is not None:
        options["array_parallelism"] = array.throttle
    setup = [*setup_lines.setup(site), *(options.pop("setup", None) or [])]
    if setup:
        options["setup"] = setup_lines.guarded(setup, attempt_command(launch.dir, array.word))
    options.update(
        job_name=array.job_name, nodes=form.nodes, tasks_per_node=1, use_srun=False, additional_parameters=extra
    )
    executor = ManifestSlurmExecutor(launch.dir, array.word)
    executor.check(**options)
    return executor.script(array.tasks)
