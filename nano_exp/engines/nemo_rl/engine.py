"""The engine `nemo_rl`: NVIDIA's NeMo RL from its own checkout or container, on one node or several.

On one node it is one child process, and NeMo RL starts Ray itself. On several it is one Slurm step, whose tasks bring
up Ray and start NeMo RL on the first node (nodes.py). In a slot of a node (`pack=N`) it is a child process that does
the same there: without RAY_ADDRESS, or with `local`, NeMo RL's memory report ends where it finds two Rays (Ray 2.55.1,
services.py 704), while the address of a Ray that is up settles it. Facts are of NeMo RL v0.7.0 and Ray 2.55.1 (file and
line in brackets are upstream's). Settings of its own: conf/engine/nemo_rl.yaml.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from nano_exp import credentials, dotted, slurm
from nano_exp.engines import Command, Context, checkpoints, entry, nodes, slots
from nano_exp.engines.nemo_rl import converters, driver_env, metrics, program, stdout
from nano_exp.engines.nemo_rl.converters import export as export
from nano_exp.engines.nemo_rl.converters import scores as scores
from nano_exp.engines.nemo_rl.program import section
from nano_exp.engines.nemo_rl.run_phase import Phases
from nano_exp.engines.nemo_rl.weights import fits as fits
from nano_exp.engines.nemo_rl.weights import initial as initial
from nano_exp.engines.nemo_rl.weights import readable as readable
from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions
from nano_exp.nemo_rl.checkout import parser_plugin, refuse_other_version
from nano_exp.text import dd_hh_mm_ss

Config = Mapping[str, Any]
Environment = Mapping[str, str]

# Minutes, where conf/engine/nemo_rl.yaml does not say: from the attempt's start to the training loop's (Ray, vLLM,
# weights, perhaps a conversion to Megatron's format), and for the last save and the shutdown.
SETUP_MARGIN_MIN = 15.0
SAVE_MARGIN_MIN = 10.0
LEARNED = 1.25  # of the longest measured set-up
OPEN_FILES = 65535  # ray.sub 133: what Ray's guide for large clusters asks for


def check(config: Config) -> None:
    """Refuse at launch what this engine could not start.

    Raises
    ------
    UserError: no checkout, one without the needed script or of another version, an interpreter or image that is not
        there
    """
    site = section(config, "site")
    way = entry.of(site)
    if not way.contained or site.get("checkout"):
        # First: another version's scripts have other names.
        refuse_other_version(program.folder(config), str(section(config, "nemo_rl").get("version") or ""))
        program.checkout(config)
    if not any(site.get(key) for key in ("setup", "modules", "node_setup")):  # they may bring uv and the interpreter
        program.interpreter(config, os.environ, way)


def overlay(config: Config, ctx: Context) -> dict[str, object]:
    """What the attempt alone knows, as dotted keys: when to save and stop, where the tool parser lies, and that NeMo RL
    logs to TensorBoard's event files, which the attempt reads (metrics.py).

    checkpoint_must_save_by counts from the start of the training loop (grpo.py 2147), not of the allocation, and NeMo
    RL already leaves room for one more step of average length (utils/timer.py, fit_last_save_time). What is left to
    subtract is the set-up before the loop and the save after it. The set-up is what the longest of the run's earlier
    attempts took and a quarter more, or the setting where there was none. Where that would leave less than half of the
    time, as in a short test allocation, half of the time is used. A value in the config wins.
    """
    changes: dict[str, object] = {"logger.tensorboard_enabled": True}
    if not isinstance(section(config, "logger").get("tensorboard"), Mapping):
        changes["logger.tensorboard"] = {}  # read without a default (utils/logger.py 997)
    if ctx.deadline is not None and not config["checkpointing"].get("checkpoint_must_save_by"):
        engine = dotted.Config(config).section("engine")
        setup = 60 * float(engine.get("setup_margin_min", SETUP_MARGIN_MIN))
        if ctx.setup_s is not None:
            setup = LEARNED * ctx.setup_s
        margin = setup + 60 * float(engine.get("save_margin_min", SAVE_MARGIN_MIN))
        left = max(ctx.deadline - time.time(), 0.0)
        changes["checkpointing.checkpoint_must_save_by"] = dd_hh_mm_ss(max(left - margin, left / 2))
    if (slot := slots.told(os.environ)) is not None:
        changes |= _ports(config, slot)
    if plugin := parser_plugin(config):
        changes["policy.generation.vllm_cfg.tool_parser_plugin"] = str(plugin)
    return changes


def _ports(config: Config, slot: slots.Slot) -> dict[str, object]:
    """The ranges that NeMo RL looks for ports in (virtual_cluster.py 81); up to v0.6.0 they are the kernel's choice."""
    if versions.order(str(section(config, "nemo_rl").get("version") or "")) < versions.order("v0.7.0"):
        return {}
    keys = {"cluster.master_port_range": "master", "policy.generation.port_range": "generation"}
    if isinstance(section(config, "env").get("nemo_gym"), Mapping):
        keys["env.nemo_gym.port_range"] = "gym"
    ends = {f"{key}_{end}": slot.range(name)[i] for key, name in keys.items() for i, end in enumerate(("low", "high"))}
    return dict(ends)


def command(config: Config, ctx: Context) -> Command:
    """What starts NeMo RL: its script with the attempt's YAML, in the site's container, on all of the run's nodes.

    It writes nothing but Ray's private folder, the folders that a container mounts, and the scripts in the attempt.

    Raises
    ------
    UserError: another Ray on this host, an allocation of another size, or what `check` refuses (a compute node may see
        other files)
    """
    site, count = section(config, "site"), int(config["cluster"]["num_nodes"])
    way = entry.of(site, _run_folders(config, ctx))
    if not way.contained or site.get("checkout"):
        program.checkout(config)
    env = driver_env.environment(config, ctx, os.environ)
    python = program.interpreter(config, env, way)
    driver = [str(program.script(config)), "--config", str(ctx.config_path)]
    cwd = ctx.run_dir if way.contained else program.checkout(config)
    if way.contained:
        _make_folders(config)
    ray_tmp = Path(env["RAY_TMPDIR"])
    if count > 1:
        argv = _start_nodes(config, ctx, way, env, python, driver)
        return Command(argv, env, cwd, open_files=OPEN_FILES, scratch=(ray_tmp,))

    slot = slots.told(os.environ)
    own_ray = env.get("RAY_ADDRESS", "local") == "local"
    if slot is not None and own_ray:
        argv = _start_beside(slot, config, ctx, way, env, python, driver)
        return Command(argv, env, cwd, open_files=OPEN_FILES, scratch=(ray_tmp,))
    if own_ray:
        _refuse_other_ray(ray_addresses(), config, ctx, env)
    try:
        ray_tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{ray_tmp} cannot be made: {error.strerror}",
            "Ray keeps its sockets and logs there while it runs",
            "name a short folder on a local disk: '++site.env.RAY_TMPDIR=/scratch/me'",
        ) from error
    argv = [*python, *driver]
    if way.contained or site.get("node_setup") or driver_env.AFFINITY in env:
        inside = ctx.attempt_dir / "driver.sh"
        inside.write_text(entry.script("driver.sh", _settings(env), python, driver, site))
        argv = ["sh", str(inside)]
        if way.kind == "pyxis":  # its flags are srun's
            argv = entry.step_argv(way, _step(config, os.environ), argv)
        else:
            argv = [*entry.container_argv(way), *argv]
    return Command(argv, env, cwd, open_files=OPEN_FILES, scratch=(ray_tmp,))


def _start_nodes(
    config: Config, ctx: Context, way: entry.Entry, env: dict[str, str], python: list[str], driver: list[str]
) -> list[str]:
    """The step over all nodes; its scripts are written here."""
    count = int(config["cluster"]["num_nodes"])
    hosts = slurm.hostnames(os.environ.get("SLURM_JOB_NODELIST", ""))
    if len(hosts) != count:
        there = f"an allocation of {len(hosts)}" if hosts else "no Slurm allocation"
        raise UserError(
            f"cluster.num_nodes={count}, and {there}",
            "Ray is brought up over the nodes of the Slurm job that the attempt runs in",
            f"submit it with slurm.where=slurm, or inside `sbatch --nodes={count}`",
        )
    env.pop("RAY_ADDRESS", None)  # node.sh gives the driver that of its own head
    start = os.environ.get("SLURM_JOB_START_TIME", "")
    script = nodes.write(
        ctx.attempt_dir,
        config,
        hosts,
        driver_env.cpus(config, os.environ),
        _settings(env),
        python,
        driver,
        OPEN_FILES,
        float(start) if start.isdigit() else None,
    )
    return entry.step_argv(way, _step(config, os.environ), ["sh", str(script)])


def _start_beside(
    slot: slots.Slot,
    config: Config,
    ctx: Context,
    way: entry.Entry,
    env: dict[str, str],
    python: list[str],
    driver: list[str],
) -> list[str]:
    """A Ray of the run's own and then its driver, beside those of other runs."""
    env.pop("RAY_ADDRESS", None)  # node.sh gives the driver that of its own head
    host = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    cpus = driver_env.cpus(config, os.environ)
    settings = _settings(env)
    script = nodes.write(ctx.attempt_dir, config, [host], cpus, settings, python, driver, OPEN_FILES, None, slot)
    return [*entry.container_argv(way), "sh", str(script)]


def _step(config: Config, env: Environment) -> entry.Step:
    """A task on each node of the run, with all of the job's CPUs, memory and GPUs there."""
    count, gpus = int(config["cluster"]["num_nodes"]), int(config["cluster"]["gpus_per_node"])
    # Where Slurm does not manage GPUs it refuses a step that asks for them; the node's are then all visible.
    managed = any(env.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"))
    gres = str(section(config, "site").get("gres") or "")
    return entry.Step(count, driver_env.cpus(config, env), gpus if managed and gres != "none" else 0, gres)


def _settings(env: Environment) -> dict[str, str]:
    """What the engine's environment adds to the attempt's, for inside a container: an image's own values would win.

    It is written into the attempt's scripts, so nothing that is or may be a secret is in it: those are passed on as
    environment, by srun and by the container's tool.
    """
    outside = {"PATH", "PYTHONPATH", "VIRTUAL_ENV"}  # they name folders of the host
    added = {k: v for k, v in env.items() if k not in outside and os.environ.get(k) != v}
    return {k: v for k, v in added.items() if not credentials.secret_name(k) and credentials.redact(v) == v}


def _run_folders(config: Config, ctx: Context) -> list[str | None]:
    """Folders of the host that the engine needs inside its container."""
    site, policy = section(config, "site"), config["policy"]
    model = str(policy.get("model_name") or "")
    written = [config["checkpointing"].get("checkpoint_dir"), section(config, "logger").get("log_dir")]
    others = [site.get("hf_home"), site.get("venv_dir"), site.get("uv_cache_dir"), model if model[:1] == "/" else None]
    return [str(ctx.run_dir), *[str(path) if path and str(path)[:1] == "/" else None for path in [*written, *others]]]


def _make_folders(config: Config) -> None:
    """A container's tool refuses to mount a folder that is not there yet."""
    site = section(config, "site")
    written = [config["checkpointing"].get("checkpoint_dir"), section(config, "logger").get("log_dir")]
    for path in filter(None, [*written, site.get("hf_home"), site.get("venv_dir"), site.get("uv_cache_dir")]):
        try:
            Path(str(path)).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{path} cannot be made: {error.strerror}", "the container mounts it", "name another folder"
            ) from error


def evaluate(config: Config, checkpoint_path: Path, data: str, target: Path) -> Command:
    """A benchmark's set by run_eval.py; else the run's own Gym tasks, or a file of such, by the training's script."""
    if data in converters.SETS:
        return converters.benchmark(config, checkpoint_path, data, target)
    return command(*converters.trajectories(config, checkpoint_path, data, target))


def checkpoint_folder(config: Config, ctx: Context) -> Path:
    """checkpointing.checkpoint_dir; NeMo RL resumes from the highest step_N in it (utils/checkpoint.py)."""
    return _from_checkout(config, config["checkpointing"]["checkpoint_dir"])


def last_step(config: Config, ctx: Context) -> int:
    """The step of the newest whole checkpoint, or 0: where the next attempt goes on."""
    return max(checkpoints.whole(checkpoint_folder(config, ctx)), default=0)


def torn(config: Config, ctx: Context) -> list[Path]:
    """All that kills left: NeMo RL removes none of it before main."""
    return checkpoints.torn(checkpoint_folder(config, ctx))


def follow(config: Config, ctx: Context, lines: Iterable[str | None]) -> Iterator[stdout.Row]:
    """Rows for metrics.jsonl, one a step: what NeMo RL logs, and the few numbers that it prints where that was lost."""
    return metrics.follow(_from_checkout(config, config["logger"]["log_dir"]), lines, ctx.resumes_from)


def trains(line: str) -> bool:
    """Whether a line of stdout says that set-up is over."""
    return stdout.trains(line)


def phases(config: Config, ctx: Context) -> Phases:
    """What tells the attempt's phase."""
    return Phases(config, ctx.attempt_dir, os.environ)


def _from_checkout(config: Config, path: Any) -> Path:
    """A relative path is relative to the engine's working folder."""
    return Path(str(section(config, "site").get("checkout") or ".")) / str(path)


def end_of(
    config: Config,
    exit_code: int,
    last_step: int,
    finished_steps: int = 0,
    printed: Iterable[str] = (),
    asked_to_stop: bool = False,
) -> Literal["done", "stopped", "failed"]:
    """What kind of end an attempt had. Exit code 0 alone says little:

    - The last step is always saved (grpo.py 2750, 2873), so a checkpoint at max_num_steps is a finished run, whatever
      came after it.
    - A time-out saves and returns: exit code 0 and a line that says so (3125).
    - After the last epoch the sync loop just returns: exit code 0 and no line. The 9B recipe ends this way (one epoch,
      a million steps). Its last step has a checkpoint too, but with dynamic sampling or several data loaders. Only the
      banners tell it from an exit in the middle: the last one is that of the last epoch's last step.
    - On main a validation may reach grpo.stop_at_validation_threshold: exit code 0 and a line that says so.
    - async_grpo_train prints an exception and returns (4322; up to v0.7): exit code 0 for a failure.
    - A data set smaller than one batch gives no step at all (drop_last, 364): exit code 0.
    - There are no signal handlers: a signal saves nothing.

    Parameters
    ----------
    exit_code: of the child; negative for a signal
    last_step: of the newest checkpoint, as `last_step` gives it
    finished_steps: the highest step in this run's training metrics
    printed: this attempt's stdout, its lines
    asked_to_stop: the attempt passed on a signal (Ctrl-C, scancel, preemption, the allocation's end)
    """
    if last_step >= int(config["grpo"]["max_num_steps"]):
        return "done"
    if exit_code != 0:
        return "stopped" if asked_to_stop else "failed"
    output = stdout.read(printed)
    if output.notice in ("max_steps", "threshold"):
        return "done"
    if output.notice == "timeout" or asked_to_stop:
        return "stopped"
    if output.notice == "async_error" or (config["grpo"].get("async_grpo") or {}).get("enabled"):
        return "failed"
    if (section(config, "env").get("nemo_gym") or {}).get("is_trajectory_collection"):  # it trains nothing
        return "done"
    trained = max(last_step, finished_steps) > 0
    whole = output.at_end_of_epochs(bool(config["grpo"].get("use_dynamic_sampling")))
    return "done" if trained and whole else "failed"


def ray_addresses(proc: Path = Path("/proc")) -> dict[int, str]:
    """Process id -> address of each Ray running on this host, found as Ray itself does: in raylets' arguments."""
    addresses = {}
    for folder in proc.glob("[0-9]*"):
        try:
            args = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile, or belongs to somebody whose processes are hidden
            continue
        if Path(args[0]).name == "raylet":
            for arg in args:
                if arg.startswith("--gcs-address="):
                    addresses[int(folder.name)] = arg.partition("=")[2]
    return addresses


def _refuse_other_ray(addresses: Mapping[int, str], config: Config, ctx: Context, env: Environment) -> None:
    if not addresses:
        return
    pid, address = next(iter(addresses.items()))
    if "SLURM_JOB_ID" not in env:
        fix = "one run at a time on this machine (slurm.parallel_local=1), or pack=N, which gives each a Ray of its own"
    elif section(config, "site").get("allocation") != "node":
        fix = "the same launch with site.allocation=node, which has its nodes alone"
    else:
        fix = f"another node: nano-exp retry {ctx.run_dir.name} hydra.launcher.exclude={os.uname().nodename}"
    raise UserError(
        f"another Ray runs on this host (raylet {pid}, address {address})",
        "NeMo RL's memory report looks for Ray by its processes and stops with an error when it finds two",
        f"{fix}; or kill {pid}, if it is a leftover of yours",
    )
