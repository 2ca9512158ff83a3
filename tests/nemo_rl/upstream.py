"""Ask a real NeMo RL checkout, on this CPU, what it refuses: `python upstream.py CHECKOUT < configs > verdicts`.

Input, JSON: {name: [stages (all where empty), flat config]}. Output: {name: {stage: why refused, "" for accepted}}. The
stages call NeMo RL's own code:

    types     MasterConfig (from v0.7.0; before, nothing is checked)
    setup     algorithms/grpo.py setup(), up to the placement of clusters
    policy    Policy() on clusters of that size, its workers left out
    vllm      VllmGeneration(), up to its workers
    async     async_grpo_train(), its first assertions
    batches   shard_by_batch_size and make_microbatch_iterator on a batch of the rollout's size
    packing   the padding of packed sequences (Megatron)
    megatron  the Megatron worker's validations of its settings

Packages that NeMo RL imports and this Python lacks are replaced by empty ones: none of these stages needs them. Ray,
torch and transformers are real, and no Ray is started.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import os
import sys
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import MagicMock, patch

from stubs import Hollow, find


class Enough(Exception):
    """The stage came as far as it can on a CPU: accepted."""


class Cluster:
    """A RayVirtualCluster by its size. The last one that a config needs ends the set-up: what follows needs a Ray."""

    made: ClassVar[list[Cluster]] = []
    needed: ClassVar[int] = 1

    def __init__(self, bundle_ct_per_node_list: list[int], **_: Any) -> None:
        self.size, self.num_gpus_per_node = sum(bundle_ct_per_node_list), bundle_ct_per_node_list[0]
        self._sorted_bundle_indices = None
        Cluster.made.append(self)
        if len(Cluster.made) == Cluster.needed:
            raise Enough

    def world_size(self) -> int:
        return self.size


def prepare(checkout: str) -> Any:
    find(checkout)
    sys.modules["torch.utils.tensorboard"] = Hollow("torch.utils.tensorboard")
    import nemo_rl.algorithms.grpo as grpo

    return grpo


def master(grpo: Any, config: dict[str, Any]) -> Any:
    """The config as the driver has it: pydantic's from v0.7.0, a dict before."""
    made = copy.deepcopy(config)
    return grpo.MasterConfig(**made) if hasattr(grpo.MasterConfig, "model_validate") else made


def stage_types(grpo: Any, config: dict[str, Any]) -> None:
    if hasattr(grpo.MasterConfig, "model_validate"):
        grpo.MasterConfig(**copy.deepcopy(config))


def stage_setup(grpo: Any, config: dict[str, Any]) -> None:
    Cluster.made.clear()
    use_gym = getattr(grpo, "_should_use_nemo_gym", None) or grpo.should_use_nemo_gym
    use_gym(master(grpo, config))  # before v0.7.0 it is the script that asks
    Cluster.needed = 1 if config["policy"]["generation"]["colocated"]["enabled"] else 2
    data = config["data"]
    held_out = data.get("validation") or (data.get("train") or {}).get("split_validation_size")
    older = "validation" not in data  # one data set that brings its own
    names = ("Logger", "CheckpointManager", "StatefulDataLoader", "ray")
    with contextlib.ExitStack() as stack:
        fresh = MagicMock()  # nothing to resume from
        fresh.return_value.get_latest_checkpoint_path.return_value = None
        fresh.return_value.load_training_info.return_value = None
        for name in names:
            stack.enter_context(patch.object(grpo, name, fresh if name == "CheckpointManager" else MagicMock()))
        stack.enter_context(patch.object(grpo, "RayVirtualCluster", Cluster))
        datasets: Any = {"a": MagicMock()} if data.get("use_multiple_dataloader") else MagicMock()
        grpo.setup(master(grpo, config), MagicMock(), datasets, MagicMock() if held_out or older else None)


def stage_policy(grpo: Any, config: dict[str, Any]) -> None:
    from nemo_rl.models.policy import lm_policy

    with contextlib.suppress(Enough, AssertionError, ValueError):
        stage_setup(grpo, config)
    if not Cluster.made:
        return
    names = ("RayQueue", "RayWorkerBuilder", "RayWorkerGroup", "FLOPTracker", "get_default_hf_config")
    with contextlib.ExitStack() as stack:
        for name in names:
            if hasattr(lm_policy, name):
                stack.enter_context(patch.object(lm_policy, name, MagicMock()))
        lm_policy.Policy(Cluster.made[0], copy.deepcopy(config["policy"]), MagicMock())


def stage_vllm(grpo: Any, config: dict[str, Any]) -> None:
    from nemo_rl.models.generation.vllm import vllm_generation

    with contextlib.suppress(Enough, AssertionError, ValueError):
        stage_setup(grpo, config)
    generation = {**copy.deepcopy(config["policy"]["generation"]), "model_name": "m", "_pad_token_id": 0}
    if not Cluster.made or generation["backend"] != "vllm":
        return
    with patch.object(vllm_generation, "NamedSharding", MagicMock(side_effect=Enough)):
        vllm_generation.VllmGeneration(Cluster.made[-1], generation)


def stage_async(grpo: Any, config: dict[str, Any]) -> None:
    if not (config["grpo"].get("async_grpo") or {}).get("enabled"):
        return
    arguments = {name: MagicMock() for name in inspect.signature(grpo.async_grpo_train).parameters}
    arguments["master_config"] = master(grpo, config)
    if hasattr(grpo, "_initial_grpo_save_state"):
        arguments["grpo_save_state"] = grpo._initial_grpo_save_state()
    try:
        grpo.async_grpo_train(**arguments)
    except (AssertionError, NotImplementedError):
        raise
    except Exception as error:  # past its assertions, among mocks and without a Ray
        raise Enough from error


def stage_batches(grpo: Any, config: dict[str, Any]) -> None:
    import torch
    from nemo_rl.distributed.batched_data_dict import BatchedDataDict

    with contextlib.suppress(Enough, AssertionError, ValueError):
        stage_setup(grpo, config)
    policy = config["policy"]
    if not Cluster.made:
        return
    megatron, own = policy["megatron_cfg"], policy["dtensor_cfg"]
    if megatron["enabled"]:
        keys = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        size = megatron[keys[0]] * megatron[keys[1]] * megatron[keys[2]]
    else:
        size = own["tensor_parallel_size"] * own["context_parallel_size"]
    ranks = Cluster.made[0].size // size
    rollout = config["grpo"]["num_prompts_per_step"] * config["grpo"]["num_generations_per_prompt"]
    batch = BatchedDataDict({"x": torch.zeros(rollout)})
    batches = policy["train_global_batch_size"]
    shards = batch.shard_by_batch_size(ranks, batch_size=batches)
    whole = batch.shard_by_batch_size(ranks, batch_size=None)
    if policy["sequence_packing"]["enabled"] or policy["dynamic_batching"]["enabled"]:
        return
    share = shards[0].get_batch(batch_idx=0, batch_size=batches // ranks)
    list(share.make_microbatch_iterator(policy["train_micro_batch_size"]))
    list(whole[0].make_microbatch_iterator(policy["logprob_batch_size"]))


def stage_packing(grpo: Any, config: dict[str, Any]) -> None:
    policy = config["policy"]
    if not policy["megatron_cfg"]["enabled"] or not policy["sequence_packing"]["enabled"]:
        return
    from nemo_rl.models.megatron import data

    data._get_pack_sequence_parameters_for_megatron(
        policy["megatron_cfg"], policy["make_sequence_length_divisible_by"], policy["max_total_sequence_length"]
    )


def stage_megatron(grpo: Any, config: dict[str, Any]) -> None:
    policy = config["policy"]
    if not policy["megatron_cfg"]["enabled"]:
        return
    from nemo_rl.models.megatron import setup

    setup._validate_optimizer_config(policy)
    setup._validate_chunking_config(policy)
    setup._apply_parallelism_config(SimpleNamespace(), policy)


STAGES = {
    name.removeprefix("stage_"): stage
    for name, stage in list(globals().items())
    if name.startswith("stage_") and callable(stage)
}


def main() -> None:
    grpo = prepare(sys.argv[1])
    wanted = json.load(sys.stdin)
    verdicts: dict[str, dict[str, str]] = {}
    for name, (stages, config) in wanted.items():
        verdicts[name] = {}
        for stage in stages or STAGES:
            os.environ.pop("NRL_IGNORE_TP_ACCURACY_CHECK", None)  # setup sets it for force_on_policy_ratio
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    STAGES[stage](grpo, config)
                verdicts[name][stage] = ""
            except Enough:
                verdicts[name][stage] = ""
            except ImportError as error:
                verdicts[name][stage] = f"absent: {error}"
            except Exception as error:
                verdicts[name][stage] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    json.dump(verdicts, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
