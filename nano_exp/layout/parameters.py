"""Exact parameter counts for each kind of block, and the part of them that one rank holds.

Counted from the Hugging Face architectures (transformers 5.24: nemotron_h, llama, mistral, qwen2, qwen3); tests compare
with what transformers counts on the meta device. Symbols are those of docs/planner.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from nano_exp.layout.architecture import ATTENTION, MAMBA, MLP, MOE, Architecture


@dataclass(frozen=True)
class Count:
    """Parameters by how a Megatron layout divides them.

    Parameters
    ----------
    sharded: divided by tensor parallel (matrices, and Mamba's vectors along its heads)
    replicated: whole on every tensor-parallel rank (norms, router)
    experts: routed experts, divided by expert parallel
    """

    sharded: int = 0
    replicated: int = 0
    experts: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.sharded + other.sharded, self.replicated + other.replicated, self.experts + other.experts)

    @property
    def total(self) -> int:
        return self.sharded + self.replicated + self.experts

    @property
    def dense(self) -> int:
        """All but the routed experts."""
        return self.sharded + self.replicated


def mamba(a: Architecture) -> Count:
    """in_proj, convolution, A, D and dt bias, gated norm, out_proj; and the block's norm."""
    h, d, g, heads = a.hidden, a.d_inner, a.group_width, a.mamba_heads
    projected, convolved = 2 * d + 2 * g + heads, d + 2 * g
    sharded = h * projected + convolved * (a.conv_kernel + a.conv_bias) + 3 * heads + d + d * h
    return Count(sharded + a.mamba_bias * projected, h + a.mamba_bias * h)


def attention(a: Architecture) -> Count:
    """q, k, v and output projections; the block's norm, and the norms of q and k where the model has them."""
    h, q, kv = a.hidden, a.q_width, a.kv_width
    sharded = h * (q + 2 * kv) + q * h + a.qkv_bias * (q + 2 * kv)
    return Count(sharded, h + a.out_bias * h + a.qk_norm * 2 * a.head_dim)


def mlp(a: Architecture) -> Count:
    """Two matrices (ReLU squared) or three (gated), and the block's norm."""
    matrices = 2 + a.gated
    sharded = matrices * a.hidden * a.intermediate + a.mlp_bias * (matrices - 1) * a.intermediate
    return Count(sharded, a.hidden + a.mlp_bias * a.hidden)


def moe(a: Architecture) -> Count:
    """Routed experts and a shared one (ReLU squared), router, norm. The router's bias is a buffer: not counted."""
    shared = 2 * a.hidden * a.shared_width + a.mlp_bias * a.shared_width
    replicated = a.hidden * a.experts + a.hidden + (a.mlp_bias * a.hidden if a.shared_width else 0)
    return Count(shared, replicated, a.experts * 2 * a.hidden * a.expert_width)


BLOCK: dict[str, Callable[[Architecture], Count]] = {MAMBA: mamba, ATTENTION: attention, MLP: mlp, MOE: moe}


def embedding(a: Architecture) -> Count:
    return Count(a.vocab * a.hidden)


def head(a: Architecture) -> Count:
    """Final norm and output layer; the output layer of a tied model is its embedding."""
    return Count(0 if a.tied else a.vocab * a.hidden, a.hidden)


@cache
def total(a: Architecture) -> Count:
    """The whole model."""
    return sum((BLOCK[kind](a) for kind in a.layers), embedding(a) + head(a))


@cache
def active(a: Architecture) -> int:
    """Parameters that one token uses: the routed experts count experts_per_token / experts."""
    whole = total(a)
    return whole.dense + (whole.experts * a.experts_per_token // a.experts if a.experts else 0)


@cache
def largest_block(a: Architecture, without_experts: bool = False) -> int:
    """Parameters of the largest block, the unit that FSDP2 gathers."""
    counts = [BLOCK[kind](a) for kind in set(a.layers)]
    return max(c.dense if without_experts else c.total for c in counts)


@cache
def stages(a: Architecture, pipeline: int, first: int | None = None, last: int | None = None) -> tuple[str, ...]:
    """The blocks of each pipeline stage: equal numbers of layers, or a first or last stage of another size.

    Raises
    ------
    ValueError: the layers cannot be divided so
    """
    fixed = [n for n in (first, last) if n is not None]
    middle, rest = pipeline - len(fixed), a.depth - sum(fixed)
    if middle < 0 or rest < 0 or (middle and rest % middle) or (not middle and rest):
        raise ValueError(f"{a.depth} layers over {pipeline} pipeline stages")
    even = rest // middle if middle else 0
    sizes = ([first] if first is not None else []) + [even] * middle + ([last] if last is not None else [])
    starts = [sum(sizes[:i]) * a.blocks_per_layer for i in range(pipeline + 1)]
    return tuple(a.layers[start:end] for start, end in pairwise(starts))


@cache
def of_stage(a: Architecture, blocks: str, is_first: bool, is_last: bool) -> Count:
    """A pipeline stage. The first has the embedding, the last the output layer (tied: its own copy, Megatron's)."""
    count = sum((BLOCK[kind](a) for kind in blocks), Count())
    if is_first:
        count += embedding(a)
    if is_last:
        count += head(a)
        if a.tied and not is_first:
            count += embedding(a)
    return count
