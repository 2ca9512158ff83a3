"""What memory and time of a run depend on, read from its resolved config: one hashable value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.layout import architecture, case, layouts, models
from nano_exp.layout.architecture import Architecture
from nano_exp.layout.case import Shape
from nano_exp.layout.layouts import Layout


@dataclass(frozen=True)
class Generation:
    """The inference engine.

    Parameters
    ----------
    backend: vllm or megatron
    world: GPUs that generate; all of them when colocated
    utilization: vLLM's share of each GPU
    max_sequences: vLLM's max_num_seqs; None: its default
    state_bytes: bytes of an element of the Mamba SSM state
    graphs: CUDA graphs are captured (not enforce_eager)
    buffer_gb: Megatron inference's cache, GB
    """

    backend: str
    colocated: bool
    world: int
    tensor: int = 1
    pipeline: int = 1
    utilization: float = 0.6
    max_length: int = 0
    max_sequences: int | None = None
    weight_bytes: int = 2
    cache_bytes: int = 2
    state_bytes: int = 2
    graphs: bool = True
    buffer_gb: float = 0.0


@dataclass(frozen=True)
class Job:
    """A run as the planner sees it.

    Parameters
    ----------
    max_length, mean_length: of whole sequences, prompt and answer, tokens; mean_length is an assumption
    reference: a reference policy's log probabilities are computed
    chunk: logprob_chunk_size, tokens; 0: whole logits
    moment_bytes: both Adam moments of a parameter
    lora: rank of the adapters; 0: all parameters are trained
    element: bytes of a weight in Megatron (policy.precision)
    """

    architecture: Architecture
    layout: Layout
    generation: Generation
    shape: Shape
    nodes: int
    max_length: int
    mean_length: int
    reference: bool = True
    chunk: int = 0
    defer_fp32: bool = False
    gradients_fp32: bool = False
    precision_aware: bool = True
    distributed: bool = True
    moment_bytes: int = 8
    offload_for_logprob: bool = False
    lora: int = 0
    element: int = 2
    router_bytes: int = 8
    fused_experts: bool = False

    @property
    def version(self) -> tuple[int, ...]:
        """NeMo RL's (major, minor, patch)."""
        return self.shape.version

    @property
    def gpus_per_node(self) -> int:
        return self.shape.gpus_per_node

    @property
    def world(self) -> int:
        """GPUs that train."""
        return self.shape.world or 1

    @property
    def rollout(self) -> int:
        """Sequences of one step."""
        return self.shape.rollout or 1

    @property
    def global_batch(self) -> int:
        return self.shape.global_batch or self.rollout

    @property
    def micro_batches(self) -> int:
        """Micro batches of one rank and one optimizer step; packing is taken to fill its tokens with mean sequences."""
        mine = max(self.global_batch // layouts.data_parallel(self.layout, self.world), 1)
        if self.layout.batching == layouts.FIXED:
            return max(mine // self.layout.micro_batch, 1)
        return max(round(mine * self.mean_length / max(self.layout.train_tokens, 1)), 1)


_PRECISIONS = {"float32": 4, "fp32": 4}


def of_config(config: Mapping[str, Any], *, mean_length: int | None = None, model: Architecture | None = None) -> Job:
    """Read a resolved config.

    Parameters
    ----------
    mean_length: planned mean length, tokens; default: half of the longest
    model: its architecture, where the config's own facts are not to be used

    Raises
    ------
    UserError: another engine than NeMo RL's, no architecture, a cluster that cannot be, lengths at odds
    """
    settings = Config(config)
    if settings.text("engine.name", "nemo_rl") != "nemo_rl":
        raise UserError(
            f"engine.name={settings.text('engine.name')}",
            "it trains in one process, on one GPU at most: there are no layouts to plan",
            "a model that NeMo RL trains: nano-exp plan model=nano_12b cluster=2n8g",
        )
    nodes, per_node = _count(settings, "cluster.num_nodes"), _count(settings, "cluster.gpus_per_node")
    policy = settings.section("policy")
    longest = policy.count("max_total_sequence_length", 1)
    if mean_length is not None and not 1 <= mean_length <= longest:
        raise UserError(
            f"a mean length of {mean_length} tokens",
            f"sequences have 1 to {longest} tokens (policy.max_total_sequence_length)",
            f"--mean-length {max(longest // 2, 1)}, or a larger --max-length",
        )
    if model is None:
        model = architecture.from_facts(models.named(config))
    generation = _generation(settings, nodes, per_node)
    m = policy.section("megatron_cfg")
    optimizer = m.section("optimizer")
    peft = m.section("peft") if m.on("enabled") else policy.section("dtensor_cfg.lora_cfg")
    shape = case.shape_of(config, os.environ)
    if shape.world is None:
        raise UserError(
            "the config does not say which GPUs train",
            "generation, a reward model or teachers take GPUs of their own, so it is not known how many are left",
            "policy.generation.colocated.enabled=true; nano-exp check with the same words says which keys are at odds",
        )
    return Job(
        architecture=model,
        layout=layouts.of_config(config),
        generation=generation,
        shape=shape,
        nodes=nodes,
        max_length=longest,
        mean_length=mean_length or max(longest // 2, 1),
        # NeMo RL computes them unless told not to, whatever the penalty.
        reference=not settings.on("grpo.skip_reference_policy_logprobs_calculation"),
        chunk=policy.count("logprob_chunk_size", 0),
        defer_fp32=m.on("defer_fp32_logits"),
        gradients_fp32=m.on("distributed_data_parallel_config.grad_reduce_in_fp32"),
        precision_aware=optimizer.on("use_precision_aware_optimizer"),
        distributed=optimizer.on("use_distributed_optimizer", True),
        moment_bytes=sum(_moment(optimizer, key) for key in ("exp_avg_dtype", "exp_avg_sq_dtype")),
        offload_for_logprob=policy.on("offload_optimizer_for_logprob"),
        lora=peft.count("dim", 8) if peft.on("enabled") else 0,
        element=_PRECISIONS.get(policy.text("precision"), 2),
        router_bytes=4 if m.text("moe_router_dtype", "fp64") == "fp32" else 8,
        fused_experts=m.on("use_fused_weighted_squared_relu"),
    )


def _moment(optimizer: Config, key: str) -> int:
    name = str(optimizer.get(key) or "float32")
    return 1 if "8" in name else 2 if "16" in name else 4


def _count(config: Config, key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"{key}={value!r}", "a cluster has at least one node with at least one GPU", f"{key}=1, or cluster=1n8g"
        )
    return value


def _generation(config: Config, nodes: int, per_node: int) -> Generation:
    g, total = config.section("policy.generation"), nodes * per_node
    v, kwargs = g.section("vllm_cfg"), g.section("vllm_kwargs")
    colocated = g.on("colocated.enabled", True)
    world = total
    if not colocated:
        resources = g.section("colocated.resources")
        its_nodes, its_gpus = resources.count("num_nodes", 0), resources.count("gpus_per_node", 0)
        world = (its_nodes or 1) * (its_gpus or per_node)
        if world >= total:
            raise UserError(
                f"generation takes {world} GPUs of {total}",
                "with colocated.enabled=false training needs GPUs of its own",
                "more nodes, or fewer in policy.generation.colocated.resources",
            )
    sequences = kwargs.count("max_num_seqs", 0) or v.count("max_num_seqs", 0)
    return Generation(
        backend=g.text("backend", "vllm"),
        colocated=colocated,
        world=world,
        tensor=v.count("tensor_parallel_size", 1),
        pipeline=v.count("pipeline_parallel_size", 1),
        utilization=max(v.real("gpu_memory_utilization", 0.6), 0.01),
        max_length=v.count("max_model_len", config.count("policy.max_total_sequence_length", 1)),
        max_sequences=sequences or None,
        weight_bytes=1 if "fp8" in v.text("precision") else 2,
        cache_bytes=1 if "fp8" in v.text("kv_cache_dtype") else 2,
        state_bytes=4 if kwargs.text("mamba_ssm_cache_dtype") == "float32" else 2,
        graphs=not v.on("enforce_eager"),
        buffer_gb=g.real("mcore_generation_config.buffer_size_gb", 10.0),
    )
