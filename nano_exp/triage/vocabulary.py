"""Every cause that a diagnosis can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fault = Literal["infrastructure", "config", "code", "user", "unknown"]


@dataclass(frozen=True)
class Cause:
    """A cause.

    Parameters
    ----------
    name: its word in records and filters
    title: what a table shows
    fault: whose: only infrastructure's may be retried without being asked
    echo: what others' faults look like from here (a worker that vanished): anything with a reason of its own wins
    outside: it also happens to processes that are killed from outside; not believed when Slurm ended the job
    blames_node: the next attempt should avoid the node
    weak: a warning that is often survived: believed only where set-up never ended, and nothing else says why
    """

    name: str
    title: str
    fault: Fault
    echo: bool = False
    outside: bool = False
    blames_node: bool = False
    weak: bool = False


_TABLE = (
    # The machine. Where nothing says what came first, an earlier row wins over a later one.
    Cause("gpu_lost", "a GPU failed", "infrastructure", blames_node=True),
    Cause("gpu_ecc", "a GPU has memory errors (ECC)", "infrastructure", blames_node=True),
    Cause("fabric", "NVLink or its fabric manager failed", "infrastructure", blames_node=True),
    Cause("cuda_init", "CUDA does not start on a node", "infrastructure", blames_node=True),
    Cause("stale_files", "the file system dropped its files", "infrastructure", blames_node=True),
    Cause("node_limits", "a node's limit of open files or processes is reached", "infrastructure", blames_node=True),
    # Memory.
    Cause("cuda_oom", "CUDA out of memory", "config"),
    Cause("vllm_mamba_blocks", "vLLM: max_num_seqs exceeds the Mamba cache blocks", "config"),
    Cause("vllm_no_kv_cache", "vLLM: no memory is left for the KV cache", "config"),
    Cause("host_oom", "out of host memory", "config"),
    # Places.
    Cause("disk_full", "no space left on a disk", "user"),
    Cause("quota", "disk quota exceeded", "user"),
    # What was asked for.
    Cause("tool_parser", "vLLM cannot load the tool parser", "user"),
    Cause("token_invalid", "a token is missing or refused", "user"),
    Cause("model_gated", "the model is gated: its terms are not accepted", "user"),
    Cause("model_missing", "the model was not found", "user"),
    Cause("wandb_refused", "W&B refused the run", "user"),
    Cause("data_missing", "a data file or data set was not found", "user"),
    Cause("config_refused", "the engine refused the config", "config"),
    Cause("no_steps", "the training data give not a single batch", "config"),
    Cause("nan", "NaN in the loss or the gradients", "config"),
    Cause("cuda_assert", "a CUDA kernel's assertion failed", "code"),
    Cause("cuda_error", "a CUDA kernel failed", "code"),
    Cause("ray_mismatch", "Ray or Python differ between nodes", "user"),
    Cause("import_error", "a Python package is missing or broken", "user"),
    Cause("no_program", "a program was not found", "user"),
    Cause("permission", "permission denied", "user"),
    Cause("file_missing", "a file was not found", "user"),
    Cause("node_setup", "the site's set-up lines failed on a node", "user"),
    Cause("container", "a container did not start", "user"),
    Cause("step_refused", "Slurm refused to make a step", "user"),
    # The cluster.
    Cause("step_failed", "Slurm could not start a step on a node", "infrastructure", blames_node=True),
    Cause("rate_limited", "a server refused further requests for now (HTTP 429)", "infrastructure"),
    Cause("wandb_service", "W&B's own process on the node did not start", "infrastructure"),
    Cause("wandb_unreachable", "W&B could not be reached", "infrastructure"),
    Cause("port_in_use", "a port is in use", "infrastructure", blames_node=True),
    Cause("ray_resources", "Ray did not get the GPUs or CPUs", "infrastructure"),
    Cause("ray_head_lost", "Ray's head is lost", "infrastructure", outside=True),
    Cause("ray_node_lost", "a Ray node is lost", "infrastructure", outside=True, blames_node=True),
    Cause("nccl_timeout", "NCCL: a collective timed out", "infrastructure"),
    Cause("nccl_error", "NCCL failed", "infrastructure", outside=True),
    Cause("segfault", "a process crashed", "code", outside=True),
    # Echoes: something else did it, and nothing says what.
    Cause("network", "a server could not be reached", "infrastructure", echo=True),
    Cause("peer_timeout", "a process waited too long for the others", "infrastructure", echo=True, outside=True),
    Cause("nccl_peer_lost", "NCCL lost a peer", "infrastructure", echo=True, outside=True),
    Cause("vllm_dead", "vLLM's engine died", "unknown", echo=True, outside=True),
    Cause("gym_server", "a NeMo Gym server died or failed", "unknown", echo=True, outside=True),
    Cause("ray_start", "Ray's workers did not start in time", "infrastructure", echo=True, weak=True),
    Cause("ray_worker_lost", "a Ray worker vanished", "infrastructure", echo=True, outside=True),
    Cause("killed", "killed without a word", "infrastructure", echo=True, outside=True),
    # Slurm's word, or a signal.
    Cause("time_limit", "the allocation's time limit", "infrastructure"),
    Cause("preempted", "preempted by another job", "infrastructure"),
    Cause("requeued", "Slurm started the job again", "infrastructure"),
    Cause("node_fail", "a node failed", "infrastructure", blames_node=True),
    Cause("stalled", "no new step for many times the usual", "infrastructure"),
    Cause("cancelled", "cancelled", "user"),
    Cause("stopped", "stopped by a signal", "unknown"),
    Cause("unknown", "unknown", "unknown"),
    Cause("none", "no fault found", "unknown"),
)

CAUSES: dict[str, Cause] = {cause.name: cause for cause in _TABLE}
#: Name -> place in the table.
ORDER: dict[str, int] = {cause.name: i for i, cause in enumerate(_TABLE)}

PHASES: dict[str, str] = {
    "train": "in the training step",
    "logprob": "while computing logprobs",
    "generation": "in generation",
    "refit": "while vLLM took over the weights (refit)",
    "conversion": "while converting the Hugging Face weights to Megatron's format",
    "setup": "during set-up",
    "data": "while reading data",
    "checkpoint": "at a checkpoint",
    "unknown": "",
}
