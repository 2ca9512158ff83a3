"""Send planned runs to Slurm: record the intent, then one sbatch per shape.

The order is what makes a crash at any instant harmless: run folders, then the launch's folder (manifest, scripts,
code), then each run's intent, then sbatch with the launch's id in the job name, then the job's number. Whatever is
missing after a crash, the next launch finds out by the events and by the job's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import secrets as random
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import environment, files, slurm
from nano_exp.errors import UserError
from nano_exp.launch import allocation, canary, dependency, slurm_options, snapshot
from nano_exp.launch.convergence import Row
from nano_exp.launch.dependency import After
from nano_exp.launch.executors import ManifestSlurmExecutor, attempt_command
from nano_exp.launch.terms import Terms
from nano_exp.nemo_rl import checkout as nemo_rl_checkout
from nano_exp.slurm import arrays, setup_lines
from nano_exp.slurm.shapes import Shape, shape
from nano_exp.store import halt, predecessors, run_config, runs, state


@dataclass
class Array:
    """One job array of a launch (a plain job where it has one run): the runs of a shape, or a chunk of them.

    Parameters
    ----------
    word: its number, or `canary`
    throttle: at most this many of its tasks at once, by the launch's `parallel`
    behind: it starts after the array of this number
    """

    word: str
    shape: Shape
    rows: list[Row]
    job_name: str
    job: str = ""
    throttle: int | None = None
    behind: int | None = None

    @property
    def number(self) -> int:
        return int(self.word)

    def job_of(self, index: int) -> str:
        return f"{self.job}_{index}" if len(self.rows) > 1 else self.job


@dataclass
class Launch:
    id: str
    results: Path
    dir: Path
    arrays: list[Array]
    by_hand: bool = False  # submit=false: the user types sbatch
    terms: Terms = field(default_factory=Terms)
    after: After = field(default_factory=After)
    canary: Array | None = None
    axes: Sequence[str] = ()  # the keys that differ among the points that were asked for


def new_id() -> str:
    """Launch ids sort by time; the random part keeps two launchers of one second apart."""
    return time.strftime("%Y%m%d-%H%M%S") + "-" + random.token_hex(2)


def arrange(
    rows: Sequence[Row], launch_id: str, results: Path, terms: Terms | None = None, limit: int = arrays.DEFAULT_LIMIT
) -> Launch:
    """Group rows into one array per shape, name and place: a job's name tells its runs, its manifest their place.

    Parameters
    ----------
    limit: the most tasks that Slurm takes in one array; larger groups become several
    """
    groups: dict[tuple[Shape, str, str], list[Row]] = {}
    for row in rows:
        ours = [row.config["site"], row.config["slurm"], run_config.placement(row.config)]
        place = json.dumps(ours, sort_keys=True)
        groups.setdefault((shape(row.config), row.frozen.name, place), []).append(row)
    made: list[Array] = []
    for (form, name, _), members in groups.items():
        for chunk in arrays.chunks(len(members), min(limit, _max_array(members[0].config) or limit)):
            number = len(made)
            rows_of = members[chunk.start : chunk.stop]
            made.append(Array(str(number), form, rows_of, state.job_name(launch_id, number, name)))
    launch = Launch(launch_id, results, runs.launch_dir(results, launch_id), made, terms=terms or Terms())
    if launch.terms.parallel is not None:
        for array, slot in zip(made, arrays.slots(launch.terms.parallel, [len(a.rows) for a in made]), strict=True):
            array.throttle, array.behind = slot.throttle, slot.behind
    if launch.terms.canary and made:
        first = canary.of(canary.choose(rows), launch.dir)
        name = f"nx-{launch_id}.{runs.CANARY}-{first.frozen.name}"
        launch.canary = Array(runs.CANARY, shape(first.config), [first], name)
    return launch


def _max_array(config: dict[str, Any]) -> int | None:
    value = config["slurm"].get("max_array")
    if value is None or (type(value) is int and value >= 1):
        return value
    raise UserError(f"slurm.max_array={value!r}", "it must be a number of runs, at least 1", "slurm.max_array=500")


def array_limit(count: int) -> int:
    """The most tasks that Slurm takes in one array, asked for where `count` runs might be too many."""
    if count <= arrays.ASK_ABOVE:
        return arrays.DEFAULT_LIMIT
    try:
        return slurm.array_limit()
    except slurm.NoAnswer as error:
        if slurm.available() or count > arrays.DEFAULT_LIMIT:
            said = f"{error}; arrays are made for Slurm's default, MaxArraySize={arrays.DEFAULT_LIMIT}"
            print(f"note: {said} (slurm.max_array=N for smaller ones)", file=sys.stderr)
        return arrays.DEFAULT_LIMIT


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
    given = {k: v for k, v in parameters.items() if v is not None}
    form = array.shape
    for key, value, fix in (
        ("nodes", form.nodes, "cluster=2n8g (or ++cluster.num_nodes=N)"),
        ("gpus_per_node", form.gpus_per_node, "another cluster= (or ++cluster.gpus_per_node=N)"),
    ):
        unset = (None, 1) if key == "nodes" else (None,)  # hydra-submitit-launcher's default of nodes is 1
        if given.get(key) not in (*unset, value):
            raise UserError(
                f"hydra.launcher.{key}={given[key]}, but the runs are for {value}",
                "the allocation must be what NeMo RL is told in its cluster section",
                f"leave hydra.launcher.{key} out and choose the shape with {fix}",
            )
    slurm_options.refuse_unused(given)
    for key in ("submitit_folder", "max_num_timeout", "signal_delay_s", "name", "nodes", "gpus_per_node"):
        given.pop(key, None)
    extra = {"requeue": True, **slurm_options.extras(given)}
    site = array.rows[0].config["site"]
    if not slurm_options.gpus(given, extra, form.nodes, form.gpus_per_node):
        given |= allocation.gpus(site, form)
    for key, value in allocation.options(site, form, {**given, **slurm_options.typed(given)}).items():
        (given if key == "cpus_per_task" else extra)[key] = value
    if launch.after.terms or launch.canary:
        # What can never start leaves the queue, and is seen as not started.
        extra.setdefault("kill_on_invalid_dep", "yes")
    if launch.after.terms:
        typed = [str(extra["dependency"])] if extra.get("dependency") else []
        extra["dependency"] = ",".join([*typed, *launch.after.terms])
    if array.throttle is not None:
        given["array_parallelism"] = array.throttle
    setup = [*setup_lines.setup(site), *(given.pop("setup", None) or [])]
    if setup:
        given["setup"] = setup_lines.guarded(setup, attempt_command(launch.dir, array.word))
    given.update(
        job_name=array.job_name, nodes=form.nodes, tasks_per_node=1, use_srun=False, additional_parameters=extra
    )
    executor = ManifestSlurmExecutor(launch.dir, array.word)
    executor.check(**given)
    return executor.script(len(array.rows))


@contextmanager
def lock(results: Path) -> Iterator[None]:
    """One launcher at a time in a results folder. The kernel frees it when the launcher dies, however it dies."""
    files.make_dir(results / runs.LAUNCHES)
    path = results / runs.LAUNCHES / "lock"
    try:
        file = path.open("a+")
    except OSError as error:
        raise files.unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"waiting for another launch in {results} ({file.read().strip() or 'unknown'}) ...", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # A file system without locks: the attempts' claims still keep a run from executing twice.
            said = f"warning: {results} has no file locks ({error.strerror}); do not launch twice at once"
            print(said, file=sys.stderr)
        file.truncate(0)
        file.write(f"{slurm.this_user()}@{socket.gethostname()} pid {os.getpid()}")
        file.flush()
        yield


def prepare(
    launch: Launch,
    where: str,
    parameters: dict[str, Any],
    overrides: Sequence[str],
    env_file: Path | None = None,
) -> None:
    """Write everything that must be there before a job can exist: runs, manifest, scripts, code, intents.

    Parameters
    ----------
    env_file: the launch's env.yaml; its path is written, nothing of what it holds

    Raises
    ------
    UserError: the results folder cannot be written; whatever this call made is taken away again
    """
    made: list[Path] = []
    try:
        for array in launch.arrays:
            for row in array.rows:
                if row.is_new and runs.create(row.dir, run_config.remembered(row.config), record(row, launch)):
                    made.append(row.dir)
        _stage(launch, where, parameters, overrides, env_file)
        for array in launch.arrays:
            for index, row in enumerate(array.rows):
                _intend(launch, array, index, row, where)
    except UserError:
        for folder in made:
            runs.discard(folder)
        shutil.rmtree(launch.dir, ignore_errors=True)
        raise


def record(row: Row, launch: Launch) -> dict[str, Any]:
    """run.json of a new run."""
    return {
        "id": row.id,
        "name": row.frozen.name,
        "digest": row.frozen.digest,
        "overrides": list(row.frozen.overrides),
        "choices": dict(row.frozen.choices),
        "launch": launch.id,
        "place": row.place,
        "created": time.time(),
        "user": slurm.this_user(),
        "host": socket.gethostname(),
        "engine": row.config["engine"]["name"],
        "nemo_rl": row.config["nemo_rl"]["version"],
        "recipe": row.config["nemo_rl"].get("recipe"),
        "recipe_files": row.config["nemo_rl"].get("recipe_files", {}),  # path -> SHA-256; of a recipe file's
        "checkout_commit": _checkout_commit(row.config),
        "max_steps": row.config["grpo"]["max_num_steps"],
        "ignored": row.config.get("ignore") or [],
    }


_COMMITS: dict[str, str | None] = {}


def _checkout_commit(config: dict[str, Any]) -> str | None:
    checkout = config["site"].get("checkout")
    if config["engine"]["name"] != "nemo_rl" or not checkout:
        return None
    if checkout not in _COMMITS:
        _COMMITS[checkout] = nemo_rl_checkout.read_checkout(Path(checkout)).commit
    return _COMMITS[checkout]


def _stage(
    launch: Launch, where: str, parameters: dict[str, Any], overrides: Sequence[str], env_file: Path | None
) -> None:
    staging = launch.dir.with_name(f".staging-{launch.id}")
    try:
        files.make_dir(staging / ("slurm" if where == "slurm" else "local"))
        snapshot.take(staging, {row.config["engine"]["name"] for array in launch.arrays for row in array.rows})
        for array in _sent(launch) if where == "slurm" else ():
            files.write_text(staging / f"array-{array.word}.sbatch", script(launch, array, parameters))
        manifest = {
            "launch": launch.id,
            "where": where,
            "created": time.time(),
            "user": slurm.this_user(),
            "host": socket.gethostname(),
            "folder": str(Path.cwd()),
            "overrides": list(overrides),
            "axes": list(launch.axes),
            "parameters": parameters,
            "env_file": str(env_file) if env_file else None,
            "tokens": environment.tokens(os.environ) if where == "slurm" else [],  # names
            "versions": snapshot.versions(),
            "by_hand": launch.by_hand,
            "terms": launch.terms.as_dict(),
            "after": list(launch.after.terms),
            "arrays": [_entry(a) for a in launch.arrays],
        }
        if launch.canary is not None:
            manifest[runs.CANARY] = _entry(launch.canary)
            first = launch.canary.rows[0]
            folder = staging / first.dir.relative_to(launch.dir)
            runs.create(folder, run_config.remembered(first.config), record(first, launch))
        for array in launch.arrays:
            if array.job:  # it executes in the allocation that this process is in
                runs.record_job(launch.results, staging.name, array.word, array.job)
        predecessors.write(staging, launch.after.waits)
        files.write_json(staging / "manifest.json", manifest, durable=True)
        staging.rename(launch.dir)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise files.unwritable(launch.dir, error) from error
    except UserError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _entry(array: Array) -> dict[str, Any]:
    """What the manifest says of an array."""
    config = array.rows[0].config
    return {
        "job_name": array.job_name,
        "shape": asdict(array.shape),
        "throttle": array.throttle,
        "behind": array.behind,
        # A run submitted again may go to another place than the first time: the attempt takes it from here.
        "site": config["site"],
        "slurm": config["slurm"],
        "placement": run_config.placement(config),
        "checkout_commit": _checkout_commit(config),
        "runs": [str(row.dir) for row in array.rows],
    }


def _sent(launch: Launch) -> list[Array]:
    """What is sent, in this order."""
    return [*([launch.canary] if launch.canary else []), *launch.arrays]


def _intend(launch: Launch, array: Array, index: int, row: Row, where: str) -> None:
    earlier = runs.attempts(row.dir)
    runs.record_event(
        row.dir,
        "submit",
        durable=False,
        launch=launch.id,
        array=array.number,
        task=index if len(array.rows) > 1 else None,
        after_attempt=earlier[-1].number if earlier else 0,
        user=slurm.this_user(),
        local=vars(runs.this_process()) if where == "local" else None,
        by_hand=launch.by_hand,
        named=not launch.by_hand and not array.job,  # else the job has the name of the script that a user sent
        **({"after": list(launch.after.terms)} if launch.after.terms else {}),
        **({runs.CANARY: True} if launch.canary else {}),
    )


def send(launch: Launch) -> None:
    """One sbatch per array, the canary's first.

    Raises
    ------
    Refused: Slurm's words; the runs of that array and of those after it are not left behind as if submitted
    Unclear: the answer was lost; the intents stay, for the next launch to find out
    """
    for array in _sent(launch):
        number = 0 if array is launch.canary else array.number
        if why := halt.reason(launch.dir):  # its first runs failed, or the canary, while the rest was being sent
            _take_back(launch, number, why)
            raise slurm.Refused(
                why, "the rest of the launch is not started", "fix that, then type the same command", code=3
            )
        try:
            path, waits_for = launch.dir / f"array-{array.word}.sbatch", _waits_for(launch, array)
            array.job = slurm.sbatch(path, *waits_for, carry=environment.carried(os.environ))
        except slurm.Unclear:
            _take_back(launch, number if array is launch.canary else number + 1)
            raise
        except KeyboardInterrupt:  # whether this one was taken is not known: the next launch asks for its name
            _never_sent(launch, number if array is launch.canary else number + 1)
            raise
        except UserError as error:
            _take_back(launch, number, error.found, None if array is launch.canary else array)
            raise
        runs.record_job(launch.results, launch.id, array.word, array.job)


def _never_sent(launch: Launch, first: int) -> None:
    """Say of the runs of the arrays from `first` on that Slurm was never asked for them."""
    for row in [row for array in launch.arrays[first:] for row in array.rows]:
        runs.record_event(row.dir, "refused", durable=False, launch=launch.id, why="Ctrl-C came first", asked=False)


def _waits_for(launch: Launch, array: Array) -> list[str]:
    """The option that replaces the script's own --dependency by one that has the jobs of this launch in it too."""
    own = [] if launch.canary is None or array is launch.canary else [f"afterok:{launch.canary.job}"]
    if array.behind is not None:
        own.append(f"afterany:{launch.arrays[array.behind].job}")
    if not own:
        return []
    text = slurm.script_options((launch.dir / f"array-{array.word}.sbatch").read_text())
    static = [o.removeprefix("--dependency=") for o in text if o.startswith("--dependency=")]
    return dependency.option(*static, *own)


def _take_back(
    launch: Launch, first: int, why: str = "an earlier array of the launch failed", refused: Array | None = None
) -> None:
    """New runs of the arrays from `first` on vanish; runs that were there before get their intent revoked.

    Parameters
    ----------
    refused: the array that Slurm was asked for; of the others it never was
    """
    others = why if refused is None else f"an earlier array of the launch was refused: {why}"
    for array in launch.arrays[first:]:
        own: dict[str, Any] = {"why": why} if array is refused else {"why": others, "asked": False}
        for row in array.rows:
            runs.record_event(row.dir, "refused", durable=False, launch=launch.id, **own)
            if row.is_new:
                runs.discard(row.dir)
    for array in launch.arrays[first:]:
        with contextlib.suppress(UserError, OSError):  # nothing is waited for any more: its share is free
            runs.record_job(launch.results, launch.id, array.word, "")
    if first == 0 and not halt.reason(launch.dir):  # else the canary has been executed, and its log says why it failed
        if launch.canary is not None and launch.canary.job:
            with contextlib.suppress(UserError):
                slurm.scancel([launch.canary.job])
        shutil.rmtree(launch.dir, ignore_errors=True)
