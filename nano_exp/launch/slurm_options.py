"""What a launch asks Slurm for: hydra.launcher's settings beside what the launch decides itself. Pure.

What is typed wins, and stands in the batch script once; or it is refused by name, where the launch needs its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nano_exp.errors import UserError
from nano_exp.overrides import Override

#: The key of sbatch's own options, in hydra-submitit-launcher's names.
EXTRA = "additional_parameters"
PREFIX = "hydra.launcher."

#: hydra-submitit-launcher's parameters that have no place here -> their default, why, and what to type instead.
UNUSED: dict[str, tuple[tuple[Any, ...], str, str]] = {
    "tasks_per_node": (
        (1,),
        "an attempt runs once on its first node, and starts what the others run",
        "leave it out; slurm.cpus_per_node=N for more CPUs",
    ),
    "signal_delay_s": (
        (90, 120),
        "no signal is asked for: a run saves and stops before its allocation ends by itself",
        "engine.save_margin_min=N, minutes",
    ),
    "max_num_timeout": ((0,), "a run goes on after its time limit by itself", "slurm.max_attempts=N"),
    "use_srun": ((False,), "an attempt runs in the batch script, and starts the steps on the nodes", "leave it out"),
    "srun_args": ((), "the steps on the nodes are the engine's", "leave it out"),
    "teardown": ((), "the attempt takes the batch script's place, so that nothing comes after it", "leave it out"),
}
_OWN_NAME = "a launch that was cut off finds its jobs by the name that it gave them"
_OWN_LOG = "nano-exp looks for Slurm's output in the launch's folder"
_OWN_SHAPE = "the allocation must be what NeMo RL is told in its cluster section"
_ONCE = UNUSED["tasks_per_node"][1:]
_REQUEUE = (
    "the next attempt after a time limit, a preemption or a lost node is the same job, started again",
    "slurm.requeue=false: a run does not go on by itself",
)
#: sbatch's options that are the launch's own -> why, and what to type instead.
OWN: dict[str, tuple[str, str]] = {
    "job_name": (_OWN_NAME, "run.name=NAME"),
    "array": ("an array's tasks are the launch's runs", "parallel=N for how many at once"),
    "output": (_OWN_LOG, "leave it out; nano-exp open RUN shows where it is"),
    "error": (_OWN_LOG, "hydra.launcher.stderr_to_stdout=false for a file of its own"),
    "nodes": (_OWN_SHAPE, "cluster=2n8g (or ++cluster.num_nodes=N)"),
    "ntasks": _ONCE,
    "ntasks_per_node": _ONCE,
    "signal": UNUSED["signal_delay_s"][1:],
    "requeue": _REQUEUE,
    "no_requeue": _REQUEUE,
    "wait": ("sbatch would not return before the job ends", "wait=true"),
    "test_only": ("sbatch would submit nothing", "dry_run=true"),
    "parsable": ("the job's number is read from sbatch's answer", "leave it out"),
    "wrap": ("the batch script is the launch's", "hydra.launcher.setup=[...] for lines before it"),
}
#: Of hydra.launcher, whatever the value: the launch has its own.
NAMES = {
    "name": OWN["job_name"],
    "submitit_folder": ("a launch has a folder of its own below the results", "run.results=FOLDER"),
}
#: hydra.launcher's words that sbatch has others for.
SBATCH = {"timeout_min": "time", "mem_gb": "mem"}
#: Options that ask for GPUs, and those of them that count all nodes' together.
GPUS = ("gpus_per_node", "gpus_per_task", "gpus", "gres")
OVER_ALL_NODES = ("gpus",)


def extras(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """sbatch's own options that are asked for, by submitit's names, so that one of ours is replaced and not repeated.

    Raises
    ------
    UserError: an option that is the launch's own
    """
    return {name: value for name, value in typed(parameters).items() if value is not None and value is not False}


def typed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """sbatch's own options as they were typed, by submitit's names; one that is null or false is not to be asked for.

    Raises
    ------
    UserError: an option that is the launch's own
    """
    options: dict[str, Any] = {}
    for key, value in (parameters.get(EXTRA) or {}).items():
        name = _plain(key)
        if name in OWN and not (name == "requeue" and value is True):
            raise UserError(f"{PREFIX}{EXTRA}.{key}={value}", *OWN[name])
        if name in options:
            option = name.replace("_", "-")
            raise UserError(f"{PREFIX}{EXTRA} has {option} twice", "one of the two would be lost", f"{option} once")
        options[name] = value
    return options


def refuse_unused(parameters: Mapping[str, Any]) -> None:
    """Raises UserError for a parameter that would have no effect."""
    for key, (defaults, why, fix) in UNUSED.items():
        value = parameters.get(key)
        if value is not None and value not in defaults:
            raise UserError(f"{PREFIX}{key}={value}", why, fix)


def refuse_typed(typed: Sequence[str]) -> None:
    """Raises UserError for settings that would be lost whatever their value: the names that hydra.launcher gives jobs,
    and an option that is typed in two places.

    Parameters
    ----------
    typed: overrides as they were typed
    """
    typed_as: dict[str, str] = {}
    for override in typed:
        one = Override.parse(override)
        if not one.has_value or one.deletes or not names_launcher(one):
            continue
        for name in _names(one):
            if name in NAMES:
                raise UserError(override, *NAMES[name])
            option = SBATCH.get(name, _plain(name.removeprefix(f"{EXTRA}.")))
            if option in typed_as:
                raise UserError(
                    f"{typed_as[option]} and {override}",
                    f"both set {option.replace('_', '-')}, which is one option of sbatch, and one would be lost",
                    "one of the two",
                )
            typed_as[option] = override


def merged(parameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with changes on top; sbatch's own options one by one, as a launch merges them."""
    options = {**parameters, **changes}
    old, new = parameters.get(EXTRA), changes.get(EXTRA)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        named = {_plain(key) for key in new}
        options[EXTRA] = {**{key: value for key, value in old.items() if _plain(key) not in named}, **new}
    return options


def _plain(key: Any) -> str:
    """submitit's name of an option: `--cpus-per-task` is cpus_per_task."""
    return str(key).strip("-").replace("-", "_")


def names_launcher(one: Override) -> bool:
    """Whether an override sets some of hydra.launcher, or all of it as a dict."""
    return f"{one.key}.".startswith(PREFIX)


def _names(one: Override) -> list[str]:
    """What an override sets below hydra.launcher; of a dict that is typed whole, each of its keys."""
    within = f"{one.key}.".removeprefix(PREFIX).rstrip(".")
    value = values(one) if one.value.startswith("{") else None
    if not isinstance(value, dict):
        return [within] if within else []
    names = [f"{within}.{key}" if within else str(key) for key in value]
    inner = value.get(EXTRA) if not within else None
    if isinstance(inner, dict):
        names = [name for name in names if name != EXTRA] + [f"{EXTRA}.{key}" for key in inner]
    return names


def values(one: Override) -> Any:
    """A dict as Hydra reads it ({a: 1, b: {c: d}}); None where it cannot be read: Hydra says why."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        found = OverridesParser.create().parse_override(f"{one.key}={one.value}").value()
    except HydraException:
        return None
    return found if isinstance(found, dict) else None


def gpus(parameters: Mapping[str, Any], extra: Mapping[str, Any], nodes: int, per_node: int) -> bool:
    """Whether GPUs are asked for by what was typed, so that the launch adds no request of its own.

    Raises
    ------
    UserError: another number than the runs are for
    """
    named = [(f"{PREFIX}{key}", key, parameters.get(key)) for key in GPUS]
    named += [(f"+{PREFIX}{EXTRA}.{key.replace('_', '-')}", key, extra.get(key)) for key in GPUS]
    requests = [(name, key, value, count) for name, key, value in named if (count := _count(key, value)) is not None]
    for name, key, value, count in requests:
        gpus_of_runs = per_node * nodes if key in OVER_ALL_NODES else per_node
        if count != gpus_of_runs:
            raise UserError(
                f"{name}={value}, but the runs are for {gpus_of_runs} GPUs"
                + ("" if key in OVER_ALL_NODES else " a node"),
                _OWN_SHAPE,
                f"{name}={_corrected(str(value), gpus_of_runs)}, or another cluster=",
            )
    return bool(requests)


def _count(key: str, value: Any) -> int | None:
    """`h100:8`, `gpu:h100:8`, `gpu:8,nvme:1`, 8 -> 8 GPUs; None where it asks for none."""
    if value is None:
        return None
    parts = [part for part in str(value).split(",") if key != "gres" or part.split(":")[0] == "gpu"]
    counts = [re.search(r"(?:^|:)(\d+)$", part) for part in parts]
    return sum(int(match[1]) if match else 1 for match in counts) if parts else None


def _corrected(value: str, count: int) -> str:
    """The same request for another number of GPUs."""
    first, comma, rest = value.partition(",")
    kind = re.sub(r"(^|:)\d+$", "", first)
    return (f"{kind}:{count}" if kind else str(count)) + comma + rest
