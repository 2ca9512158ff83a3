"""Weights, gradients and optimizer state of the training process, bytes on one GPU.

Sources: MC = NVIDIA/Megatron-LM at d30c3ae (the pin of NeMo RL v0.6.0), RL = NVIDIA-NeMo/RL at v0.7.0, TE =
TransformerEngine, AM = NeMo Automodel. "Derived" marks our own reading of that code. docs/planner.md has the table.
"""

from __future__ import annotations

from typing import NamedTuple

from nano_exp.layout import parameters
from nano_exp.layout.architecture import MLP, MOE, Architecture
from nano_exp.layout.layouts import FSDP2
from nano_exp.layout.workload import Job
from nano_exp.planner.ranges import ZERO, Range


class Local(NamedTuple):
    """Parameters that one rank holds: dense and routed experts, and over how many ranks the optimizer divides each."""

    dense: float
    experts: float
    dense_shards: int
    expert_shards: int

    @property
    def all(self) -> float:
        return self.dense + self.experts

    @property
    def sharded(self) -> float:
        """Parameters whose optimizer state is on this rank."""
        return self.dense / self.dense_shards + self.experts / self.expert_shards


# --- Megatron -------------------------------------------------------------------------------------------------------


def megatron_local(job: Job, stage: int) -> Local:
    """Dense: over TP and stages. Experts: over EP x ETP and stages. The optimizer shards the dense part over DP x CP
    and experts over expert data parallel alone, EDP = W / (PP x EP x ETP): with EP = W / PP expert state is not sharded
    [MC core/distributed/distributed_data_parallel.py: intra_dp_cp_group, intra_expt_dp_group]."""
    n, a = job.layout, job.architecture
    blocks = parameters.stages(a, n.pipeline, n.first_stage, n.last_stage)[stage]
    stage_parameters = parameters.of_stage(a, blocks, stage == 0, stage == n.pipeline - 1)
    dense_shards = max(job.world // (n.tensor * n.pipeline), 1) if job.distributed else 1
    expert_shards = max(job.world // (n.pipeline * n.expert * n.expert_tensor), 1) if job.distributed else 1
    dense = stage_parameters.sharded / n.tensor + stage_parameters.replicated
    return Local(dense, stage_parameters.experts / (n.expert * n.expert_tensor), dense_shards, expert_shards)


def megatron_weights(local: Local, element: int) -> float:
    """One flat buffer, not sharded over data parallel [MC core/distributed/param_and_grad_buffer.py]."""
    return local.all * element


def megatron_gradients(local: Local, fp32: bool, element: int) -> float:
    """The gradient buffer: as wide as the weights, or 4 bytes with grad_reduce_in_fp32; not sharded [same file]."""
    return local.all * (4 if fp32 else element)


def megatron_main_parameters(local: Local, precision_aware: bool, element: int) -> float:
    """The fp32 master: 4 bytes a shard; precision-aware keeps the 16 bits that the bf16 weight lacks
    [MC core/optimizer/optimizer_config.py, store_param_remainders; TE pytorch/optimizers/fused_adam.py]."""
    if element == 4:
        return 0.0
    return local.sharded * (2 if precision_aware else 4)


def megatron_moments(local: Local, moment_bytes: int) -> float:
    """exp_avg and exp_avg_sq, sharded; 8 bytes unless their dtypes are set [MC core/optimizer/distrib_optimizer.py]."""
    return local.sharded * moment_bytes


def megatron_step_copy(local: Local, precision_aware: bool, fp32: bool) -> float:
    """fp32 copy of the gradients' shard during the step; none with precision-aware (decoupled_grad) or fp32 gradients
    [MC core/optimizer/distrib_optimizer.py]."""
    return 0.0 if precision_aware or fp32 else local.sharded * 4


# --- DTensor, FSDP2 -------------------------------------------------------------------------------------------------

#: fp32 weights, fp32 gradients and two fp32 moments [RL models/automodel/setup.py: fp32 master weights, bf16 compute].
FSDP2_WEIGHTS, FSDP2_GRADIENTS, FSDP2_MOMENTS = 4, 4, 8


def fsdp2_local(job: Job) -> Local:
    """Parameters of a shard; unlike Megatron everything divides, so both shard counts are 1.

    TP divides only MLP and output layer of Nemotron-H, and TP ranks leave fewer FSDP ranks [RL
    models/dtensor/parallelize.py]. Automodel's experts divide by EP and the rest of the ranks, so by all of them in the
    end [AM components/moe/parallelizer.py].
    """
    n, a = job.layout, job.architecture
    whole = parameters.total(a)
    shards = max(job.world // (n.tensor * n.replicate), 1)
    dense = float(whole.dense)
    if n.tensor > 1:
        divided = parameters.mlp(a).sharded * a.count(MLP) + a.vocab * a.hidden if a.hybrid else whole.sharded
        dense -= divided * (1 - 1 / n.tensor)
    experts = whole.experts / (job.world // n.replicate) if n.expert > 1 else whole.experts / shards
    return Local(dense / shards, experts, 1, 1)


def fsdp2_gathered(job: Job) -> Range:
    """bf16 weights that are whole on every rank: the block in use, the prefetched next one, at most the last one too;
    and the root group, embedding and output layer, which stays gathered after forward (derived)."""
    a = job.architecture
    block = parameters.largest_block(a, job.layout.expert > 1)
    root = a.vocab * a.hidden * (1 if a.tied else 2) * 2
    return Range(root + 2 * 2 * block, root + 2 * 2 * block, root + 3 * 2 * block)


def fsdp2_unsharded(job: Job, local: Local) -> float:
    """bf16 weights of the whole model but its experts: DTensor's first worker gathers all of them before it computes
    log-probabilities, and its blocks are freed one by one as they are passed [RL dtensor_policy_worker.py,
    unshard_fsdp2_model]. The second worker gathers as in training."""
    shards = max(job.world // (job.layout.tensor * job.layout.replicate), 1)
    return 0.0 if job.layout.second_worker else 2 * local.dense * shards


def root_size(job: Job) -> float:
    """Parameters of the root group, embedding and output layer, on a tensor parallel rank."""
    a = job.architecture
    return a.vocab * a.hidden * (1 if a.tied else 2) / job.layout.tensor


def fsdp2_block_gradients(job: Job) -> Range:
    """One block's gradient in bf16 before it is reduced, and in fp32 buffers at most (derived)."""
    block = parameters.largest_block(job.architecture, job.layout.expert > 1)
    return Range(2 * block, 6 * block, 6 * block)


def fsdp2_root_gradients(job: Job) -> float:
    """The root group's gradients at the end of backward: bf16, and the fp32 that is reduced (measured)."""
    return 6 * root_size(job)


def experts_outside(job: Job) -> bool:
    """Where EP covers all ranks, Automodel's experts are outside of FSDP, and its cpu_offload does not reach them."""
    return job.layout.expert > 1 and job.layout.expert >= job.world


def fsdp2_on_gpu(job: Job, local: Local) -> float:
    """Parameters of the shard that are on the GPU: with cpu_offload none but experts outside of FSDP."""
    if not job.layout.offload:
        return local.all
    return local.experts if experts_outside(job) else 0.0


def expert_copies(job: Job, local: Local, constant: Range) -> Range:
    """bf16 copies of experts outside of FSDP, if autocast keeps them: unverified."""
    return constant.times(local.experts) if experts_outside(job) else ZERO


# --- LoRA -----------------------------------------------------------------------------------------------------------


def adapters(a: Architecture, rank: int) -> tuple[int, int]:
    """Parameters of rank-`rank` adapters on every linear layer, rank x (in + out) each: dense ones, routed experts'.

    What exclude_modules or target_modules leave out is counted too [RL models/automodel/setup.py, lora_cfg].
    """
    h, d = a.hidden, a.d_inner
    mamba = (h + 2 * d + 2 * a.group_width + a.mamba_heads) + (d + h)
    attention = 2 * (h + a.q_width) + 2 * (h + a.kv_width)
    mlp = (2 + a.gated) * (h + a.intermediate)
    sizes = {"M": mamba, "*": attention, MLP: mlp, MOE: 2 * (h + a.shared_width)}
    experts = a.count(MOE) * a.experts * 2 * (h + a.expert_width)
    return rank * sum(sizes[kind] for kind in a.layers), rank * experts


def adapter_state(job: Job) -> Range:
    """Weights, gradients and optimizer state of adapters, 16 bytes each (derived); base weights have neither gradient
    nor state then. None of them at the least, as for experts that the backend gives no adapters.

    FSDP2 shards adapters as it does the weights that they belong to. Megatron has those of a rank's own stage (taken as
    an equal part) and experts, divided over TP, or whole at the most.
    """
    n = job.layout
    dense, experts = adapters(job.architecture, job.lora)
    if n.backend == FSDP2:
        shards = max(job.world // (n.tensor * n.replicate), 1)
        each = 16.0 * (dense / shards + experts / (job.world // n.replicate if n.expert > 1 else shards))
        return Range(0.0, each, each)
    most = 16.0 * (dense + experts / (n.expert * n.expert_tensor)) / n.pipeline
    return Range(0.0, most / n.tensor, most)
