"""Memory of the embedded engine on its one GPU, following nano_exp/engines/embedded: transformers' Nemotron-H in fp32
without Mamba kernels, torch's AdamW, one process that generates and trains. Bytes.
"""

from __future__ import annotations

from nano_exp.planner import parameters
from nano_exp.planner.architecture import ATTENTION, MAMBA, MLP, Architecture
from nano_exp.planner.gpus import Constants, Gpu
from nano_exp.planner.job import Job
from nano_exp.planner.phases import GENERATION, LOGPROB, TRAIN, Phase, Term
from nano_exp.planner.ranges import GIB, ZERO, Range, exactly, largest, total

#: Bytes of an element: the engine has precision float32 alone.
WIDTH = 4


def kept(a: Architecture, kind: str) -> float:
    """Bytes a token that autograd keeps of a block, counted in transformers 5.24's modeling_nemotron_h.py.

    Norms run in steps, each of which keeps its input. Mamba without kernels: projections, convolution and its
    activation, and the chunked scan, whose scores are chunk x heads a token and whose B and C are repeated for each
    head.
    """
    h, d, g, heads = a.hidden, a.d_inner, a.group_width, a.mamba_heads
    if kind == MAMBA:
        projected, convolved = 2 * d + 2 * g + heads, 3 * (d + 2 * g)
        scan = 3 * heads * a.state + 4 * a.chunk * heads + 3 * d * a.state / a.chunk + 11 * d
        return WIDTH * (5 * h + projected + convolved + scan)
    if kind == ATTENTION:  # q, k, v; k and v repeated for each head; output
        return WIDTH * (5 * h + 4 * a.q_width + 2 * a.kv_width)
    if kind == MLP:  # first matrix, its relu and the square
        return WIDTH * (5 * h + 3 * a.intermediate)
    routed = a.experts_per_token * (2 * h + 3 * a.expert_width)
    return WIDTH * (5 * h + 3 * a.shared_width + a.experts + routed)


def padded(a: Architecture, length: int) -> int:
    """The scan works on whole chunks."""
    return -(-length // a.chunk) * a.chunk if a.hybrid else length


def cache(a: Architecture, sequences: int, length: int) -> float:
    """KV of the attention layers, and state and convolution window of the Mamba layers."""
    kv = a.count(ATTENTION) * 2 * a.kv_width * length
    state = a.count(MAMBA) * (a.d_inner * a.state + a.conv_kernel * (a.d_inner + 2 * a.group_width))
    return sequences * WIDTH * (kv + state)


def phases(job: Job, gpu: Gpu, constants: Constants) -> tuple[Phase, ...]:
    """Generation, log probabilities, training. Weights, moments and the reference's weights stay throughout; gradients
    exist in training alone (zero_grad sets them to None)."""
    a, n, count = job.architecture, job.layout, float(parameters.total(job.architecture).total)
    standing = (
        Term("weights", exactly(WIDTH * count)),
        Term("optimizer state", exactly(2 * WIDTH * count)),
        Term("reference weights", exactly(WIDTH * count) if job.reference else ZERO),
        Term("CUDA context", constants.embedded_context_gib.times(GIB)),
    )
    length = padded(a, job.max_length)
    block = max(kept(a, kind) for kind in set(a.layers))

    def phase(name: str, moving: Range, *own: Term) -> Phase:
        parts = (*standing, *own, Term("fragments", moving.by(constants.fragments)))
        return Phase(name, tuple(term for term in parts if term.size.high > 0), gpu.bytes)

    caches = exactly(cache(a, job.rollout, job.max_length))
    # A new token copies each layer's KV; the prompt's pass has one block's tensors; sampling sorts one row of logits.
    prompt = Range(0.25, 0.5, 1.0).times(job.rollout * length * block)
    row = exactly(16.0 * job.rollout * a.vocab)
    generating = largest(caches.times(1 / max(len(a.layers), 1)), prompt, row)

    micro = float(n.micro_batch * length)
    logits = constants.logit_bytes_fsdp2.times(n.micro_batch * job.max_length * a.vocab)
    held = constants.activation_scale.times(micro * sum(kept(a, kind) for kind in a.layers))
    backward = constants.transient_blocks.times(micro * block)
    training = largest(logits, backward)

    passes = float(n.logprob_batch * length)
    scoring = largest(
        constants.logit_bytes_megatron.times(n.logprob_batch * job.max_length * a.vocab),
        constants.transient_blocks.times(passes * block),
    )
    swapped = Term("current weights, copied", exactly(WIDTH * count) if job.reference else ZERO)
    return (
        phase(GENERATION, total((caches, generating)), Term("caches", caches), Term("logits, temporaries", generating)),
        phase(LOGPROB, scoring, swapped, Term("logits, temporaries", scoring)),
        phase(
            TRAIN,
            total((held, training)),
            Term("gradients", exactly(WIDTH * count)),
            Term("activations", held),
            Term("logits, temporaries", training),
        ),
    )
