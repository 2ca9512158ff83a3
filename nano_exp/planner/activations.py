"""Activations kept for backward, temporary tensors and logits, bytes on one GPU.

The table is derived from MC core/ssm/mamba_mixer.py, core/transformer and mamba_ssm's ssd_combined.py, for bf16, flash
attention and no dropout; its form is that of Korthikanti et al. 2022 (arXiv 2205.05198), whose own table is for a GELU
MLP of 4H and multi-head attention. Symbols: docs/planner.md.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from nano_exp.layout import parameters
from nano_exp.layout.architecture import ATTENTION, MAMBA, MLP, MOE, Architecture
from nano_exp.layout.layouts import FSDP2, FULL, MEGATRON, SELECTIVE, Layout
from nano_exp.layout.workload import Job
from nano_exp.planner.gpus import Constants
from nano_exp.planner.ranges import ZERO, Range, exactly, largest


class Kept(NamedTuple):
    """Bytes a token and block: what every rank keeps, what the router's balance scales, and what is kept only
    by an implementation that is not fused (it counts in the high estimate alone)."""

    even: float
    routed: float = 0.0
    unfused: float = 0.0


def mamba(a: Architecture, tp: int, ts: int) -> Kept:
    """Input and norm output; in_proj's output, scan output, gated and normed output (split conv-scan kernel)."""
    return Kept(4 * a.hidden / ts + (10 * a.d_inner + 4 * a.group_width + 2 * a.mamba_heads) / tp)


def attention(a: Architecture, tp: int, ts: int) -> Kept:
    """Input and norm output; q, k, v and the output of flash attention; rotated q and k in models with RoPE."""
    rotated = 0 if a.hybrid else 2 * (a.q_width + a.kv_width)
    return Kept(4 * a.hidden / ts + (4 * a.q_width + 4 * a.kv_width + rotated) / tp)


def mlp(a: Architecture, tp: int, ts: int) -> Kept:
    """Input and norm output; first matrix's output (two of them when gated) and the activation."""
    return Kept(4 * a.hidden / ts + (4 + 2 * a.gated) * a.intermediate / tp)


def moe(a: Architecture, tp: int, ts: int, router_bytes: int = 8, fused: bool = False) -> Kept:
    """Input and norm output, router; dispatched tokens, first matrix's output and activation of k experts, and the
    weighted activation where it is not fused; the shared expert."""
    k, width = a.experts_per_token, a.expert_width
    even = (4 * a.hidden + router_bytes * a.experts) / ts + 4 * a.shared_width / tp
    return Kept(even, (2 * k * a.hidden + 4 * k * width) / ts, 0.0 if fused else 2 * k * width / ts)


def block(a: Architecture, kind: str, layout: Layout, router_bytes: int = 8, fused: bool = False) -> Kept:
    """Bytes that a block keeps for each token of its rank, nothing recomputed.

    DTensor keeps a block's input in fp32, since module outputs are fp32 there, and divides only the MLP by TP.
    """
    tp, ts = layout.tensor, layout.tensor if layout.sequence_parallel else 1
    if layout.backend == FSDP2 and a.hybrid and kind != MLP:
        tp = 1
    if kind == MOE:
        saved = moe(a, tp, ts, router_bytes, fused)
    else:
        saved = {MAMBA: mamba, ATTENTION: attention, MLP: mlp}[kind](a, tp, ts)
    wide = 0.0
    if layout.backend == FSDP2:
        wide = eager(a, kind, tp, ts) if hugging_face(a, layout) else 2 * a.hidden / ts
    return saved._replace(even=saved.even + wide)


def hugging_face(a: Architecture, layout: Layout) -> bool:
    """Whether DTensor trains modules of transformers, and not Automodel's own."""
    return not a.hybrid or layout.force_hf or not layout.second_worker


def eager(a: Architecture, kind: str, tp: int, ts: int) -> float:
    """What transformers' modules keep beyond the fused ones: each operation its own inputs.

    A norm: its input in fp32 and the normed one before its weight, 8H in all; Nemotron-H's multiplies in fp32, 12H.
    Norms of q and k likewise. SiLU: gate, its activation, the other projection and their product. Measured:
    docs/planner.md.
    """
    norm = (8 if a.hybrid else 4) * a.hidden / ts
    if kind == ATTENTION and a.qk_norm:  # fp32, normed and rotated, instead of projected and rotated
        return norm + 4 * (a.q_width + a.kv_width) / tp
    return norm + (2 * a.intermediate / tp if kind == MLP and a.gated else 0.0)


def honours_full(a: Architecture, version: tuple[int, ...]) -> bool:
    """Whether Megatron recomputes whole blocks of this model. Its hybrid stack ignored recompute_granularity=full until
    NVIDIA/Megatron-LM#4496 (2026-05-14): NeMo RL up to v0.6.0 pins older ones."""
    return not a.hybrid or version >= (0, 7)


def recomputes(a: Architecture, kind: str, layout: Layout, version: tuple[int, ...]) -> bool:
    """Whether a block of this kind keeps its input alone and is run again in the backward pass.

    DTensor: Nemotron-H's MLP and Mamba blocks [RL models/dtensor/parallelize.py]; whole blocks of other models and of
    Automodel's own (apply_ac).
    """
    if layout.recompute != FULL:
        return False
    if layout.backend == MEGATRON:
        return honours_full(a, version)
    return not (a.hybrid and layout.force_hf and kind == ATTENTION)


def saved_by_selective(a: Architecture, kind: str, layout: Layout, version: tuple[int, ...]) -> Kept:
    """What recompute_modules saves of a block, bytes a token. core_attn saves nothing with flash attention; there is no
    module for Mamba; versions before v0.7.0 have no selective recompute for hybrid models."""
    if layout.recompute != SELECTIVE or (a.hybrid and version < (0, 7)):
        return Kept(0.0)
    tp, ts, modules = layout.tensor, layout.tensor if layout.sequence_parallel else 1, layout.modules
    even = routed = 0.0
    if kind == MLP and "mlp" in modules:
        even += (4 + 2 * a.gated) * a.intermediate / tp
    if kind == MOE:
        if "moe" in modules:
            whole = block(a, kind, layout, fused=True)
            return whole._replace(even=whole.even - 4 * a.hidden / ts)
        routed += 2 * a.experts_per_token * a.expert_width / ts if "moe_act" in modules else 0.0
        even += 4 * a.shared_width / tp if "shared_experts" in modules else 0.0
        even += 2 * a.hidden / ts if "layernorm" in modules else 0.0
    return Kept(even, routed)


@lru_cache(maxsize=4096)
def kept_per_token(
    a: Architecture, blocks: str, layout: Layout, version: tuple[int, ...], router_bytes: int, fused: bool
) -> Kept:
    """Bytes a token that these blocks keep for backward, under the layout's recompute."""
    ts = layout.tensor if layout.sequence_parallel else 1
    even = routed = unfused = 0.0
    for kind in set(blocks):
        number = blocks.count(kind)
        if recomputes(a, kind, layout, version):
            even += number * (4 if layout.backend == FSDP2 else 2) * a.hidden / ts
            continue
        whole = block(a, kind, layout, router_bytes, fused)
        saved = saved_by_selective(a, kind, layout, version)
        even += number * (whole.even - saved.even)
        routed += number * (whole.routed - saved.routed)
        unfused += number * max(whole.unfused - saved.unfused, 0.0)
    return Kept(even, routed, unfused)


def in_flight(stage: int, pipeline: int, micro_batches: int) -> int:
    """Micro batches whose activations a stage holds (1F1B schedule): the first stage has the most."""
    return max(min(pipeline - stage, micro_batches), 1)


def tokens(job: Job, training: bool = True) -> float:
    """Tokens of a micro batch on one rank: context parallel divides them."""
    n = job.layout
    return (n.train_tokens if training else n.logprob_tokens) / n.context


def training(job: Job, constants: Constants, blocks: str, stage: int) -> Range:
    """Activations that are kept while the forward passes in flight are not yet undone."""
    saved = kept_per_token(job.architecture, blocks, job.layout, job.version, job.router_bytes, job.fused_experts)
    count = tokens(job) * in_flight(stage, job.layout.pipeline, job.micro_batches)
    routed = Range(saved.routed, saved.routed, saved.routed + saved.unfused).by(constants.expert_imbalance)
    return exactly(saved.even).plus(routed).by(constants.activation_scale).times(count)


#: Of the temporaries of a block those of its forward pass alone (measured with DTensor).
FORWARD = 0.4
#: A log-probability pass leaves fewer fragments of its logits than training does, as a share of them.
PASS_FRAGMENTS = 0.8


def temporaries(job: Job, constants: Constants, count: float) -> Range:
    """Tensors of the block at work, forward or backward: a multiple of what the largest block keeps, and for Mamba the
    chunk states in fp32, about 4d bytes a token (chunk and state of 128)."""
    a = job.architecture
    sizes = []
    for kind in set(a.layers):
        one = block(a, kind, job.layout, job.router_bytes, job.fused_experts)
        states = 4 * a.d_inner / job.layout.tensor if kind == MAMBA else 0.0
        sizes.append((one.even + one.routed, states))
    saved, states = max(sizes)
    return constants.transient_blocks.times(saved * count).plus(exactly(states * count))


# --- logits ---------------------------------------------------------------------------------------------------------


def logits_count(a: Architecture, count: float, layout: Layout) -> float:
    """Logits on a rank of the last stage: tokens x vocabulary / TP."""
    return count * a.vocab / layout.tensor


def training_logits(job: Job, constants: Constants) -> Range:
    """Logits and what the loss makes of them.

    Megatron: 12 bytes each, 14 with the bf16 gradient [RL distributed/model_utils.py, DistributedLogprob]. With
    logprob_chunk_size (training: from v0.7.0, needs defer_fp32_logits) 4 bytes each and the chunk's own. DTensor: fp32
    output, log_softmax and a gradient, 12 bytes; chunks are for inference there. A fused linear loss has none.
    """
    if job.shape.fused_loss:
        return ZERO
    count = logits_count(job.architecture, tokens(job), job.layout)
    if job.layout.backend == FSDP2:
        return constants.logit_bytes_fsdp2.times(count)
    if job.chunk and job.defer_fp32 and job.version >= (0, 7):
        return exactly(4 * count).plus(_chunk(job, constants))
    return constants.logit_bytes_megatron.times(count)


def inference_logits(job: Job, constants: Constants) -> Range:
    """Logits of a log-probability pass: Megatron 12 bytes each, or in chunks 2 and the chunk's own [same source];
    DTensor 8, and 4 more where the model makes its own fp32 copy."""
    count = logits_count(job.architecture, tokens(job, training=False), job.layout)
    if job.chunk and (job.layout.backend == FSDP2 or job.defer_fp32):
        return exactly((4 if job.layout.backend == FSDP2 else 2) * count).plus(_chunk(job, constants))
    if job.layout.backend == FSDP2:
        own = 4 * count if job.architecture.hybrid and hugging_face(job.architecture, job.layout) else 0.0
        return constants.logit_bytes_pass.times(count).plus(exactly(own))
    return constants.logit_bytes_megatron.times(count)


def _chunk(job: Job, constants: Constants) -> Range:
    sequences = max(job.layout.train_tokens / job.max_length, 1.0)
    return constants.logit_bytes_chunk.times(job.chunk * sequences * job.architecture.vocab / job.layout.tensor)


def stage_blocks(job: Job) -> tuple[str, ...]:
    """The blocks of each pipeline stage of the job."""
    n = job.layout
    return parameters.stages(job.architecture, n.pipeline, n.first_stage, n.last_stage)


def peak(job: Job, constants: Constants, blocks: str, stage: int) -> tuple[Range, Range]:
    """Activations kept, and on top of them the larger of logits (last stage) and temporaries: they are used in turn."""
    last = stage == job.layout.pipeline - 1
    logits = training_logits(job, constants) if last else ZERO
    return training(job, constants, blocks, stage), largest(logits, temporaries(job, constants, tokens(job)))
