"""NeMo RL's own script, setup and training loop, on this CPU: with a tiny policy, data and environment (tiny.py).

What is replaced is set below, by name; all else is the checkout's. zygote.py calls it, for `python <script> --config
<flat YAML>`, as the attempt starts NeMo RL's script.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import stubs


def prepare(checkout: str) -> None:
    """Import what takes long."""
    stubs.find(checkout)
    import ray  # noqa: F401
    import torch
    from nemo_rl.algorithms import grpo  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    torch.set_num_threads(1)


def run(checkout: str, script: str) -> None:
    import ray
    import tiny
    from nemo_rl.algorithms import grpo

    spec = importlib.util.spec_from_file_location("nemo_rl_script", Path(checkout) / script)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if os.environ.get("TINY_ASYNC"):
        os.environ["TINY_CHECKOUT"] = checkout
        start_ray()
        env: Any = ray.remote(num_cpus=0)(tiny.Repeats).remote()
    else:
        env = tiny.Environment()
        tiny.without_ray()
        whole = ray.get
        ray.get = lambda given, **_: unwrapped(given, whole, tiny.Result)  # type: ignore[assignment]

    def data(*_: Any, **__: Any) -> Any:
        envs = defaultdict(lambda: env, math=env)
        return tiny.Prompts(int(os.environ.get("TINY_PROMPTS") or 8)), tiny.Prompts(3), envs, envs

    replaced = {
        "init_ray": tiny.quiet,
        "get_tokenizer": lambda *_, **__: tiny.tokenizer(),
        "setup_response_data": data,
        "setup_data": data,
    }
    for name, value in replaced.items():
        if hasattr(module, name):
            setattr(module, name, value)
    for name, made in (
        ("RayVirtualCluster", tiny.Cluster),
        ("Policy", tiny.Policy),
        ("VllmGeneration", tiny.Generation),
    ):
        setattr(grpo, name, made)
    module.main()


def unwrapped(given: Any, whole: Any, kind: type) -> Any:
    if isinstance(given, list):
        return [unwrapped(one, whole, kind) for one in given]
    return given.value if isinstance(given, kind) else given


def start_ray() -> None:
    """A Ray of this process's own; its actors find what is replaced by PYTHONPATH (sitecustomize.py)."""
    import ray
    from nemo_rl.distributed import ray_actor_environment_registry as registry

    os.environ.pop("RAY_ADDRESS", None)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])

    for name in registry.ACTOR_ENVIRONMENT_REGISTRY:
        registry.ACTOR_ENVIRONMENT_REGISTRY[name] = sys.executable
    ray.init(address="local", num_cpus=4, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20)
