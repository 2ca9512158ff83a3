"""Stand-in for NeMo RL's GRPO trainer at v0.7.0 (see README.md): the contract of its scripts, and no training."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pprint
import re
import runpy
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from event_file import EventFile
from workers import MODULES

BANNER = "This is a STAND-IN for NeMo RL (tests/standin): nothing is trained."


class OutOfMemoryError(RuntimeError):
    """Stand-in for torch's error of this name."""


def setting(name: str, default: float) -> float:
    """A number from the environment variable STANDIN_<name>."""
    return float(os.environ.get(f"STANDIN_{name}") or default)


def say(text: str = "") -> None:
    print(text, flush=True)


def read(config: dict[str, Any], path: str) -> Any:
    """The value at a dotted path; KeyError with the whole path when it or a parent is missing."""
    node: Any = config
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            raise KeyError(path)
        node = node[part]
    return node


def load(path: Path) -> dict[str, Any]:
    """A flat, resolved YAML; ValueError where an interpolation or a missing value is left in it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a mapping")
    stack: list[tuple[str, Any]] = [("", config)]
    while stack:
        where, node = stack.pop()
        if isinstance(node, dict):
            stack += [(f"{where}.{key}".lstrip("."), value) for key, value in node.items()]
        elif isinstance(node, list):
            stack += [(f"{where}[{i}]", value) for i, value in enumerate(node)]
        elif isinstance(node, str) and ("${" in node or node == "???"):
            raise ValueError(f"{where} is not resolved: {node}")
    return config


def verify(config: dict[str, Any], gym: bool) -> None:
    """Fail where the real script fails before it trains."""
    required = yaml.safe_load(Path(__file__).with_name("required.yaml").read_text())
    for path in required["always"]:
        read(config, path)
    megatron = read(config, "policy.megatron_cfg.enabled")
    assert megatron != read(config, "policy.dtensor_cfg.enabled"), "exactly one training backend must be enabled"
    for path in required["megatron" if megatron else "dtensor"] + required["gym_script" if gym else "grpo_script"]:
        read(config, path)
    if megatron and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        raise RuntimeError("TORCH_CUDA_ARCH_LIST is not set")
    if not gym:
        return
    assert read(config, "env").get("should_use_nemo_gym"), "env.should_use_nemo_gym is not set"
    if read(config, "grpo.max_val_samples") is not None:
        raise ValueError("grpo.max_val_samples must be null with NeMo Gym")
    vllm = read(config, "policy.generation.vllm_cfg")
    plugin = vllm.get("tool_parser_plugin")
    if plugin and not Path(plugin).is_file():
        raise FileNotFoundError(plugin)
    if (vllm.get("http_server_serving_chat_kwargs") or {}).get("tool_parser") == "nemotron_json" and not plugin:
        raise KeyError("invalid tool call parser: nemotron_json")


def join_ray(config: dict[str, Any]) -> None:
    """Attach to the Ray that was brought up, as init_ray and RayVirtualCluster do; then ask it for its memory, as
    utils/memory_tracker.py does, which stops where several Rays are seen and none is named."""
    if os.environ.get("STANDIN_RAY") != "1":
        return
    import ray
    from ray.scripts.scripts import memory_summary

    # RAY_ADDRESS stands in the environment
    ray.init(address="auto", log_to_driver=False, runtime_env={"env_vars": dict(os.environ)})
    memory_summary(stats_only=True, num_entries=5)
    have, nodes = ray.cluster_resources(), read(config, "cluster.num_nodes")
    want = nodes * read(config, "cluster.gpus_per_node")
    say(f"Connected to existing Ray cluster: {have.get('GPU', 0):.0f} GPUs, {len(ray.nodes())} nodes")
    assert not any(name.startswith("nrl_tag_") for name in have), "a cluster with this mark is not attached to"
    assert have.get("GPU", 0) == want and len(ray.nodes()) == nodes, f"{want} GPUs on {nodes} nodes are wanted"
    gpu, port = ray.get(ray.remote(num_gpus=1)(look).remote(str(Path(__file__).parent)))
    say(f"A worker on GPU {gpu}: vLLM's ports from {port} on")


def look(checkout: str) -> tuple[str, int]:
    """What a worker of Ray sees: its GPU, and the port that NeMo RL would give vLLM."""
    sys.path.insert(0, checkout)
    from nemo_rl.distributed import virtual_cluster

    return os.environ["CUDA_VISIBLE_DEVICES"], virtual_cluster.DEFAULT_VLLM_PORT_RANGE_LOW


def make_shared(config: dict[str, Any]) -> None:
    """The workers' environments and the conversion, made and taken for ready as NeMo RL does (utils/venvs.py
    _env_builder, models/megatron/setup.py); then each is used, which fails where it is not whole."""
    policy, generation = config["policy"], config["policy"]["generation"]
    megatron = read(config, "policy.megatron_cfg.enabled")
    is_async = (generation.get("vllm_cfg") or {}).get("async_engine")
    worker = "MegatronPolicyWorker" if megatron else "DTensorPolicyWorker"
    if not megatron and (policy.get("dtensor_cfg") or {}).get("_v2"):
        worker = "DTensorPolicyWorkerV2"
    workers = [worker, "VllmAsyncGenerationWorker" if is_async else "VllmGenerationWorker"]
    if config["env"].get("should_use_nemo_gym"):
        workers += ["NemoGym"]
    folder = Path(os.environ.get("NEMO_RL_VENV_DIR") or Path(__file__).with_name("venvs"))
    for worker in workers:
        python = environment_builder()(f"nemo_rl.{MODULES[worker]}.{worker}", folder)
        if not (python.parents[1] / "package").exists():
            raise ModuleNotFoundError(f"No module named 'vllm' ({python})")
    if megatron:
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        convert(Path(os.environ.get("NRL_MEGATRON_CHECKPOINT_DIR") or Path(home, "nemo_rl")) / policy["model_name"])


def environment_builder() -> Callable[[str, Path], Path]:
    """NeMo RL's own _env_builder, where STANDIN_VENVS names its utils/venvs.py, else one like it."""
    theirs = os.environ.get("STANDIN_VENVS")
    if not theirs:
        return build_environment
    ray, util = types.ModuleType("ray"), types.ModuleType("ray.util")
    ray.remote = lambda **_: lambda function: function  # type: ignore[attr-defined]
    util.placement_group = None  # type: ignore[attr-defined]
    sys.modules.update({"ray": ray, "ray.util": util})
    source = runpy.run_path(theirs)
    os.environ["NEMO_RL_VENV_DIR"] = os.environ.get("NEMO_RL_VENV_DIR") or str(Path(__file__).with_name("venvs"))
    return lambda worker, folder: Path(source["_env_builder"]("uv run --locked", worker, 0))


def build_environment(worker: str, folder: Path) -> Path:
    path = folder / worker
    python, started = path / "bin" / "python", path / "STARTED_ENV_BUILDER"
    if python.exists():
        return python
    if started.exists():
        while not python.exists():
            time.sleep(0.1)
        return python
    path.mkdir(parents=True, exist_ok=True)
    started.touch()
    try:
        python.parent.mkdir(exist_ok=True)
        python.touch()  # uv venv
        time.sleep(setting("MAKE_SECONDS", 0))
        (path / "package").touch()  # uv sync
    finally:
        started.unlink(missing_ok=True)
    return python


def convert(path: Path) -> None:
    last = path / "iter_0000000" / "run_config.yaml"
    if not last.parent.exists():
        last.parent.mkdir(parents=True)
        time.sleep(setting("MAKE_SECONDS", 0))
        last.touch()
    if not last.exists():
        raise FileNotFoundError(f"Pretrained run config not found at {last} on rank=0. This usually means that ...")


def next_log_dir(base: str) -> Path:
    """log_dir/exp_NNN, one above the highest there is."""
    taken = [int(m[1]) for p in Path(base).glob("exp_*") if (m := re.fullmatch(r"exp_(\d+)", p.name))]
    path = Path(base) / f"exp_{max(taken, default=0) + 1:03d}"
    path.mkdir(parents=True)
    return path


def uniform(*key: object) -> float:
    """A number in [-1, 1) that depends on `key` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**63 - 1


class Deadline:
    """checkpoint_must_save_by: counts from here, and is due one average step early."""

    def __init__(self, text: str | None) -> None:
        self.limit = math.inf
        if text is not None:
            days, hours, minutes, seconds = map(int, text.split(":"))
            self.limit = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        self.start = self.last = time.time()
        self.steps: list[float] = []

    def due(self) -> bool:
        now = time.time()
        self.steps.append(now - self.last)
        self.last = now
        return now - self.start + sum(self.steps) / len(self.steps) >= self.limit


class Trainer:
    """The loop of grpo_train, with a number for a model."""

    def __init__(self, config: dict[str, Any], log_dir: Path) -> None:
        self.config, self.log_dir = config, log_dir
        self.grpo, self.checkpointing = config["grpo"], config["checkpointing"]
        on = config["logger"]["tensorboard_enabled"]
        self.events = EventFile(log_dir / "tensorboard") if on else None
        backend = "policy.megatron_cfg.optimizer" if read(config, "policy.megatron_cfg.enabled") else ""
        self.lr = float(read(config, f"{backend or 'policy.optimizer.kwargs'}.lr"))
        self.folder = Path(self.checkpointing["checkpoint_dir"])
        self.info = {"consumed_samples": 0, "current_step": 0, "current_epoch": 0, "total_steps": 0}
        self.skill = 0.0
        newest = max(self.checkpoints(), default=0)
        if newest:
            at = self.folder / f"step_{newest}"
            self.info = json.loads((at / "training_info.json").read_text())
            self.skill = json.loads((at / "policy" / "weights" / "skill.json").read_text())["skill"]
        self.resumed = newest > 0

    def checkpoints(self) -> list[int]:
        found = self.folder.glob("step_*")
        return [int(m[1]) for p in found if (m := re.fullmatch(r"step_(\d+)", p.name))]

    def fault(self, step: int) -> str | None:
        """The fault that this step has, if any."""
        at, kind = os.environ.get("STANDIN_FAIL_AT_STEP"), os.environ.get("STANDIN_FAULT") or "error"
        if not at or (self.resumed and os.environ.get("STANDIN_FAIL_ONCE") == "1"):
            return None
        if step < int(at) or (step > int(at) and kind != "nan"):  # a NaN stays
            return None
        if kind in ("hang", "deaf"):
            if kind == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                say("this process heeds no SIGTERM")
            while True:
                time.sleep(3600)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "oom":
            raise OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
                "1.02 GiB is free."
            )
        if kind == "error":
            raise RuntimeError(f"stand-in fault at step {step}")
        return kind

    def log(self, metrics: dict[str, float], step: int, prefix: str) -> None:
        """Logger.log_metrics: to TensorBoard's events, and unrounded to a file of the stand-in's own."""
        named = {f"{prefix}/{name}": value for name, value in metrics.items()}
        if self.events is not None:
            for name, value in named.items():
                self.events.add(name, value, step)
        if prefix in ("train", "validation"):
            with (self.log_dir / "standin_metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **named}) + "\n")

    def train(self) -> None:
        grpo, info = self.grpo, self.info
        per_epoch = int(setting("STEPS_PER_EPOCH", 20))
        deadline = Deadline(self.checkpointing["checkpoint_must_save_by"])
        self.log({"total_setup_time_s": 0.01}, 0, "timing/setup")  # at every start, as step 0
        if grpo["val_at_start"] and info["current_step"] == 0:
            say("\n🔍 Running initial validation...")
            self.validate(0)
        step, epoch, total = info["current_step"], info["current_epoch"], info["total_steps"]
        while epoch < grpo["max_num_epochs"] and total < grpo["max_num_steps"]:
            say(f"\n{'=' * 25} Epoch {epoch + 1}/{grpo['max_num_epochs']} {'=' * 25}")
            while step < per_epoch:
                say(f"\n{'=' * 25} Step {step + 1}/{min(per_epoch, grpo['max_num_steps'])} {'=' * 25}")
                begun = time.time()
                row = self.step(total + 1)
                step, total = step + 1, total + 1
                last = total >= grpo["max_num_steps"] or (epoch + 1 == grpo["max_num_epochs"] and step == per_epoch)
                validation = None
                if (grpo["val_period"] > 0 and total % grpo["val_period"] == 0) or (grpo["val_at_end"] and last):
                    validation = self.validate(total)
                info["consumed_samples"] += grpo["num_prompts_per_step"]
                timed_out = deadline.due()
                if self.checkpointing["enabled"] and (
                    last or total % self.checkpointing["save_period"] == 0 or timed_out
                ):
                    info |= {"current_step": step, "total_steps": total, "current_epoch": epoch}
                    self.save(total, row, validation)
                self.report(total, row, time.time() - begun)
                if timed_out:
                    say("Timeout has been reached, stopping training early")
                    return
                if total >= grpo["max_num_steps"]:
                    say("Max number of steps has been reached, stopping training early")
                    return
            epoch, step = epoch + 1, 0

    def step(self, total: int) -> dict[str, float]:
        """One update of the number that stands for the model; its metrics under NeMo RL's names."""
        group = self.grpo["num_generations_per_prompt"]
        say("▶ Preparing batch...")
        say(f"▶ Generating responses for batch of size {self.grpo['num_prompts_per_step'] * group}...")
        time.sleep(setting("STEP_SECONDS", 0.05))
        kind = self.fault(total)
        if kind == "async":
            raise ConnectionAbortedError("stand-in fault of an async run")
        noise = uniform(self.grpo["seed"], "train", total)
        self.skill += (1 - self.skill) * min(0.5, 2e4 * self.lr * (1 + noise / 2)) * (1 - 1 / group)
        say("▶ Processing rewards...,")
        say("▶ Training policy...")
        return {
            "loss": math.nan if kind == "nan" else 0.05 * (1 - self.skill) + 0.01 * noise,
            "gen_kl_error": 0.0005 + 0.0001 * noise,
            "reward": min(1.0, max(0.0, 0.05 + 0.9 * self.skill + 0.04 * noise)),
            "mean_gen_tokens_per_sample": 220.0 - 60 * self.skill + 5 * noise,
        }

    def validate(self, total: int) -> dict[str, float]:
        say(f"▶ Starting validation at step {total}...")
        noise = uniform(self.grpo["seed"], "validation", total)
        result = {
            "accuracy": min(1.0, max(0.0, 0.04 + 0.88 * self.skill + 0.02 * noise)),
            "avg_length": 215.0 - 60 * self.skill + 3 * noise,
        }
        say("\n📊 Validation Results:")
        say(f"    • Accuracy: {result['accuracy']:.4f}")
        say(f"    • Average response length: {result['avg_length']:.1f} tokens")
        say("    • Samples processed: 64")
        say("\n  ⏱️  Validation Timing:")
        say("    • Total validation time: 0.01s")
        self.log({"total_validation_time": 0.01}, total, "timing/validation")
        self.log(result, total, "validation")
        return result

    def save(self, total: int, row: dict[str, float], validation: dict[str, float] | None) -> None:
        """tmp_step_N, renamed; then what keep_top_k does not keep is removed, but never the newest."""
        name, info = self.checkpointing["metric_name"], dict(self.info)
        if name is not None:
            kind, _, metric = name.partition(":")
            source = row if kind == "train" else validation
            info.pop(name, None)
            if source:
                info[name] = source[metric]
        say(f"Saving checkpoint for step {total}...")
        tmp = self.folder / f"tmp_step_{total}"
        (tmp / "policy" / "weights").mkdir(parents=True, exist_ok=True)
        (tmp / "training_info.json").write_text(json.dumps(info))
        (tmp / "config.yaml").write_text(json.dumps(self.config))
        (tmp / "policy" / "weights" / "skill.json").write_text(json.dumps({"skill": self.skill}))
        if self.checkpointing["save_optimizer"]:
            (tmp / "policy" / "optimizer").mkdir(exist_ok=True)
        final = self.folder / f"step_{total}"
        shutil.rmtree(final, ignore_errors=True)
        tmp.rename(final)
        keep = self.checkpointing["keep_top_k"]
        if keep is None:
            return
        worst = -math.inf if self.checkpointing["higher_is_better"] else math.inf
        sign = 1 if self.checkpointing["higher_is_better"] else -1
        ranked = []
        for step in self.checkpoints():
            saved = json.loads((self.folder / f"step_{step}" / "training_info.json").read_text())
            ranked.append((sign * saved.get(name, worst) if name else 0.0, step))
        for _, step in sorted(ranked, reverse=True)[keep:]:
            if step != total:
                say(f"Removing checkpoint {self.folder / f'step_{step}'} due to being outside top-{keep}")
                shutil.rmtree(self.folder / f"step_{step}")

    def report(self, total: int, row: dict[str, float], seconds: float) -> None:
        if not self.config["env"].get("should_log_nemo_gym_responses"):
            say(f"Logged data to {self.log_dir / f'train_data_step{total}.jsonl'}")
        say("\n📊 Training Results:")
        say(f"  • Loss: {row['loss']:.4f}")
        say(f"  • Generation KL Error: {row['gen_kl_error']:.4f}")
        say(f"  • Avg Reward: {row['reward']:.4f}")
        say(f"  • Mean Generation Length: {row['mean_gen_tokens_per_sample']:.4f}")
        say("\n⏱️  Timing:")
        say(f"  • Total step time: {seconds:.2f}s")
        for name, part in (("generation", 0.6), ("policy_training", 0.3), ("prepare_for_generation/total", 0.1)):
            say(f"  • {name}: {seconds * part:.2f}s ({100 * part:.1f}%)")
        say("\n🔍 Performance Metrics:")
        say("  • Throughputs (per GPU):")
        say(f"    - E2E (Samples/sec/gpu): {1 / max(seconds, 1e-9):.2f}")
        self.log(row, total, "train")
        self.log({"samples_per_sec_per_gpu": 1 / max(seconds, 1e-9)}, total, "performance")
        parts = {"generation": 0.6 * seconds, "policy_training": 0.3 * seconds}
        self.log({"total_step_time": seconds, **parts, "valid_tokens_per_sec_per_gpu": 1e3}, total, "timing/train")


def begin(phase: str, log_dir: Path, line: str = "") -> None:
    """A part of the set-up, which may hang: at the run's first start alone (STANDIN_HANG_ONCE) or always."""
    if line:
        say(f"\n{line}")
    first = log_dir.name == "exp_001"
    if os.environ.get("STANDIN_HANG") == phase or (os.environ.get("STANDIN_HANG_ONCE") == phase and first):
        time.sleep(3600)


def main(gym: bool) -> None:
    """What both scripts do; `gym` tells which one was started."""
    say(BANNER)
    parser = argparse.ArgumentParser(description=BANNER)
    parser.add_argument("--config", type=Path, required=True, help="one flat, resolved YAML")
    config = load(path := parser.parse_args().config)
    say(f"Loaded configuration from: {path}")
    verify(config, gym)
    log_dir = next_log_dir(config["logger"]["log_dir"])
    say(f"📊 Using log directory: {log_dir}")
    if config["checkpointing"]["enabled"]:
        say(f"📊 Using checkpoint directory: {config['checkpointing']['checkpoint_dir']}")
    for name in os.environ.get("STANDIN_HASH", "").split():  # proves that a secret arrived, without showing it
        say(f"sha256 of {name}: {hashlib.sha256(os.environ.get(name, '').encode()).hexdigest()}")
    say("Final config:")
    pprint.pprint(config)
    begin("ray", log_dir)
    join_ray(config)
    begin("data", log_dir, "▶ Setting up data...")
    begin("cluster", log_dir, "▶ Setting up compute cluster...")
    begin("vllm", log_dir, "▶ Setting up model and training...")
    make_shared(config)
    trainer = Trainer(config, log_dir)
    time.sleep(setting("SETUP_SECONDS", 0))
    trainer.fault(0)
    say("\n" + "=" * 60)
    say(" " * 18 + "SETUP COMPLETE")
    say("=" * 60 + "\n")
    begin("rollout", log_dir)
    try:
        trainer.train()
    except ConnectionAbortedError as error:  # the async trainer's way to end: it prints, and returns
        say(f"❌ Error in async loop: {error}")
