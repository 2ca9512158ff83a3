"""Host memory of a node: what leaves the GPUs of colocated runs, what is offloaded, copies, and the processes' own.

RL = NVIDIA-NeMo/RL at v0.7.0, MC = NVIDIA/Megatron-LM. Of the processes nothing was measured: assumptions, in GiB.
"""

from __future__ import annotations

from functools import lru_cache

from nano_exp.layout import parameters
from nano_exp.layout.layouts import MEGATRON
from nano_exp.layout.workload import Job
from nano_exp.planner import inference, training
from nano_exp.planner.phase_memory import Phase, Term
from nano_exp.planner.ranges import GIB, ZERO, Range, exactly

HOST = "host memory"
#: A training worker and a vLLM worker on each GPU: Python, CUDA's host side, pinned buffers.
PROCESSES_GIB = Range(3.0, 8.0, 16.0)
#: Ray, the driver, data, NeMo Gym.
NODE_GIB = Range(4.0, 12.0, 32.0)
#: Bytes of a token in Ray's object store: ids, masks, log probabilities of several passes, copies.
TOKEN_BYTES = Range(16.0, 64.0, 200.0)
#: fp32 weights, gradients and moments of a parameter in the optimizer on the host; gradients may be freed.
OFFLOADED_BYTES = Range(12.0, 16.0, 16.0)


@lru_cache(maxsize=4096)
def node(job: Job, limit: float) -> Phase:
    """What a node's host memory holds at the most in a step, or while weights are converted.

    Parameters
    ----------
    limit: bytes that the run has of it
    """
    gpus = min(job.gpus_per_node, job.world)
    vllm_sleeps = job.generation.backend == "vllm" and job.generation.colocated
    asleep = gpus * inference.weights(job.architecture, job.generation) if vllm_sleeps else 0.0
    terms = (
        ("training state", _state(job).times(gpus)),
        ("reference policy", _reference(job).times(gpus)),
        ("vLLM's weights, asleep", exactly(asleep)),
        ("conversion of the checkpoint", _conversion(job)),
        ("checkpoint, on its way", _staged(job).times(gpus)),
        ("object store", TOKEN_BYTES.times(job.rollout * job.max_length)),
        ("processes", PROCESSES_GIB.times(GIB * job.gpus_per_node).plus(NODE_GIB.times(GIB))),
    )
    return Phase(HOST, tuple(Term(name, size) for name, size in terms if size.high > 0), limit)


def _state(job: Job) -> Range:
    """Weights and optimizer state of a rank that are on the host: offloaded ones always, the rest while vLLM generates
    [RL models/policy: offload_before_refit, offload_after_refit; MC core/optimizer/cpu_offloading]."""
    moved = 1.0 if job.generation.colocated else 0.0
    if job.layout.backend != MEGATRON:
        local = training.fsdp2_local(job)
        on_gpu = training.fsdp2_on_gpu(job, local)
        if job.lora:
            return exactly(training.FSDP2_WEIGHTS * (local.all - on_gpu * (1 - moved)))
        leaves = moved * (training.FSDP2_WEIGHTS + training.FSDP2_MOMENTS) * on_gpu
        return OFFLOADED_BYTES.times(local.all - on_gpu).plus(exactly(leaves))
    local = training.megatron_local(job, 0)
    weights = moved * training.megatron_weights(local, job.element)
    if job.lora:
        return exactly(weights)
    part = job.layout.offloaded
    master = training.megatron_main_parameters(local, True, job.element) if job.precision_aware else 0.0
    leaves = moved * (1 - part) * (training.megatron_moments(local, job.moment_bytes) + master)
    return OFFLOADED_BYTES.times(part * local.sharded).plus(exactly(weights + leaves))


def _reference(job: Job) -> Range:
    """The reference policy's weights, and the policy's own while they are exchanged [RL use_reference_model]."""
    if not job.reference or job.lora:
        return ZERO
    if job.layout.backend == MEGATRON:
        one = training.megatron_weights(training.megatron_local(job, 0), job.element)
    else:
        one = training.FSDP2_WEIGHTS * training.fsdp2_local(job).all
    return Range(one, 2 * one, 2 * one)


def _conversion(job: Job) -> Range:
    """Megatron: Hugging Face's weights and the model made of them, in 16 bits, on the first start alone. DTensor v1
    reads fp32 weights into its first rank [RL dtensor_policy_worker.py 321]; v2 reads each rank's shards."""
    count = float(parameters.total(job.architecture).total)
    return Range(0.0, 0.0, 4 * count)


def _staged(job: Job) -> Range:
    """A checkpoint's tensors are copied to the host before they are written. What was moved off the GPU is back there
    then, so that it comes on top only where the state is offloaded."""
    if job.layout.backend == MEGATRON:
        local = training.megatron_local(job, 0)
        state = local.sharded * (job.element + 4 + job.moment_bytes)
    else:
        state = (training.FSDP2_WEIGHTS + training.FSDP2_MOMENTS) * training.fsdp2_local(job).all
    return Range(0.0, 0.0, state)
