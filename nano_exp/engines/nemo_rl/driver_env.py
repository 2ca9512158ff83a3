"""The environment of NeMo RL's driver: what it, Ray, vLLM and W&B read there."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nano_exp
from nano_exp import dotted
from nano_exp.engines import Context, slots
from nano_exp.engines.nemo_rl.program import section
from nano_exp.environment import PACKAGES
from nano_exp.errors import UserError
from nano_exp.slurm import shapes

Config = Mapping[str, Any]
Environment = Mapping[str, str]

THREADS = 16  # ray.sub 98 at v0.7.0; Ray gives an actor one thread where OMP_NUM_THREADS is not set
AFFINITY = "NRL_GPU_CPU_AFFINITY_FILE"  # distributed/numa_utils.py 20: a line for each GPU, written by affinity.sh
ARCH_LIST = "9.0 10.0"  # docker/Dockerfile 137: Hopper and Blackwell; NeMo RL's own container sets the same
# Ray's sockets are <RAY_TMPDIR>/ray/session_<26 characters>_<pid>/sockets/plasma_store; a socket's path ends at 107.
RAY_TMPDIR_MAX = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
OWN_FOLDER = len("/nx-0123456789")  # an attempt's, in a folder for all


def cpus(config: Config, env: Environment) -> int:
    """CPUs that this allocation has on each of its nodes."""
    had = shapes.fewest_cpus(env) or section(config, "slurm").get("cpus_per_node")
    return int(had or max(os.cpu_count() or 1, 1))


def environment(config: Config, ctx: Context, base: Environment) -> dict[str, str]:
    """The child's whole environment: `base`, what NeMo RL needs, then site.env on top (a null there removes a name).

    NeMo RL hands it all to every Ray worker (virtual_cluster.py 194). NRL_*, SLURM_*, NCCL_*, OMP_* and tokens pass
    as they are: upstream's own ray.sub runs the driver inside a Slurm step too.
    """
    env = dict(base)
    site = section(config, "site")

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
    env.setdefault("PYTHONFAULTHANDLER", "1")  # what is ended for a stall says where it was (job/stacks.py)
    env["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # ray.sub 126: or each Ray worker builds its own environment

    env.setdefault("OMP_NUM_THREADS", str(_threads(config, base)))
    if (slot := slots.told(base)) is not None:
        # vLLM's compiled kernels: an engine's folder is told by its place in the run alone (vllm_worker.py 117).
        home = base.get("VLLM_CACHE_ROOT") or str(Path("~/.cache/vllm").expanduser())
        env["VLLM_CACHE_ROOT"] = f"{home}-slot{slot.low}"
    elif (cpus := shapes.fewest_cpus(base)) and int(config["cluster"]["num_nodes"]) == 1:
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
    named = str((site.get("env") or {}).get("RAY_TMPDIR") or "")
    if len(named) + OWN_FOLDER > RAY_TMPDIR_MAX:
        raise UserError(
            f"RAY_TMPDIR={named} ({len(named)} characters)",
            "Ray's sockets lie below it and a socket's path ends at 107: "
            f"{RAY_TMPDIR_MAX - OWN_FOLDER} characters are left for it",
            "name a short folder on a local disk: '++site.env.RAY_TMPDIR=/tmp'",
        )
    env["RAY_TMPDIR"] = str(_ray_tmpdir(ctx, base, named))
    if _alone(config, base):
        # Not ray.sub's /tmp/nrl_gpu_cpu_affinity: without a container that file may be another user's, of another job.
        env.setdefault(AFFINITY, f"{env['RAY_TMPDIR']}/gpu_cpu_affinity")
    return env


def _alone(config: Config, env: Environment) -> bool:
    """Whether the job has its nodes alone. Only then are workers bound: their memory too, to a NUMA node that another
    job may have filled."""
    if slots.told(env) is not None:
        return False
    return bool(shapes.fewest_cpus(env)) and shapes.whole_nodes(section(config, "site").get("allocation"), "nemo_rl")


def _threads(config: Config, env: Environment) -> int:
    """OMP_NUM_THREADS: upstream's, and no more than a GPU's share of the CPUs where others have the rest."""
    if _alone(config, env):
        return THREADS
    return max(1, min(THREADS, cpus(config, env) // max(int(config["cluster"]["gpus_per_node"]), 1)))


def _ray_tmpdir(ctx: Context, base: Environment, named: str) -> Path:
    """A folder of this attempt's own, with a short name, in the one that site.env names: it is removed afterwards."""
    name = hashlib.sha256(f"{ctx.attempt_dir}|{base.get('SLURM_JOB_ID', '')}".encode()).hexdigest()[:10]
    root = named or tempfile.gettempdir()
    return Path(root if len(root) + OWN_FOLDER <= RAY_TMPDIR_MAX else "/tmp") / f"nx-{name}"
