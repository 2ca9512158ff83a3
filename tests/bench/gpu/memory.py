"""Memory of the embedded engine on its one GPU, following nano_exp/engines/embedded: transformers' Nemotron-H without
Mamba kernels, float32 weights that compute in policy.precision (torch.autocast), fused AdamW, one process that
generates and trains. Bytes.

The counts are of transformers 5.24's modeling_nemotron_h.py, taken from torch's record of every tensor alive at the
peak of a step on an H100 (torch.cuda.memory._record_memory_history); docs/gpu.md compares
them with measured peaks. Mixtures of experts, top_p and top_k were not measured: the experts' terms are read from the
source, and sorting is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nano_exp import files
from nano_exp.engines.embedded.settings import Settings
from nano_exp.layout import architecture, parameters
from nano_exp.layout.architecture import ATTENTION, MAMBA, MLP, Architecture
from nano_exp.planner.gpus import Gpu
from nano_exp.planner.phase_memory import GENERATION, LOGPROB, STEP, TRAIN, Phase, Term
from nano_exp.planner.ranges import GIB, ZERO, Range, exactly, largest, total


@dataclass(frozen=True)
class Constants:
    """What arithmetic does not give.

    Parameters
    ----------
    context: GiB, the CUDA context and libraries of a process without NCCL
    workspace: GiB, cuBLAS's workspaces and what torch's allocator rounds up: 0.06 to 0.09 were measured on an H100
    activations, temporaries: factors on the counted activations, and on the temporaries of one block
    fragments: what torch's allocator reserves beyond what is allocated, as a share of memory that comes and goes
    """

    context: Range
    workspace: Range
    activations: Range
    temporaries: Range
    fragments: Range


#: For any GPU.
ASSUMED = Constants(
    context=Range(0.3, 0.5, 1.0),
    workspace=Range(0.03, 0.07, 0.15),
    activations=Range(0.95, 1.0, 1.10),
    temporaries=Range(0.85, 1.0, 1.15),
    fragments=Range(0.04, 0.10, 0.20),
)
#: Where `tables.py --calibrate` writes those of one GPU.
CALIBRATIONS = Path(__file__).resolve().parent


def calibrated(gpu: str) -> Constants:
    """The constants of a GPU, measured ones where its file has them."""
    read = files.read_yaml(CALIBRATIONS / f"{gpu}.yaml")["constants"]
    return replace(ASSUMED, **{name: Range(*values) for name, values in read.items()})


@dataclass(frozen=True)
class Run:
    """A run of the engine, with what memory depends on besides its settings."""

    settings: Settings

    @cached_property
    def architecture(self) -> Architecture:
        """Of policy.hf_config_overrides."""
        values = {**self.settings.architecture, "model_type": "nemotron_h"}
        return architecture.parse(values, "model", "policy.hf_config_overrides")

    @property
    def element(self) -> int:
        """Bytes of an element of policy.precision."""
        return 4 if self.settings.precision == "float32" else 2

    @property
    def reference(self) -> bool:
        """Whether there is a reference policy."""
        return self.settings.loss.reference_policy_kl_penalty != 0

    @property
    def answer(self) -> int:
        """The longest answer, tokens."""
        return min(self.settings.max_new_tokens, self.settings.max_length)

    @property
    def micro_batches(self) -> int:
        """Of one optimizer step."""
        return max(self.settings.global_batch // self.settings.micro_batch, 1)


#: Bytes of weights, gradients, each moment, norms and the residual stream, in either precision.
FP32 = 4


def kept(a: Architecture, kind: str, compute: int) -> float:
    """Bytes a token that autograd keeps of a block, where a sequence is whole chunks.

    Parameters
    ----------
    compute: bytes of an element of policy.precision, 4 or 2. With 2 a matrix product keeps its own 2-byte copies of
        what it multiplies, beside the float32 tensors that other operations keep.
    """
    h, d, g, half = a.hidden, a.d_inner, a.group_width, compute != FP32
    block = 2 * FP32 * h + compute * h  # the residual stream and the normed input before its weight; what is projected
    if kind == MAMBA:  # the convolution's input and output; the gated norm, step by step; what is projected back
        own = 4 * (d + 2 * g) + 22 * d if half else 12 * (d + 2 * g) + 4 * (2 * d + 2 * g) + 12 * d
        return block + own + 20 * a.mamba_heads + kept_scan(a, half)
    if kind == ATTENTION:
        # q; k and v, repeated for each head (prompts of different lengths bring a mask, and with a mask transformers
        # repeats them); the output. Each projection casts its own input.
        return block + (2 * compute * h if half else 0) + 4 * compute * a.q_width
    if kind == MLP:  # relu, its square, and the square's float32 input
        return block + 8 * a.intermediate
    routed = a.experts_per_token * (3 * compute * h + 8 * a.expert_width)
    return block + 8 * a.shared_width + FP32 * a.experts + routed


def kept_scan(a: Architecture, half: bool) -> float:
    """Of that, what the scan of a Mamba block keeps: it fills up the last chunk of a sequence.

    For each pair of tokens of a chunk: decays, scores and their product. B and C, repeated for each head, once for each
    product that they enter. The inputs, likewise. The states between chunks.
    """
    scores, states, d = a.chunk * a.mamba_heads, a.state * a.mamba_heads, a.d_inner
    between = d * a.state / a.chunk
    if half:
        return 8 * scores + 12 * states + 14 * d + 4 * between
    return 12 * scores + 20 * states + 20 * d + 8 * between


def scan(a: Architecture, half: bool) -> float:
    """Bytes a token of whole chunks that the scan makes for itself, at its peak, where nothing is kept for backward.

    This and `scan_beyond` are fitted to torch's own record of its allocations over widths, states and chunks
    (torch.profiler with profile_memory): within 5 % of it, in float32 within 9 %.
    """
    scores, states, d = a.chunk * a.mamba_heads, a.state * a.mamba_heads, a.d_inner
    return 7 * scores + 20 * states + 21 * d if half else 5 * scores + 21 * states + 31 * d


def scan_beyond(a: Architecture, half: bool) -> float:
    """The same beyond what is kept, where something is."""
    scores, states, d = a.chunk * a.mamba_heads, a.state * a.mamba_heads, a.d_inner
    return 2.5 * scores + 11 * states + 7 * d if half else 10 * states + 9 * d


def passing(a: Architecture, compute: int, sequences: float, length: int) -> float:
    """Bytes of the largest block's pass where nothing is kept for backward."""
    widths = [10 * compute * a.q_width if ATTENTION in a.layers else 0]
    widths += [2 * (compute + FP32) * a.intermediate if MLP in a.layers else 0]
    found = sequences * length * max(widths)
    if MAMBA in a.layers:
        projected = compute * (2 * a.d_inner + 2 * a.group_width + a.mamba_heads)
        found = max(found, sequences * (length * projected + padded(a, length) * scan(a, compute != FP32)))
    return found + sequences * length * FP32 * a.hidden


def padded(a: Architecture, length: int) -> int:
    """The scan works on whole chunks."""
    return -(-length // a.chunk) * a.chunk if a.hybrid else length


def cache(a: Architecture, sequences: int, length: int, compute: int) -> float:
    """KV of the attention layers and convolution windows in the computing precision; Mamba states in float32."""
    kv = compute * a.count(ATTENTION) * 2 * a.kv_width * length
    window = compute * a.conv_kernel * (a.d_inner + 2 * a.group_width)
    return sequences * (kv + a.count(MAMBA) * (FP32 * a.d_inner * a.state + window))


def phases(run: Run, gpu: Gpu, constants: Constants) -> tuple[Phase, ...]:
    """Generation, log probabilities, training, optimizer step. Weights, moments and the reference's weights stay
    throughout; gradients exist in training alone (zero_grad sets them to None)."""
    a, n, c = run.architecture, run.settings, run.element
    count = float(parameters.total(a).total)
    standing = (
        Term("weights", exactly(FP32 * count)),
        Term("optimizer state", exactly(2 * FP32 * count)),
        Term("reference weights", exactly(FP32 * count) if run.reference else ZERO),
        Term("cuBLAS workspaces, rounding", constants.workspace.times(GIB)),
        Term("CUDA context", constants.context.times(GIB)),
    )

    def phase(name: str, moving: Range, *own: Term) -> Phase:
        parts = (*standing, *own, Term("fragments", moving.by(constants.fragments)))
        return Phase(name, tuple(term for term in parts if term.size.high > 0), gpu.bytes)

    # Each prompt fills whole chunks in the scan. A new token makes a few tensors of one layer's states.
    prompts = passing(a, c, n.answers, max(n.max_length - run.answer, 1))
    state = 5.0 * FP32 * n.answers * a.d_inner * a.state * (MAMBA in a.layers)
    sampling = constants.temporaries.times(max(prompts, state))
    sampling = largest(sampling, exactly(4.0 * FP32 * n.answers * a.vocab))
    caches = exactly(cache(a, n.answers, n.max_length, c))

    # float32 logits and their log_softmax; a temperature makes another copy.
    logits = exactly((12.0 if n.sampling.temperature != 1.0 else 8.0) * n.logprob_batch * run.answer * a.vocab)
    scored = passing(a, c, n.logprob_batch, n.max_length - 1)
    scored_or_logits = largest(logits, constants.temporaries.times(scored))
    swapped = Term("current weights, copied", exactly(FP32 * count) if run.reference else ZERO)

    copied = Term("weights in bf16", exactly(weight_copies(a, c)))
    gradients = Term("gradients", exactly(FP32 * count))
    return (
        phase(GENERATION, total((caches, sampling)), copied, Term("caches", caches), Term("temporaries", sampling)),
        phase(LOGPROB, scored_or_logits, copied, swapped, Term("logits, temporaries", scored_or_logits)),
        _train(run, constants, phase),
        phase(STEP, ZERO, gradients),
    )


def weight_copies(a: Architecture, compute: int) -> float:
    """Bytes of autocast's copies of all matrices but the embedding, which is a look-up."""
    return 0.0 if compute == FP32 else float(compute * (parameters.total(a).total - a.vocab * a.hidden))


def _train(run: Run, constants: Constants, phase: Callable[..., Phase]) -> Phase:
    """Training at its fullest moment, which is one of these.

    The loss, with log_softmax kept and two gradients of the logits. The last block's pass forward. With recompute,
    which keeps the residual stream alone: the pass forward, when all weights are held twice; a block run again.
    With one micro batch to an update: the end of backward, when gradients have taken the place of activations.
    """
    a, n, c, half = run.architecture, run.settings, run.element, run.element != FP32
    length, recompute = n.max_length - 1, n.recompute
    tokens, whole = float(n.micro_batch * length), float(n.micro_batch * padded(a, length))
    logits = float(n.micro_batch * run.answer * a.vocab)

    def block(kind: str) -> float:
        masks = (c + 1) * length if kind == ATTENTION else 0
        filling = (whole - tokens) * kept_scan(a, half) if kind == MAMBA else 0
        return tokens * (kept(a, kind, c) + masks) + filling

    blocks = [tokens * FP32 * a.hidden if recompute else block(kind) for kind in a.layers]
    held = tokens * (2 * FP32 + c) * a.hidden + sum(blocks)
    # The last scan has what was kept and copied up to it.
    last = a.layers.rfind(MAMBA) + 1 or len(a.layers)
    then, later = sum(blocks[:last]), sum(parameters.BLOCK[kind](a).total for kind in a.layers[last:])
    beyond = whole * scan_beyond(a, half) if MAMBA in a.layers else 0.0
    gradients, copies = FP32 * float(parameters.total(a).total), weight_copies(a, c)
    head = float(c * a.vocab * a.hidden) if half else 0.0
    copied_then = copies - head - c * later if half else 0.0
    several = run.micro_batches > 1
    earlier = gradients if several else 0.0
    # Each moment: gradients, weights' copies, kept activations, logits, temporaries.
    moments = [(earlier, head if recompute else copies, held, 12 * logits, 0.0)]
    if recompute:
        moments.append((earlier, copies, held, (FP32 + c if half else FP32) * logits, 0.0))
        moments.append((earlier, copied_then, then, 0.0, passing(a, c, n.micro_batch, length)))
        moments.append((earlier, 0.0, then + max(block(kind) for kind in a.layers), 0.0, beyond))
    else:
        moments.append((earlier, copied_then, then, 0.0, beyond))
    if not several:
        moments.append((gradients, 0.0, block(a.layers[0]), 0.0, beyond))
    grown, copied, activations, logit_bytes, rest = max(moments, key=sum)
    kept_range = constants.activations.times(activations)
    moving = exactly(logit_bytes).plus(constants.temporaries.times(rest))
    return phase(
        TRAIN,
        total((kept_range, moving)),
        Term("gradients", exactly(grown)),
        Term("weights in bf16", exactly(copied)),
        Term("activations", kept_range),
        Term("logits, temporaries", moving),
    )
