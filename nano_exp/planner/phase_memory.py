"""The phases of a step, each with what is on one GPU while it lasts.

The order is that of RL nemo_rl/algorithms/grpo.py at v0.7.0: refit, generation, log probabilities, training. With
colocated generation vLLM and the training process share each GPU and take turns; otherwise each has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from nano_exp.layout.layouts import FSDP2, MEGATRON
from nano_exp.layout.workload import Job
from nano_exp.planner import activations, inference, training
from nano_exp.planner.gpus import Constants, Gpu
from nano_exp.planner.ranges import GIB, ZERO, Range, exactly, largest, total
from nano_exp.planner.training import FSDP2_WEIGHTS, Local

#: Classes of memory, best first.
ORDER = ("fits", "tight", "no")
SETUP, REFIT, GENERATION, SHARE = "setup", "refit", "generation", "vllm share"
LOGPROB, TRAIN, STEP = "logprob", "train", "optimizer step"
#: What is left free where a layout `fits`: below it torch's allocator has no room to breathe (docs/planner.md).
COMFORT = 0.08
#: NRL_REFIT_BUFFER_MEMORY_RATIO's default: the part of the free memory that the weights are streamed through.
REFIT_RATIO = 0.3


@dataclass(frozen=True)
class Term:
    """A named part of a phase's memory, bytes."""

    name: str
    size: Range


@dataclass(frozen=True)
class Phase:
    """Memory of one phase.

    Parameters
    ----------
    terms: its parts, the largest stage's where there is a pipeline
    limit: bytes that there are: the GPU, or vLLM's share of it
    stage: the pipeline stage that needs most, of `stages`
    """

    name: str
    terms: tuple[Term, ...]
    limit: float
    stage: int = 0

    @property
    def size(self) -> Range:
        return total(term.size for term in self.terms)

    @property
    def klass(self) -> str:
        """`no`: not even the low estimate is within the limit. `fits`: the expected one leaves COMFORT free, and the
        high one is within the limit. Else `tight`."""
        size = self.size
        if size.low > self.limit:
            return "no"
        return "fits" if size.expected <= (1 - self.comfort) * self.limit and size.high <= self.limit else "tight"

    @property
    def comfort(self) -> float:
        """vLLM fills its share on purpose: nothing has to be left free in it."""
        return 0.0 if self.name == SHARE else COMFORT

    @property
    def headroom(self) -> float:
        """Bytes between the expected size and the limit, negative where it does not fit."""
        return self.limit - self.size.expected


def deciding(phases: Sequence[Phase]) -> Phase:
    """The phase of the worst class, and of those the one that is fullest; vLLM's share, which it fills on purpose, only
    where nothing else is of that class."""
    return max(phases, key=lambda p: (ORDER.index(p.klass), p.name != SHARE, p.size.expected / p.limit))


def _terms(*named: tuple[str, Range]) -> tuple[Term, ...]:
    return tuple(Term(name, size) for name, size in named if size.high > 0)


@lru_cache(maxsize=8192)
def phases(job: Job, gpu: Gpu, constants: Constants) -> tuple[Phase, ...]:
    """Every phase of a step, in order."""
    fullest_phases: list[Phase] = []
    stages = range(job.layout.pipeline)
    for name, of_stage in (
        (SETUP, _setup),
        (REFIT, _refit),
        (GENERATION, _generation),
        (LOGPROB, _logprob),
        (TRAIN, _train),
        (STEP, _step),
    ):
        sized = [Phase(name, of_stage(job, gpu, constants, stage), gpu.bytes, stage) for stage in stages]
        fullest = max(sized, key=lambda phase: phase.size.expected)
        if fullest.terms:
            fullest_phases.append(fullest)
        if name == GENERATION and job.generation.backend == "vllm":
            fullest_phases.append(_share(job, gpu, constants))
    return tuple(fullest_phases)


# --- what several phases need ---------------------------------------------------------------------------------------


def _local(job: Job, stage: int) -> Local:
    return training.megatron_local(job, stage) if job.layout.backend == MEGATRON else training.fsdp2_local(job)


def _context(job: Job, constants: Constants) -> tuple[str, Range]:
    both = constants.context_gib.plus(constants.nccl_gib) if job.world > 1 else constants.context_gib
    return "CUDA context, NCCL", both.times(GIB)


def _asleep(job: Job, constants: Constants) -> tuple[str, Range]:
    """What a colocated vLLM at sleep level 1 leaves on the GPU, its CUDA graphs with it."""
    if not job.generation.colocated or job.generation.backend != "vllm":
        return "vLLM asleep", ZERO
    graphs = constants.vllm_beyond_gib if job.generation.graphs else ZERO
    return "vLLM asleep", constants.vllm_asleep_gib.plus(graphs).times(GIB)


def _weights(job: Job, local: Local) -> tuple[str, Range]:
    if job.layout.backend == MEGATRON:
        return "weights", exactly(training.megatron_weights(local, job.element))
    return "weights", exactly(training.FSDP2_WEIGHTS * training.fsdp2_on_gpu(job, local))


def _gradients(job: Job, local: Local) -> tuple[str, Range]:
    if job.lora:
        return "adapters", training.adapter_state(job)
    if job.layout.backend == MEGATRON:
        return "gradients", exactly(training.megatron_gradients(local, job.gradients_fp32, job.element))
    return "gradients", exactly(training.FSDP2_GRADIENTS * training.fsdp2_on_gpu(job, local))


def _optimizer(job: Job, local: Local) -> tuple[str, Range]:
    if job.lora:
        return "optimizer state", ZERO
    if job.layout.backend == MEGATRON:
        main = training.megatron_main_parameters(local, job.precision_aware, job.element)
        state = main + training.megatron_moments(local, job.moment_bytes)
        return "optimizer state", exactly((1 - job.layout.offloaded) * state)
    return "optimizer state", exactly(training.FSDP2_MOMENTS * training.fsdp2_on_gpu(job, local))


def _cannot_leave(job: Job, local: Local) -> tuple[str, Range]:
    """What the training process keeps while vLLM generates: the fp32 master of an optimizer that is not
    precision-aware is not in optimizer.state, which is what NeMo RL moves (derived)."""
    stays = job.layout.backend == MEGATRON and not (job.precision_aware or job.lora)
    master = training.megatron_main_parameters(local, False, job.element) if stays else 0.0
    return "fp32 master weights", exactly((1 - job.layout.offloaded) * master)


def _fragments(constants: Constants, *parts: Range) -> tuple[str, Range]:
    """Reserved but not allocated: a share of what comes and goes."""
    return "fragments", total(parts).by(constants.fragments)


def _with_cached(gpu: Gpu, terms: tuple[Term, ...], cached: Range) -> tuple[Term, ...]:
    """With blocks that torch caches and cannot use, of logits and of what is as large. It gives them back before it
    fails, so they take what is left of the GPU, and are never why something does not fit."""
    used, most = total(term.size for term in terms), (1 - COMFORT) * gpu.bytes
    low, expected, high = (min(size, max(most - end, 0.0)) for size, end in zip(cached, used, strict=True))
    return (*terms, *_terms(("cached blocks", Range(min(low, expected), expected, max(expected, high)))))


def _beyond(peak: Range, other: Range) -> Range:
    """What another moment of a phase needs beyond the one that its terms are of."""
    return Range(*(max(a - b, 0.0) for a, b in zip(peak, other, strict=True)))


# --- the phases -----------------------------------------------------------------------------------------------------


def _setup(job: Job, gpu: Gpu, constants: Constants, stage: int) -> tuple[Term, ...]:
    """Megatron builds the reference policy as a second model with a gradient buffer of its own, while the policy's
    buffers are on the host; up to v0.7.0 the second one may linger. DTensor copies the weights to the host: no peak."""
    if job.layout.backend != MEGATRON or not job.reference:
        return ()
    local = _local(job, stage)
    both = training.megatron_weights(local, job.element)
    both += 0.0 if job.lora else training.megatron_gradients(local, job.gradients_fp32, job.element)
    return _terms(
        ("policy", exactly(both)),
        ("reference, being built", Range(0.0, both, both)),
        _asleep(job, constants),
        _context(job, constants),
    )


def _refit(job: Job, gpu: Gpu, constants: Constants, stage: int) -> tuple[Term, ...]:
    """Colocated: the policy's weights, vLLM's, and the buffer that streams from one to the other: a part of what is
    free, so it cannot be the reason that something does not fit."""
    g = job.generation
    if not g.colocated or g.backend != "vllm":
        return ()
    local = _local(job, stage)
    whole = _weights(job, local) if job.layout.backend == MEGATRON else ("weights", exactly(FSDP2_WEIGHTS * local.all))
    tensor = logits = 0.0
    if job.layout.backend == FSDP2:
        tensor = 2.0 * job.architecture.vocab * job.architecture.hidden
        logits = 4 * activations.logits_count(job.architecture, activations.tokens(job), job.layout)
    terms = _terms(
        whole,  # DTensor's cpu_offload notwithstanding: they are moved to the GPU to be sent
        ("largest tensor, bf16", exactly(tensor)),
        ("cached blocks", Range(0.0, 0.0, logits)),  # of training: a block with something in it is not given back
        ("vLLM weights", exactly(inference.weights(job.architecture, g))),
        _cannot_leave(job, local),
        _asleep(job, constants),
        _context(job, constants),
    )
    free = gpu.bytes - total(term.size for term in terms).expected
    return (*terms, *_terms(("refit buffer", exactly(REFIT_RATIO * max(free, 0.0)))))


def _generation(job: Job, gpu: Gpu, constants: Constants, stage: int) -> tuple[Term, ...]:
    """vLLM's whole share; what it takes beyond it; and what a colocated training process cannot put on the host."""
    g = job.generation
    local = _local(job, stage)
    if g.backend == "megatron":
        whole = 2 * local.all if job.layout.backend == MEGATRON else inference.weights(job.architecture, g)
        return _terms(("weights", exactly(whole)), ("cache", exactly(g.buffer_gb * 1e9)), _context(job, constants))
    of_training = (_cannot_leave(job, local), _context(job, constants)) if g.colocated else ()
    beyond = constants.vllm_beyond_gib.times(GIB) if g.graphs else ZERO
    share = inference.share(g, gpu)  # what its profiling pass needed is in it, and not in use all the time
    used = Range(max(share - constants.vllm_overhead_gib.expected * GIB, 0.0), share, share)
    return _terms(("vLLM's share", used), ("vLLM beyond its share", beyond), *of_training)


def _share(job: Job, gpu: Gpu, constants: Constants) -> Phase:
    """Inside vLLM's share: weights, overhead, and the smallest cache that it starts with."""
    g = job.generation
    terms = _terms(
        ("vLLM weights", exactly(inference.weights(job.architecture, g))),
        ("context, profiled activations", constants.vllm_overhead_gib.times(GIB)),
        ("cache for max_num_seqs", inference.needed_cache(job, gpu)),
    )
    return Phase(SHARE, terms, inference.share(g, gpu))


def _logprob(job: Job, gpu: Gpu, constants: Constants, stage: int) -> tuple[Term, ...]:
    """Forward only, for the policy and the reference: its weights are copied into the policy's tensors, so there is no
    second model. Gradients are freed. The optimizer state is on the host after a colocated refit, else where
    offload_optimizer_for_logprob says (v0.4.0: always)."""
    local = _local(job, stage)
    count = activations.tokens(job, training=False)
    passing = activations.temporaries(job, constants, count)
    logits = activations.inference_logits(job, constants) if stage == job.layout.pipeline - 1 else ZERO
    on_gpu = not (job.generation.colocated or job.offload_for_logprob)
    gathered, fragments, cached = ZERO, _fragments(constants, largest(passing, logits)), ZERO
    if job.layout.backend == FSDP2:
        gathered = training.fsdp2_gathered(job)
        passing = passing.times(activations.FORWARD)
        fragments = _fragments(constants, passing, gathered)
        cached = logits.times(activations.PASS_FRAGMENTS).by(constants.fragments_logits)
    moving = largest(passing, logits)
    # The first worker's whole model comes before the logits, in blocks that they cannot use.
    whole = training.fsdp2_unsharded(job, local) if job.layout.backend == FSDP2 else 0.0
    first = max(whole - gathered.plus(moving).low, 0.0)
    blocks = max(whole - gathered.expected, 0.0) - first
    terms = _terms(
        _weights(job, local),
        _optimizer(job, local) if on_gpu else ("optimizer state", ZERO),
        ("gathered weights", gathered.plus(exactly(first))),
        ("logits, temporaries", moving),
        fragments,
        _asleep(job, constants),
        _context(job, constants),
    )
    return _with_cached(gpu, terms, cached.plus(Range(0.0, max(blocks, 0.0), max(blocks, 0.0))))


def _train(job: Job, gpu: Gpu, constants: Constants, stage: int) -> tuple[Term, ...]:
    """The end of a micro batch's forward pass, where kept activations and logits meet."""
    local = _local(job, stage)
    saved, moving = activations.peak(job, constants, activations.stage_blocks(job)[stage], stage)
    gathered = copies = last = cached = ZERO
    fragments = _fragments(constants, saved, moving)
    if job.layout.backend == FSDP2:
        gathered = training.fsdp2_gathered(job)
        copies = training.expert_copies(job, local, constants.expert_copy_bytes)
        logits = activations.training_logits(job, constants)
        if not job.lora:
            working = activations.temporaries(job, constants, activations.tokens(job))
            moving = largest(logits, working.plus(training.fsdp2_block_gradients(job)))
            last = _beyond(exactly(training.fsdp2_root_gradients(job)), saved.plus(moving))
        root = constants.fragments_root.times(0.0 if job.lora else training.root_size(job))
        fragments = _fragments(constants, saved, gathered, last)
        cached = logits.by(constants.fragments_logits).plus(root)
    terms = _terms(
        _weights(job, local),
        _gradients(job, local),
        _optimizer(job, local),
        ("bf16 copies of experts", copies),
        ("gathered weights", gathered),
        ("activations", saved),
        ("logits, temporaries", moving),
        ("gradients of embedding and output layer", last),
        fragments,
        _asleep(job, constants),
        _context(job, constants),
    )
    return _with_cached(gpu, terms, cached)


def _step(job: Job, gpu: Gpu, constants: Constants, stage: int) -> tuple[Term, ...]:
    """The optimizer's own temporaries, when activations are gone: Megatron's fp32 gradients where it needs them,
    torch's foreach AdamW on DTensor."""
    local = _local(job, stage)
    if job.lora:
        return ()
    if job.layout.backend == MEGATRON:
        temporaries = exactly(
            (1 - job.layout.offloaded) * training.megatron_step_copy(local, job.precision_aware, job.gradients_fp32)
        )
    else:
        temporaries = constants.foreach_bytes.times(training.fsdp2_on_gpu(job, local))
    if not temporaries.high:
        return ()
    return _terms(
        _weights(job, local),
        _gradients(job, local),
        _optimizer(job, local),
        ("temporaries of the step", temporaries),
        _asleep(job, constants),
        _context(job, constants),
    )
