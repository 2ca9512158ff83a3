"""The engine `nemo_rl`: NVIDIA's NeMo RL from its own checkout or container, on one node or several.

On one node it is one child process, and NeMo RL starts Ray itself. On several it is one Slurm step, whose tasks bring
up Ray and start NeMo RL on the first node (nodes.py). Facts are of NeMo RL v0.7.0 and Ray 2.55.1 (file and line in
brackets are upstream's). Settings of its own: conf/engine/nemo_rl.yaml.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import nano_exp
from nano_exp import credentials, dotted, slurm
from nano_exp.engines import Command, Context, checkpoints, entry, nodes
from nano_exp.engines.nemo_rl import metrics, stdout
from nano_exp.environment import PACKAGES
from nano_exp.errors import UserError
from nano_exp.nemo_rl.checkout import parser_plugin, refuse_other_version
from nano_exp.slurm import shapes
from nano_exp.text import dd_hh_mm_ss

Config = Mapping[str, Any]
Environment = Mapping[str, str]

# Minutes, where conf/engine/nemo_rl.yaml does not say: from the attempt's start to the training loop's (Ray, vLLM,
# weights, perhaps a conversion to Megatron's format), and for the last save and the shutdown.
SETUP_MARGIN_MIN = 15.0
SAVE_MARGIN_MIN = 10.0
LEARNED = 1.25  # of the longest measured set-up
OPEN_FILES = 65535  # ray.sub 133: what Ray's guide for large clusters asks for
THREADS = 16  # ray.sub 98 at v0.7.0; Ray gives an actor one thread where OMP_NUM_THREADS is not set
AFFINITY = "NRL_GPU_CPU_AFFINITY_FILE"  # distributed/numa_utils.py 20: a line for each GPU, written by affinity.sh
ARCH_LIST = "9.0 10.0"  # docker/Dockerfile 137: Hopper and Blackwell; NeMo RL's own container sets the same
# Ray's sockets are <RAY_TMPDIR>/ray/session_<26 characters>_<pid>/sockets/plasma_store; a socket's path ends at 107.
RAY_TMPDIR_MAX = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def check(config: Config) -> None:
    """Refuse at launch what this engine could not start.

    Raises
    ------
    UserError: no checkout, one without the needed script or of another version, an interpreter or image that is not
        there
    """
    site = _section(config, "site")
    way = entry.of(site)
    if not way.contained or site.get("checkout"):
        # First: another version's scripts have other names.
        refuse_other_version(_folder(config), str(_section(config, "nemo_rl").get("version") or ""))
        _checkout(config)
    if not any(site.get(key) for key in ("setup", "modules", "node_setup")):  # they may bring uv and the interpreter
        _interpreter(config, os.environ, way)


def overlay(config: Config, ctx: Context) -> dict[str, object]:
    """What the attempt alone knows, as dotted keys: when to save and stop, where the tool parser lies, and that NeMo RL
    logs to TensorBoard's event files, which the attempt reads (metrics.py).

    checkpoint_must_save_by counts from the start of the training loop (grpo.py 2147), not of the allocation, and NeMo
    RL already leaves room for one more step of average length (utils/timer.py, fit_last_save_time). What is left to
    subtract is the set-up before the loop and the save after it. The set-up is what the longest of the run's earlier
    attempts took and a quarter more, or the setting where there was none. Where that would leave less than half of the
    time, as in a short test allocation, half of the time is used. A value in the config wins.
    """
    found: dict[str, object] = {"logger.tensorboard_enabled": True}
    if not isinstance(_section(config, "logger").get("tensorboard"), Mapping):
        found["logger.tensorboard"] = {}  # read without a default (utils/logger.py 997)
    if ctx.deadline is not None and not config["checkpointing"].get("checkpoint_must_save_by"):
        engine = dotted.Config(config).section("engine")
        setup = 60 * float(engine.get("setup_margin_min", SETUP_MARGIN_MIN))
        if ctx.setup_s is not None:
            setup = LEARNED * ctx.setup_s
        margin = setup + 60 * float(engine.get("save_margin_min", SAVE_MARGIN_MIN))
        left = max(ctx.deadline - time.time(), 0.0)
        found["checkpointing.checkpoint_must_save_by"] = dd_hh_mm_ss(max(left - margin, left / 2))
    if plugin := parser_plugin(config):
        found["policy.generation.vllm_cfg.tool_parser_plugin"] = str(plugin)
    return found


def command(config: Config, ctx: Context) -> Command:
    """What starts NeMo RL: its script with the attempt's YAML, in the site's container, on all of the run's nodes.

    It writes nothing but Ray's private folder, the folders that a container mounts, and the scripts in the attempt.

    Raises
    ------
    UserError: another Ray on this host, an allocation of another size, or what `check` refuses (a compute node may see
        other files)
    """
    site, count = _section(config, "site"), int(config["cluster"]["num_nodes"])
    way = entry.of(site, _own_mounts(config, ctx))
    if not way.contained or site.get("checkout"):
        _checkout(config)
    env = environment(config, ctx, os.environ)
    python = _interpreter(config, env, way)
    driver = [str(_script(config)), "--config", str(ctx.config_path)]
    cwd = ctx.run_dir if way.contained else _checkout(config)
    if way.contained:
        _make_folders(config)
    ray_tmp = Path(env["RAY_TMPDIR"])
    scratch = (ray_tmp,) if "RAY_TMPDIR" not in (site.get("env") or {}) else ()
    if count > 1:
        argv = _start_nodes(config, ctx, way, env, python, driver)
        return Command(argv, env, cwd, open_files=OPEN_FILES, scratch=scratch)

    if env.get("RAY_ADDRESS", "local") == "local":
        _refuse_other_ray(ray_addresses())
    try:
        ray_tmp.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{ray_tmp} cannot be made: {error.strerror}",
            "Ray keeps its sockets and logs there while it runs",
            "name a short folder on a local disk: '++site.env.RAY_TMPDIR=/scratch/me'",
        ) from error
    argv = [*python, *driver]
    if way.contained or site.get("node_setup") or AFFINITY in env:
        inside = ctx.attempt_dir / "driver.sh"
        inside.write_text(entry.script("driver.sh", _settings(env), python, driver, site))
        argv = ["sh", str(inside)]
        if way.kind == "pyxis":  # its flags are srun's
            argv = entry.step_argv(way, _step(config, os.environ), argv)
        else:
            argv = [*entry.container_argv(way), *argv]
    return Command(argv, env, cwd, open_files=OPEN_FILES, scratch=scratch)


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
        _cpus(config, os.environ),
        _settings(env),
        python,
        driver,
        OPEN_FILES,
        float(start) if start.isdigit() else None,
    )
    return entry.step_argv(way, _step(config, os.environ), ["sh", str(script)])


def _step(config: Config, env: Environment) -> entry.Step:
    """A task on each node of the run, with all of the job's CPUs, memory and GPUs there."""
    count, gpus = int(config["cluster"]["num_nodes"]), int(config["cluster"]["gpus_per_node"])
    # Where Slurm does not manage GPUs it refuses a step that asks for them; the node's are then all visible.
    managed = any(env.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"))
    gres = str(_section(config, "site").get("gres") or "")
    return entry.Step(count, _cpus(config, env), gpus if managed and gres != "none" else 0, gres)


def _cpus(config: Config, env: Environment) -> int:
    """CPUs that this allocation has on each of its nodes."""
    had = shapes.fewest_cpus(env) or _section(config, "slurm").get("cpus_per_node")
    return int(had or max(os.cpu_count() or 1, 1))


def _settings(env: Environment) -> dict[str, str]:
    """What the engine's environment adds to the attempt's, for inside a container: an image's own values would win.

    It is written into the attempt's scripts, so nothing that is or may be a secret is in it: those are passed on as
    environment, by srun and by the container's tool.
    """
    outside = {"PATH", "PYTHONPATH", "VIRTUAL_ENV"}  # they name folders of the host
    added = {k: v for k, v in env.items() if k not in outside and os.environ.get(k) != v}
    return {k: v for k, v in added.items() if not credentials.secret_name(k) and credentials.redact(v) == v}


def _own_mounts(config: Config, ctx: Context) -> list[str | None]:
    """Folders of the host that the engine needs inside its container."""
    site, policy = _section(config, "site"), config["policy"]
    model = str(policy.get("model_name") or "")
    written = [config["checkpointing"].get("checkpoint_dir"), _section(config, "logger").get("log_dir")]
    kept = [site.get("hf_home"), site.get("venv_dir"), site.get("uv_cache_dir"), model if model[:1] == "/" else None]
    return [str(ctx.run_dir), *[str(path) if path and str(path)[:1] == "/" else None for path in [*written, *kept]]]


def _make_folders(config: Config) -> None:
    """A container's tool refuses to mount a folder that is not there yet."""
    site = _section(config, "site")
    written = [config["checkpointing"].get("checkpoint_dir"), _section(config, "logger").get("log_dir")]
    for path in filter(None, [*written, site.get("hf_home"), site.get("venv_dir"), site.get("uv_cache_dir")]):
        try:
            Path(str(path)).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{path} cannot be made: {error.strerror}", "the container mounts it", "name another folder"
            ) from error


def environment(config: Config, ctx: Context, base: Environment) -> dict[str, str]:
    """The child's whole environment: `base`, what NeMo RL needs, then site.env on top (a null there removes a name).

    NeMo RL hands it all to every Ray worker (virtual_cluster.py 194). NRL_*, SLURM_*, NCCL_*, OMP_* and tokens pass
    as they are: upstream's own ray.sub runs the driver inside a Slurm step too.
    """
    env = dict(base)
    site = _section(config, "site")

    # The engine's interpreter must not import this project's packages, nor take its virtual environment for its own.
    packages = env.pop(PACKAGES, "").split(os.pathsep)
    ours = {Path(nano_exp.__file__).resolve().parents[1], *(Path(p).resolve() for p in packages if p)}
    entries = [p for p in env.pop("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() not in ours]
    if entries:
        env["PYTHONPATH"] = os.pathsep.join(entries)
    env.pop("PYTHONHOME", None)
    env.pop("PYTHONSAFEPATH", None)  # the attempt's own: scripts that import a file beside them would fail under it
    if env.get("VIRTUAL_ENV") and Path(env["VIRTUAL_ENV"]).resolve() == Path(sys.prefix).resolve():
        del env["VIRTUAL_ENV"]
    python = Path(str(site.get("python") or "")).expanduser()
    if python.is_absolute():  # as activating it would: kernels compiled at run time look for its `ninja` on PATH
        env["PATH"] = os.pathsep.join(filter(None, [str(python.parent), env.get("PATH", "")]))
    env["PYTHONUNBUFFERED"] = "1"  # half of NeMo RL's prints do not flush; the attempt reads them as they come

    # Weights, tokenizers and, below it, NeMo RL's conversion cache, which resuming needs on every node.
    if site.get("hf_home"):
        env["HF_HOME"] = str(Path(str(site["hf_home"])).expanduser().absolute())
    # Environments of NeMo RL's workers (utils/venv.py 37), and uv's cache: both are large.
    for name, key in (("NEMO_RL_VENV_DIR", "venv_dir"), ("UV_CACHE_DIR", "uv_cache_dir")):
        if site.get(key):
            env[name] = str(Path(str(site[key])).expanduser().absolute())

    # init_ray calls ray.init(address="auto") first (virtual_cluster.py 213). Seen with Ray 2.55.1: without RAY_ADDRESS
    # that joins any Ray whose processes are visible on the host, a private RAY_TMPDIR notwithstanding; with
    # RAY_ADDRESS=local it starts its own. An inherited address would be another job's.
    address = dotted.Config(config).get("engine.ray_address", "local")
    env["RAY_ADDRESS"] = str(address)
    env["RAY_TMPDIR"] = str(_ray_tmpdir(ctx, base))
    env["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # ray.sub 126: or each Ray worker builds its own environment

    env.setdefault("OMP_NUM_THREADS", str(_threads(config, base)))
    if (cpus := shapes.fewest_cpus(base)) and int(config["cluster"]["num_nodes"]) == 1:
        # NeMo RL starts this Ray itself, and Ray counts the host's CPUs (Ray 2.55.1, resource_and_label_spec.py 170).
        env.setdefault("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": cpus}))

    if (config["policy"].get("megatron_cfg") or {}).get("enabled"):
        env.setdefault("TORCH_CUDA_ARCH_LIST", ARCH_LIST)  # lm_policy.py 121 refuses to start without it

    # NeMo RL gives wandb.init its own folder; this one is for what wandb writes outside of it. Without a key in the
    # environment wandb would ask for one on a terminal that is not there.
    env.setdefault("WANDB_DIR", str(ctx.run_dir))
    if not env.get("WANDB_API_KEY"):
        env.setdefault("WANDB_MODE", "offline")

    for name, value in (site.get("env") or {}).items():
        if value is None:
            env.pop(str(name), None)
        else:
            env[str(name)] = str(value)
    if not env.get("RAY_TMPDIR"):
        env["RAY_TMPDIR"] = str(_ray_tmpdir(ctx, base))
    if len(env["RAY_TMPDIR"]) > RAY_TMPDIR_MAX:
        raise UserError(
            f"RAY_TMPDIR={env['RAY_TMPDIR']} ({len(env['RAY_TMPDIR'])} characters)",
            f"Ray's sockets lie below it and a socket's path ends at 107: {RAY_TMPDIR_MAX} characters are left for it",
            "name a short folder on a local disk: '++site.env.RAY_TMPDIR=/tmp'",
        )
    if _alone(config, base):
        # Not ray.sub's /tmp/nrl_gpu_cpu_affinity: without a container that file may be another user's, of another job.
        env.setdefault(AFFINITY, f"{env['RAY_TMPDIR']}/gpu_cpu_affinity")
    return env


def _alone(config: Config, env: Environment) -> bool:
    """Whether the job has its nodes alone. Only then are workers bound: their memory too, to a NUMA node that another
    job may have filled."""
    return bool(shapes.fewest_cpus(env)) and shapes.whole_nodes(_section(config, "site").get("allocation"), "nemo_rl")


def _threads(config: Config, env: Environment) -> int:
    """OMP_NUM_THREADS: upstream's, and no more than a GPU's share of the CPUs where others have the rest."""
    if _alone(config, env):
        return THREADS
    return max(1, min(THREADS, _cpus(config, env) // max(int(config["cluster"]["gpus_per_node"]), 1)))


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


def _from_checkout(config: Config, path: Any) -> Path:
    """A relative path is relative to the engine's working folder."""
    return Path(str(_section(config, "site").get("checkout") or ".")) / str(path)


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
    said = stdout.read(printed)
    if said.notice in ("max_steps", "threshold"):
        return "done"
    if said.notice == "timeout" or asked_to_stop:
        return "stopped"
    if said.notice == "async_error" or (config["grpo"].get("async_grpo") or {}).get("enabled"):
        return "failed"
    if (_section(config, "env").get("nemo_gym") or {}).get("is_trajectory_collection"):  # it trains nothing
        return "done"
    trained = max(last_step, finished_steps) > 0
    whole = said.at_end_of_epochs(bool(config["grpo"].get("use_dynamic_sampling")))
    return "done" if trained and whole else "failed"


def ray_addresses(proc: Path = Path("/proc")) -> dict[int, str]:
    """Process id -> address of each Ray running on this host, found as Ray itself does: in raylets' arguments."""
    found = {}
    for folder in proc.glob("[0-9]*"):
        try:
            args = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile, or belongs to somebody whose processes are hidden
            continue
        if Path(args[0]).name == "raylet":
            for arg in args:
                if arg.startswith("--gcs-address="):
                    found[int(folder.name)] = arg.partition("=")[2]
    return found


def _refuse_other_ray(found: Mapping[int, str]) -> None:
    if found:
        pid, address = next(iter(found.items()))
        raise UserError(
            f"another Ray runs on this host (raylet {pid}, address {address})",
            "NeMo RL's memory report looks for Ray by its processes and stops with an error when it finds two",
            "end it if it is a leftover, or have the node alone: site.allocation=node",
        )


def _section(config: Config, name: str) -> Mapping[str, Any]:
    return config.get(name) or {}


def _script(config: Config) -> Path:
    gym = bool(_section(config, "env").get("should_use_nemo_gym"))
    return Path(str(config["nemo_rl"]["scripts"]["gym" if gym else "grpo"]))


def _folder(config: Config) -> Path:
    """The folder of the checkout."""
    named = _section(config, "site").get("checkout")
    fix = "name a checkout of NeMo RL: site.checkout=/path/to/RL"
    if not named:
        raise UserError("site.checkout=null", f"the engine nemo_rl runs {_script(config)} of a NeMo RL checkout", fix)
    checkout = Path(str(named)).expanduser().absolute()
    if not checkout.is_dir():
        raise UserError(f"site.checkout={named}", "there is no such folder on this host", fix)
    return checkout


def _checkout(config: Config) -> Path:
    """The checkout, which has the script of this run."""
    checkout, script = _folder(config), _script(config)
    if not (checkout / script).is_file():
        version = _section(config, "nemo_rl").get("version")
        raise UserError(
            f"site.checkout={checkout}",
            f"it has no {script}, so it is not NeMo RL {version}'s checkout",
            "name a checkout of NeMo RL: site.checkout=/path/to/RL",
        )
    return checkout


def _interpreter(config: Config, env: Environment, way: entry.Entry) -> list[str]:
    """`site.python`, or upstream's way of starting: `uv run python`, which makes the checkout's environment first.

    In a container the words are the container's: nothing is looked for on the host.
    """
    python = _section(config, "site").get("python")
    if way.contained:
        return [str(python)] if python else ["uv", "run", "python"]
    if python:
        found = shutil.which(str(Path(str(python)).expanduser()), path=env.get("PATH"))
        if not found:
            raise UserError(
                f"site.python={python}",
                "there is no such program on this host",
                "name the interpreter of NeMo RL's virtual environment: site.python=/path/to/venv/bin/python",
            )
        return [found]
    uv = shutil.which("uv", path=env.get("PATH"))
    if not uv:
        raise UserError(
            "site.python=null and no `uv` on PATH",
            "the checkout's scripts need NeMo RL's virtual environment",
            "name its interpreter, site.python=/path/to/venv/bin/python, or install uv",
        )
    return [uv, "run", "python"]


def _ray_tmpdir(ctx: Context, base: Environment) -> Path:
    """A folder of this attempt's own, with a short name."""
    name = hashlib.sha256(f"{ctx.attempt_dir}|{base.get('SLURM_JOB_ID', '')}".encode()).hexdigest()[:10]
    root = tempfile.gettempdir()
    return Path(root if len(root) + 14 <= RAY_TMPDIR_MAX else "/tmp") / f"nx-{name}"
