"""After training with NeMo RL: its own converter for a checkpoint, and its own evaluations of the weights.

Facts are of NeMo RL v0.5.0 to v0.7.0; the scripts are those of examples/ at the run's version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.dotted import Config as Read
from nano_exp.engines import Command, Context, checkpoints, entry
from nano_exp.engines.nemo_rl import driver_env, program
from nano_exp.engines.nemo_rl.weights import (
    CONSOLIDATED,
    ITERATION,
    hugging_face,
    is_megatron,
    is_v2,
    not_exportable,
    version,
)
from nano_exp.errors import UserError
from nano_exp.store import run_config

Config = Mapping[str, Any]
DCP, MEGATRON = "examples/converters/convert_dcp_to_hf.py", "examples/converters/convert_megatron_to_hf.py"
BENCHMARKS = "examples/run_eval.py"
#: What examples/run_eval.py calls its sets (data/datasets/eval_datasets/__init__.py at v0.7.0).
SETS = ("aime2024", "aime2025", "gpqa", "gpqa_diamond", "math", "math500", "mmlu", "mmlu_pro")
TRAJECTORIES = "trajectory_collection.jsonl"


def export(config: dict[str, Any], checkpoint_path: Path, target: Path) -> Command:
    """The converter of this version and backend, in the site's environment; a consolidated tree is copied."""
    there = checkpoint_path / CONSOLIDATED
    if (there / "config.json").is_file():
        return Command(["cp", "-rL", str(there), str(target)], dict(os.environ), target.parent)
    why, fix = not_exportable(config)
    if why:
        raise UserError(f"{checkpoint_path}: its weights cannot be exported", why, f"for the next run: {fix}")
    files_of = ["--config", str(checkpoint_path / "config.yaml"), "--hf-ckpt-path", str(target)]
    if is_megatron(config):
        words = [MEGATRON, *files_of, "--megatron-ckpt-path", str(checkpoint_path / ITERATION)]
        return _command(config, checkpoint_path, target, words, extra="mcore")
    inner = "policy/weights/model" if is_v2(config) and version(config) < (0, 6, 0) else "policy/weights"
    return _command(config, checkpoint_path, target, [DCP, *files_of, "--dcp-ckpt-path", str(checkpoint_path / inner)])


def weights_of(checkpoint_path: Path) -> Path:
    """A checkpoint's Hugging Face weights, which NeMo RL evaluates. Raises UserError where there are none."""
    weights = hugging_face(checkpoint_path)
    if weights is None:
        raise UserError(
            f"no Hugging Face weights of {checkpoint_path}",
            "NeMo RL evaluates such a folder",
            f"nano-exp export {checkpoints.home(checkpoint_path).name} --step {checkpoint_path.name[len('step_') :]}",
        )
    return weights


def benchmark(config: Config, checkpoint_path: Path, data: str, target: Path) -> Command:
    """examples/run_eval.py on one of its SETS: its own sampling (greedy), the run's length and vLLM's layout."""
    read = Read(config)
    parallel = read.count("policy.generation.vllm_cfg.tensor_parallel_size", 1)
    length = read.count("policy.max_total_sequence_length", 2048)
    words = [
        *(BENCHMARKS, f"generation.model_name={weights_of(checkpoint_path)}", f"data.dataset_name={data}"),
        *(f"eval.save_path={target}", f"generation.vllm_cfg.max_model_len={length}"),
        f"generation.vllm_cfg.tensor_parallel_size={parallel}",
        f"cluster.gpus_per_node={max(parallel, read.count('cluster.gpus_per_node', 1))}",
    ]
    return _command(config, checkpoint_path, target, words)


def trajectories(config: Config, checkpoint_path: Path, data: str, target: Path) -> tuple[dict[str, Any], Context]:
    """The training's own config and context, with the switch that collects trajectories of validation tasks and trains
    nothing (examples/nemo_gym/run_grpo_nemo_gym.py 221)."""
    if not Read(config).on("env.should_use_nemo_gym"):
        raise UserError(
            f"--data {data or 'null'}",
            "NeMo RL evaluates this run on benchmark sets (examples/run_eval.py); its validation was in training",
            f"--data math500, or another of {', '.join(SETS)}",
        )
    if data and not Path(data).is_file():
        raise UserError(
            f"--data {data}", "it is no set of NeMo RL's, and no file of Gym tasks", "leave it out, or --data FILE"
        )
    changes: dict[str, Any] = {
        "policy.model_name": str(weights_of(checkpoint_path)),
        "env.nemo_gym.is_trajectory_collection": True,
        "checkpointing.enabled": False,
        "checkpointing.checkpoint_dir": str(target / "checkpoints"),
        "logger.log_dir": str(target / "logs"),
        **{f"logger.{tracker}_enabled": False for tracker in ("wandb", "mlflow", "swanlab", "tensorboard")},
        **({"data.validation_jsonl_fpath": str(Path(data).absolute())} if data else {}),
    }
    changed = Read(config).changed(changes)
    ctx = Context(target.parent.parent, target, 0, target.parent / f"{target.name}.yaml")
    files.write_text(ctx.config_path, files.dump_yaml(run_config.engine_config(changed)))
    return changed, ctx


def scores(config: Config, target: Path, printed: Iterable[str]) -> dict[str, float]:
    """`score=` of run_eval.py, or the mean reward of the collected trajectories."""
    collected = sorted(target.rglob(TRAJECTORIES))
    if collected:
        rows = [json.loads(line) for line in collected[-1].read_text().splitlines() if line.strip()]
        rewards = [float(row["reward"]) for row in rows]
        return {"accuracy": sum(rewards) / len(rewards), "samples": len(rewards)} if rewards else _nothing(target)
    found = [match for line in printed if (match := re.search(r"score=([\d.]+) \(([\d.]+)/(\d+)\)", line))]
    return {"accuracy": float(found[-1][1]), "samples": int(found[-1][3])} if found else _nothing(target)


def _nothing(target: Path) -> dict[str, float]:
    raise ValueError(f"no score was printed, and there is no {TRAJECTORIES} in {target}")


def _command(config: Config, checkpoint_path: Path, target: Path, words: Sequence[str], extra: str = "") -> Command:
    """A script of the checkout on one node, in the site's environment or container."""
    site = program.section(config, "site")
    ctx = Context(target.parent.parent, target, 0, target)
    places = (site.get(key) for key in ("hf_home", "venv_dir", "uv_cache_dir"))
    folders = [str(ctx.run_dir), str(checkpoints.home(checkpoint_path)), *places]
    way = entry.of(site, folders)
    checkout = None
    if not way.contained or site.get("checkout"):
        checkout = program.folder(config)
        if not (checkout / words[0]).is_file():
            raise UserError(
                f"site.checkout={checkout}: no {words[0]}",
                f"NeMo RL {Read(config).text('nemo_rl.version')} has it",
                "the checkout of the run's version: site.checkout=/path/to/RL",
            )
    env = driver_env.environment(config, ctx, os.environ)
    python = program.interpreter(config, env, way)
    if extra and python[:2] == ["uv", "run"]:
        python = ["uv", "run", "--extra", extra, *python[2:]]
    argv = [*python, *words]
    if way.kind == "pyxis":
        if shutil.which("srun") is None or not os.environ.get("SLURM_JOB_ID"):
            raise UserError("site.entry=pyxis outside of a job", "its containers are srun's", "the same with --submit")
        gpus = Read(config).count("cluster.gpus_per_node", 0) if os.environ.get("SLURM_JOB_GPUS") else 0
        step = entry.Step(1, driver_env.cpus(config, os.environ), gpus, str(site.get("gres") or ""))
        argv = entry.step_argv(way, step, argv)
    else:
        argv = [*entry.container_argv(way), *argv]
    return Command(argv, env, checkout or ctx.run_dir, scratch=(Path(env["RAY_TMPDIR"]),))
