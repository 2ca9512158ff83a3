"""vLLM's memory on one GPU: weights, Mamba state, KV cache, and what must fit into its share.

Sources: vLLM's mamba_utils.py (state shapes) and kv_cache_utils.py (groups of layers share one pool of pages), at the
versions of NeMo RL v0.5.0-v0.7.0; the largest number of sequences: its own refusal at start, "max_num_seqs exceeds
available Mamba cache blocks".
"""

from __future__ import annotations

import math
from typing import NamedTuple

from nano_exp.layout import parameters
from nano_exp.layout.architecture import ATTENTION, MAMBA, Architecture
from nano_exp.layout.workload import Generation, Job
from nano_exp.planner.gpus import Constants, Gpu
from nano_exp.planner.ranges import GIB, Range, exactly

#: vLLM's unit of attention blocks, tokens.
BLOCK_STEP = 16


def weights(a: Architecture, g: Generation) -> float:
    """Weights over tensor and pipeline parallel; norms and routers are whole on each rank."""
    whole = parameters.total(a)
    return ((whole.sharded + whole.experts) / g.tensor + whole.replicated) / g.pipeline * g.weight_bytes


def kv_per_token_and_layer(a: Architecture, g: Generation) -> int:
    """K and V of one attention layer; fewer key-value heads than ranks are replicated."""
    return 2 * a.head_dim * max(1, a.kv_heads // g.tensor) * g.cache_bytes


def kv_per_token(a: Architecture, g: Generation) -> int:
    """K and V of all attention layers."""
    return a.count(ATTENTION) * kv_per_token_and_layer(a, g)


def state_per_layer(a: Architecture, g: Generation) -> float:
    """SSM state, d x state size, and the convolution's last K - 1 inputs in bf16, of one Mamba layer and sequence."""
    convolution = (a.conv_kernel - 1) * (a.d_inner + 2 * a.group_width) * 2
    return (a.d_inner * a.state * g.state_bytes + convolution) / g.tensor


class Pages(NamedTuple):
    """The pool of a hybrid model. One page size serves all layers: attention's page is enlarged to Mamba's.

    Parameters
    ----------
    bytes: of one block, a page in each layer of a group
    tokens: tokens of an attention page
    groups: groups of layers; a running sequence holds at least one block of each
    """

    bytes: float
    tokens: int
    groups: int


def pages(a: Architecture, g: Generation) -> Pages:
    """Layers are put in groups as large as the rarer kind, and every group draws on the same pool of blocks."""
    attention, mamba = a.count(ATTENTION), a.count(MAMBA)
    per_layer = kv_per_token_and_layer(a, g)
    if not mamba:
        return Pages(attention * per_layer * BLOCK_STEP, BLOCK_STEP, 1)
    state = state_per_layer(a, g)
    if not attention:
        return Pages(mamba * state, BLOCK_STEP, 1)
    tokens = math.ceil(state / per_layer / BLOCK_STEP) * BLOCK_STEP
    size = min(attention, mamba)
    groups = math.ceil(attention / size) + math.ceil(mamba / size)
    return Pages(size * max(state, tokens * per_layer), tokens, groups)


def default_sequences(gpu: Gpu) -> int:
    """vLLM's max_num_seqs by default: 1024 on GPUs of 70 GiB that are no A100, else 256 [engine/arg_utils.py]."""
    return 1024 if gpu.gib >= 70 and "a100" not in gpu.name else 256


def share(g: Generation, gpu: Gpu) -> float:
    """gpu_memory_utilization x the GPU's memory: weights, profiled activations and caches together."""
    return g.utilization * gpu.bytes


def needed_cache(job: Job, gpu: Gpu) -> Range:
    """The smallest cache that vLLM starts with: one sequence of max_model_len; and where it captures CUDA graphs of a
    Mamba model (vLLM 0.20, NeMo RL v0.7.0), a block for each of max_num_seqs."""
    a, g = job.architecture, job.generation
    pool = pages(a, g)
    attention_groups = pool.groups - 1 if a.hybrid else 1
    one = math.ceil(g.max_length / pool.tokens) + (attention_groups if a.hybrid else 0)
    blocks = exactly(one)
    if a.hybrid and g.graphs and job.version >= (0, 7):
        default = default_sequences(gpu)
        low, high = (g.max_sequences, g.max_sequences) if g.max_sequences else (min(256, default), default)
        blocks = Range(max(one, low), max(one, high), max(one, high))
    return blocks.times(pool.bytes)


def room(job: Job, gpu: Gpu, constants: Constants) -> float:
    """Expected bytes of vLLM's cache."""
    g = job.generation
    return max(share(g, gpu) - weights(job.architecture, g) - constants.vllm_overhead_gib.expected * GIB, 0.0)


def concurrent(job: Job, gpu: Gpu, constants: Constants) -> int:
    """Sequences of the mean length that one engine runs at once."""
    a, g = job.architecture, job.generation
    pool = pages(a, g)
    each = math.ceil(job.mean_length / pool.tokens) + (pool.groups - 1)
    most = g.max_sequences or default_sequences(gpu)
    return max(min(int(room(job, gpu, constants) // (each * pool.bytes)), most), 1)
