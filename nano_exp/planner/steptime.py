"""A relative step time: for ranking layouts on the same GPUs, not for predicting seconds.

Nothing here was measured. Kernels, dispatchers and padding change a step by a factor of two on the same GPUs, so only
the order of clearly different layouts means something. Formulas: docs/planner.md.
"""

from __future__ import annotations

from typing import NamedTuple

from nano_exp.layout import layouts, parameters
from nano_exp.layout.architecture import ATTENTION, MAMBA, Architecture
from nano_exp.layout.layouts import FSDP2, FULL, MEGATRON
from nano_exp.layout.workload import Job
from nano_exp.planner import inference, training
from nano_exp.planner.gpus import Constants, Gpu

#: Assumptions. Share of the peak that a large dense matrix product reaches in training; the factor of each doubling
#: of tensor parallel on it; GB/s of a GPU's part of the network between nodes; GB/s of Adam's state through the CPUs.
EFFICIENCY = 0.40
TENSOR_PENALTY = 0.90
NETWORK = 50.0
HOST_ADAM = 10.0
#: Tokens of a micro batch at which half of the efficiency is reached.
HALF_TOKENS = 1024.0


class StepTime(NamedTuple):
    """Seconds in form only; compare sums of different layouts."""

    generation: float
    logprob: float
    training: float
    transfers: float

    @property
    def total(self) -> float:
        return self.generation + self.logprob + self.training + self.transfers


def flops_per_token(a: Architecture, length: float) -> float:
    """Of a forward pass: 2 a parameter that takes part (the embedding is a look-up), attention's 4 x width x length / 2
    for causal scores and values, the Mamba scan's 6 x d x state [RL utils/flops_formulas.py has the exact ones]."""
    used = parameters.active(a) - (0 if a.tied else a.vocab * a.hidden)
    return 2 * used + a.count(ATTENTION) * 2 * a.q_width * length + a.count(MAMBA) * 6 * a.d_inner * a.state


def estimate(job: Job, gpu: Gpu, constants: Constants) -> StepTime:
    """The four parts of a step."""
    n = job.layout
    tokens = job.rollout * job.mean_length
    forward = flops_per_token(job.architecture, job.mean_length) * tokens
    rate = job.world * gpu.tflops * 1e12 * _efficiency(job)
    passes = 1 + job.reference
    logprob = passes * forward / rate
    # Full recompute runs forward once more: 8 instead of 6 for each parameter and token.
    backward = forward * (4 if n.recompute == FULL else 3) / rate
    return StepTime(
        _generation(job, gpu, constants),
        logprob * _bubble(job),
        backward * _bubble(job) + _collectives(job, gpu),
        _transfers(job, gpu),
    )


def _efficiency(job: Job) -> float:
    """Falls with tensor parallel, with narrow slices and with small micro batches."""
    n = job.layout
    tokens = max(min(n.train_tokens, n.micro_batch * job.mean_length) / n.context, 1.0)
    value = EFFICIENCY * tokens / (tokens + HALF_TOKENS)
    size, factor = n.tensor, 1.0
    while size > 1:
        factor *= TENSOR_PENALTY
        size //= 2
    across = 0.5 if n.tensor > job.gpus_per_node or n.context > job.gpus_per_node else 1.0
    context = 0.95 ** (n.context.bit_length() - 1)
    slow_experts = 0.3 if job.architecture.experts and n.backend == FSDP2 and n.force_hf else 1.0  # a loop over experts
    return value * factor * across * context * slow_experts


def _bubble(job: Job) -> float:
    """Idle pipeline stages: (m + p - 1) / m."""
    return (job.micro_batches + job.layout.pipeline - 1) / job.micro_batches


def _between(job: Job, gpu: Gpu, ranks: int) -> float:
    """Bytes a second of a collective over so many ranks."""
    return (gpu.nvlink if ranks <= job.gpus_per_node else NETWORK) * 1e9


def _collectives(job: Job, gpu: Gpu) -> float:
    """Megatron reduces gradients and gathers weights once a step; FSDP2 gathers each block twice (three times with
    recompute) and reduces its gradient, for every micro batch."""
    n = job.layout
    if n.backend == FSDP2:
        whole = parameters.total(job.architecture)
        count = whole.total if n.expert == 1 else whole.dense
        moved = 2 * count * (3 if n.recompute == FULL else 2) + 4 * count
        return moved * job.micro_batches / _between(job, gpu, job.world)
    local = training.megatron_local(job, 0)
    seconds = 4 * local.dense / _between(job, gpu, local.dense_shards * n.tensor)
    if n.expert > 1:
        a = job.architecture
        routed = 2 * a.experts_per_token * a.hidden * a.count("E") / n.pipeline
        tokens = job.global_batch * job.mean_length / layouts.data_parallel(n, job.world) / n.context
        seconds += 4 * routed * tokens / max(n.tensor, 1) / _between(job, gpu, n.expert * n.tensor)
    return seconds


def _transfers(job: Job, gpu: Gpu) -> float:
    """What moves between host and GPU in a step: offloaded state through the CPU's Adam, or the optimizer state out for
    a colocated vLLM and in again; and the weights."""
    n, link = job.layout, gpu.link * 1e9
    local = training.megatron_local(job, 0) if n.backend == MEGATRON else training.fsdp2_local(job)
    if n.offload:
        state = 16 * local.all if n.backend == FSDP2 else 16 * local.sharded
        moving = 4 * job.micro_batches * local.all * 2 if n.backend == FSDP2 else 4 * local.all
        return state / (HOST_ADAM * 1e9) + moving / link
    state = 10 * local.sharded if n.backend == MEGATRON else 8 * local.all
    weights = (2 if n.backend == MEGATRON else 4) * local.all
    return (2 * state + 2 * weights) / link if job.generation.colocated else 0.0


def _generation(job: Job, gpu: Gpu, constants: Constants) -> float:
    """Bound by device memory: each token of a batch reads the active weights and the batch's caches. The longest
    sequences end late, so a step takes as long as (mean + longest) / 2."""
    g, a = job.generation, job.architecture
    if g.backend != "vllm":
        return 0.0
    engines = max(g.world // (g.tensor * g.pipeline), 1)
    mine = max(job.rollout / engines, 1.0)
    batch = min(inference.concurrent(job, gpu, constants), mine)
    used = inference.weights(a, g)
    if a.experts:
        touched = min(1.0, batch * a.experts_per_token / a.experts)
        whole = parameters.total(a)
        used *= (whole.dense + whole.experts * touched) / whole.total
    cache = batch * (
        inference.kv_per_token(a, g) * job.mean_length / 2 + a.count(MAMBA) * inference.state_per_layer(a, g) * 2
    )
    step = (used + cache) / (gpu.hbm * 1e9 * 0.6)
    length = (job.mean_length + job.max_length) / 2
    return step * length * max(mine / batch, 1.0)
