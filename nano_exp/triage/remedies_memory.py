"""Remedies for the memory of GPUs: the training backends' and vLLM's."""

from __future__ import annotations

import re

from nano_exp.triage.knobs import Knobs
from nano_exp.triage.remedies import either, remedy
from nano_exp.triage.signs import Reading

# --- GPU memory -----------------------------------------------------------------------------------------------------


@remedy("cuda_oom")
def cuda_oom(knobs: Knobs, reading: Reading, phase: str) -> str:
    if phase == "conversion":
        return conversion(knobs)
    if phase == "generation":
        return generation(knobs)
    if phase == "refit":
        return either(
            generation_share(knobs),
            knobs.env("NRL_REFIT_BUFFER_MEMORY_RATIO", "0.1") + " (of the free memory for the weights' buffer; 0.3)",
            more_shards(knobs),
        )
    if phase == "logprob":
        return either(logprob_batch(knobs), logprob_chunks(knobs), more_shards(knobs), shorter(knobs))
    if logits_alone(knobs, reading):
        return either(train_batch(knobs), more_shards(knobs), shorter(knobs))
    return either(
        recompute(knobs),
        train_batch(knobs),
        offload(knobs),
        more_shards(knobs),
        shorter(knobs),
        "cluster=2n8g" if knobs.nodes == 1 else "more nodes",
    )


@remedy("gpu_shared")
def gpu_shared(knobs: Knobs, reading: Reading, phase: str) -> str:
    """Where it is known what is free: a share that fits beside it, if vLLM is to run there all the same."""
    free = reading.subject if re.fullmatch(r"0\.\d+", reading.subject) and float(reading.subject) >= 0.05 else ""
    return either(
        "launch again where nothing else uses the GPUs (`nvidia-smi` on the node lists what does)",
        knobs.set(f"{_VLLM}.gpu_memory_utilization", float(free)) + " beside it" if free else "",
    )


#: Vocabularies of models, smallest and largest: a tensor of micro batch x length x so many is their logits.
VOCABULARY = (16_000, 300_000)


def logits_alone(knobs: Knobs, reading: Reading) -> bool:
    """Whether the tensor that did not fit is the logits of a micro batch in fp32: one tensor, of which neither
    recomputing nor offloading frees anything."""
    request = re.search(r"tried to allocate ([\d.]+) GiB", reading.detail)
    size, length = knobs.whole("policy.train_micro_batch_size"), knobs.whole("policy.max_total_sequence_length")
    if not request or not size or not length or not float(request[1]) >= 16:
        return False
    return VOCABULARY[0] <= float(request[1]) * 2**30 / (4 * size * length) <= VOCABULARY[1]


def recompute(knobs: Knobs) -> str:
    """Recomputing activations in the backward pass: the cheapest memory there is."""
    if not knobs.backend or knobs.get(f"policy.{knobs.backend}.activation_checkpointing"):
        return ""
    return knobs.set(f"policy.{knobs.backend}.activation_checkpointing", True)


def train_batch(knobs: Knobs) -> str:
    """A smaller micro batch. NeMo RL wants the logprob batch equal to it from tensor parallel 4 on (it is refused
    otherwise), so both are given; with less, a smaller logprob batch stays as it is. Packing and dynamic batching
    count tokens instead."""
    for mode in ("dynamic_batching", "sequence_packing"):
        if knobs.get(f"policy.{mode}.enabled"):
            return mb_tokens(knobs, mode, "train_mb_tokens")
    size = knobs.whole("policy.train_micro_batch_size")
    if size is None or size <= 1:
        return ""
    return micro_batches(knobs, smaller_divisor(size))


def micro_batches(knobs: Knobs, size: int) -> str:
    both = [knobs.set("policy.train_micro_batch_size", size)]
    now = knobs.whole("policy.logprob_batch_size")
    if now != size and (knobs.tensor_parallel >= 4 or now is None or now > size):
        both.append(knobs.set("policy.logprob_batch_size", size))
    return " ".join(both)


def mb_tokens(knobs: Knobs, mode: str, key: str) -> str:
    """Half the tokens of a micro batch, but never less than one sequence."""
    tokens, longest = knobs.whole(f"policy.{mode}.{key}"), knobs.whole("policy.max_total_sequence_length")
    if not tokens or not longest or tokens <= longest:
        return ""
    return knobs.set(f"policy.{mode}.{key}", max(tokens // 2, longest))


def smaller_divisor(size: int) -> int:
    """The largest proper divisor, so that what was divisible by `size` stays divisible."""
    return next((d for d in range(size // 2, 0, -1) if size % d == 0), 1)


def logprob_batch(knobs: Knobs) -> str:
    for mode in ("dynamic_batching", "sequence_packing"):
        if knobs.get(f"policy.{mode}.enabled"):
            return mb_tokens(knobs, mode, "logprob_mb_tokens")
    size = knobs.whole("policy.logprob_batch_size")
    if size is None or size <= 1:
        return ""
    less = smaller_divisor(size)
    if knobs.tensor_parallel >= 4 and knobs.whole("policy.train_micro_batch_size") != less:
        return micro_batches(knobs, less)
    return knobs.set("policy.logprob_batch_size", less)


def logprob_chunks(knobs: Knobs) -> str:
    """Logits of 1024 tokens at a time; Megatron must then defer their conversion to fp32."""
    if knobs.get("policy.logprob_chunk_size"):
        return ""
    overrides = knobs.set("policy.logprob_chunk_size", 1024)
    if knobs.backend == "megatron_cfg" and not knobs.get("policy.megatron_cfg.defer_fp32_logits"):
        overrides += " " + knobs.set("policy.megatron_cfg.defer_fp32_logits", True)
    return overrides


def offload(knobs: Knobs) -> str:
    """Optimizer state, and with DTensor parameters too, in host memory. dtensor_cfg.cpu_offload does nothing for
    Megatron, and is refused on one GPU."""
    if knobs.backend == "dtensor_cfg":
        if knobs.get("policy.dtensor_cfg.cpu_offload") or knobs.gpus <= 1:
            return ""
        return knobs.set("policy.dtensor_cfg.cpu_offload", True)
    key = "policy.megatron_cfg.optimizer"
    if knobs.backend != "megatron_cfg" or knobs.get(f"{key}.optimizer_cpu_offload"):
        return ""
    return f"{knobs.set(f'{key}.optimizer_cpu_offload', True)} {knobs.set(f'{key}.optimizer_offload_fraction', 1.0)}"


def more_shards(knobs: Knobs) -> str:
    """Twice the tensor parallelism, where a node has the GPUs for it and the batches still divide."""
    tp, key = knobs.tensor_parallel, knobs.tensor_parallel_key
    if not key or tp * 2 > knobs.gpus_per_node or knobs.gpus % (tp * 2 * knobs.other_parallel):
        return ""
    overrides = knobs.set(key, tp * 2)
    size, logprob = knobs.whole("policy.train_micro_batch_size"), knobs.whole("policy.logprob_batch_size")
    if tp * 2 >= 4 and size and logprob and size != logprob:
        overrides += " " + knobs.set("policy.logprob_batch_size", size)
    return overrides


def shorter(knobs: Knobs) -> str:
    longest = knobs.whole("policy.max_total_sequence_length")
    return knobs.set("policy.max_total_sequence_length", longest // 2) if longest and longest >= 1024 else ""


def conversion(knobs: Knobs) -> str:
    """The first start builds the whole model in Megatron's layout; what it writes serves any later layout."""
    wider = more_shards(knobs)
    start = f"convert once with {wider}" if wider else "convert once on more GPUs (cluster=2n8g)"
    return (
        f"{start} grpo.max_num_steps=1: the conversion is kept in HF_HOME/nemo_rl and serves every layout; "
        "remove the model's half-written folder there first"
    )


# --- vLLM -----------------------------------------------------------------------------------------------------------

_VLLM = "policy.generation.vllm_cfg"
_SEQS = "policy.generation.vllm_kwargs.max_num_seqs"


def generation_share(knobs: Knobs, step: float = 0.1) -> str:
    """A smaller share of each GPU for vLLM: weights, cache and graphs must still fit."""
    now = knobs.real(f"{_VLLM}.gpu_memory_utilization", None)
    if now is None or now - step < 0.3:
        return ""
    return knobs.set(f"{_VLLM}.gpu_memory_utilization", round(now - step, 2))


def fewer_sequences(knobs: Knobs, at_most: int | None = None) -> str:
    now = knobs.whole(_SEQS)
    if at_most is not None:
        return knobs.set(_SEQS, at_most)
    return knobs.set(_SEQS, (now or 512) // 2) if now is None or now >= 32 else ""


def generation(knobs: Knobs) -> str:
    return either(generation_share(knobs), fewer_sequences(knobs), wider_vllm(knobs))


def wider_vllm(knobs: Knobs) -> str:
    tp = knobs.whole(f"{_VLLM}.tensor_parallel_size") or 1
    pp = knobs.whole(f"{_VLLM}.pipeline_parallel_size") or 1
    if tp * 2 * pp > knobs.gpus_per_node or knobs.gpus_per_node % (tp * 2 * pp):
        return ""
    return knobs.set(f"{_VLLM}.tensor_parallel_size", tp * 2)


def larger_share(knobs: Knobs) -> str:
    now = knobs.real(f"{_VLLM}.gpu_memory_utilization", None)
    if now is None or now >= 0.9:
        return ""
    return knobs.set(f"{_VLLM}.gpu_memory_utilization", round(min(now + 0.1, 0.9), 2))


@remedy("vllm_mamba_blocks")
def mamba_blocks(knobs: Knobs, reading: Reading, phase: str) -> str:
    """Each sequence holds one block of Mamba state, so the blocks are the limit."""
    blocks = int(reading.subject) if reading.subject.isdecimal() else None
    return either(fewer_sequences(knobs, blocks), larger_share(knobs), wider_vllm(knobs))


@remedy("vllm_no_kv_cache")
def no_kv_cache(knobs: Knobs, reading: Reading, phase: str) -> str:
    fits = int(reading.subject) if reading.subject.isdecimal() else 0
    short = knobs.set(f"{_VLLM}.max_model_len", fits) if fits >= 256 else ""
    return either(larger_share(knobs), wider_vllm(knobs), short)


@remedy("vllm_dead")
def vllm_dead(knobs: Knobs, reading: Reading, phase: str) -> str:
    return either(f"read the lines of EngineCore before its end{knobs.logs()}", generation_share(knobs))


@remedy("tool_parser")
def tool_parser(knobs: Knobs, reading: Reading, phase: str) -> str:
    plugin = knobs.get(f"{_VLLM}.tool_parser_plugin")
    name = knobs.set(f"{_VLLM}.tool_parser_plugin", "/path/to/parser.py")
    if plugin:
        return f"{plugin} must import in this vLLM and register the parser: {name} names another"
    return f"{name} with a file that imports in this vLLM (the one of August 2025 does not: vllm-project/vllm#42065)"
