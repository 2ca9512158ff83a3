"""How a model is laid over GPUs.

`Layout` is a value; `of_config` reads it from a resolved config and `overrides` writes it as overrides of launch.py.
Which layouts are valid is said by `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nano_exp.dotted import Config

MEGATRON, FSDP2 = "megatron", "fsdp2"
FIXED, PACKED, DYNAMIC = "fixed", "packed", "dynamic"
NONE, FULL, SELECTIVE = "none", "full", "selective"
_M, _D = "policy.megatron_cfg", "policy.dtensor_cfg"


@dataclass(frozen=True)
class Layout:
    """One layout of the training part.

    Parameters
    ----------
    backend: megatron or fsdp2 (NeMo RL's DTensor)
    recompute: activations recomputed in the backward pass: none, full, selective (of `modules`)
    offload: Megatron: optimizer state on the host; fsdp2: weights, gradients and optimizer state
    fraction: Megatron: the part of the optimizer state that `offload` is about
    batching: micro batches of `micro_batch` padded sequences, packed sequences, or as many as fit the tokens (dynamic)
    micro_batch, logprob_batch: sequences
    train_tokens, logprob_tokens: tokens of a micro batch of training and of a log-probability pass, before context
        parallel: micro_batch x longest sequence, or the limit of packing and dynamic batching
    force_hf: fsdp2: Hugging Face's modules instead of NeMo Automodel's own
    replicate: fsdp2: copies of the sharded model (dp_replicate_size)
    first_stage, last_stage: layers of those pipeline stages, where they are not an even part
    padding: lengths are padded to multiples of it (make_sequence_length_divisible_by); None: of what it needs. Memory
        and time do not depend on this and what follows, so they do not set layouts apart
    second_worker: fsdp2: DTensor's second worker trains (_v2)
    also_dynamic: dynamic batching is on beside packing
    """

    backend: str
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    sequence_parallel: bool = False
    recompute: str = NONE
    modules: tuple[str, ...] = ()
    offload: bool = False
    fraction: float = 1.0
    batching: str = FIXED
    micro_batch: int = 1
    logprob_batch: int = 1
    train_tokens: int = 0
    logprob_tokens: int = 0
    force_hf: bool = False
    replicate: int = 1
    first_stage: int | None = None
    last_stage: int | None = None
    padding: int | None = field(default=None, compare=False)
    second_worker: bool = field(default=True, compare=False)
    also_dynamic: bool = field(default=False, compare=False)

    @property
    def section(self) -> str:
        """The dotted key of its backend's section."""
        return _M if self.backend == MEGATRON else _D

    def key(self, kind: str) -> str:
        """The dotted key of a size: of `tensor`, `pipeline`, `context`, `expert` or `expert_tensor`."""
        middle = "" if self.backend == FSDP2 or kind in ("context", "expert_tensor") else "model_"
        return f"{self.section}.{kind}_{middle}parallel_size"

    @property
    def model_parallel(self) -> int:
        """Ranks that one replica of the dense part and one sequence are spread over."""
        return self.tensor * self.pipeline * self.context

    @property
    def offloaded(self) -> float:
        """The part of Megatron's optimizer state that is on the host."""
        return min(max(self.fraction, 0.0), 1.0) if self.offload else 0.0

    def title(self) -> str:
        """`megatron tp2 pp2 ep8 recompute, 1 x 8192`: what sets it apart, sizes of 1 left out."""
        sizes = (("tp", self.tensor), ("pp", self.pipeline), ("cp", self.context), ("ep", self.expert))
        words = [self.backend, *(f"{name}{size}" for name, size in sizes if size > 1)]
        words += ["recompute"] * (self.recompute == FULL) + ["selective"] * (self.recompute == SELECTIVE)
        words += ["offload"] * self.offload + [self.batching] * (self.batching != FIXED)
        return " ".join(words)


#: What a layout counts, beside the sizes of its backend.
_COUNTS = ("policy.train_micro_batch_size", "policy.logprob_batch_size")
_SIZES = {
    MEGATRON: ("tensor", "pipeline", "context", "expert", "expert_tensor"),
    FSDP2: ("tensor", "context", "expert"),
}


def backend_of(config: Mapping[str, Any]) -> str | None:
    """The backend that trains; None where none is on."""
    settings = Config(config)
    if settings.on(f"{_M}.enabled"):
        return MEGATRON
    return FSDP2 if settings.on(f"{_D}.enabled") else None


def is_counted(config: Mapping[str, Any], backend: str) -> bool:
    """Whether each size of a backend's layout is a whole number from 1 on, where it is there."""
    settings = Config(config)
    keys = [Layout(backend).key(kind) for kind in _SIZES[backend]]
    return all(settings.get(key) is None or settings.count(key, 0) for key in (*keys, *_COUNTS))


#: Every key that `overrides` may write, `parallelism` aside.
KEYS = (
    f"{_M}.tensor_model_parallel_size",
    f"{_M}.pipeline_model_parallel_size",
    f"{_M}.context_parallel_size",
    f"{_M}.expert_model_parallel_size",
    f"{_M}.sequence_parallel",
    f"{_M}.activation_checkpointing",
    f"{_M}.optimizer.optimizer_cpu_offload",
    f"{_M}.optimizer.optimizer_offload_fraction",
    f"{_D}.expert_parallel_size",
    f"{_D}.activation_checkpointing",
    f"{_D}.cpu_offload",
    "policy.sequence_packing.enabled",
    "policy.dynamic_batching.enabled",
    "policy.make_sequence_length_divisible_by",
    "policy.train_micro_batch_size",
    "policy.logprob_batch_size",
)


# --- reading and writing --------------------------------------------------------------------------------------------


def of_config(config: Mapping[str, Any], max_length: int | None = None) -> Layout:
    """The layout of a resolved config.

    Parameters
    ----------
    max_length: longest sequence, tokens; default policy.max_total_sequence_length
    """
    policy = Config(config).section("policy")
    length = max_length or policy.count("max_total_sequence_length", 1)
    micro, logprob = policy.count("train_micro_batch_size", 1), policy.count("logprob_batch_size", 1)
    packed, dynamic = policy.on("sequence_packing.enabled"), policy.on("dynamic_batching.enabled")
    batching = PACKED if packed else DYNAMIC if dynamic else FIXED
    limit = {PACKED: "sequence_packing", DYNAMIC: "dynamic_batching"}.get(batching)
    tokens = [micro * length, logprob * length]
    if limit:
        tokens = [
            policy.count(f"{limit}.{key}_mb_tokens", default)
            for key, default in zip(("train", "logprob"), tokens, strict=True)
        ]
    common: dict[str, Any] = {
        "batching": batching,
        "micro_batch": micro,
        "logprob_batch": logprob,
        "train_tokens": tokens[0],
        "logprob_tokens": tokens[1],
        "padding": policy.count("make_sequence_length_divisible_by", 0) or None,
        "also_dynamic": packed and dynamic,
    }
    if policy.on("megatron_cfg.enabled"):
        return _megatron(policy, common)
    d = policy.section("dtensor_cfg")
    return Layout(
        FSDP2,
        tensor=d.count("tensor_parallel_size", 1),
        context=d.count("context_parallel_size", 1),
        expert=d.count("expert_parallel_size", 1),
        sequence_parallel=d.on("sequence_parallel"),
        recompute=FULL if d.on("activation_checkpointing") else NONE,
        offload=d.on("cpu_offload"),
        force_hf=d.on("automodel_kwargs.force_hf"),
        replicate=d.count("dp_replicate_size", 1),
        second_worker=d.on("_v2"),
        **common,
    )


def _megatron(policy: Config, common: dict[str, Any]) -> Layout:
    m = policy.section("megatron_cfg")
    offload = m.on("optimizer.optimizer_cpu_offload")
    recompute, modules = NONE, tuple[str, ...]()
    if m.on("activation_checkpointing"):
        recompute = SELECTIVE if m.text("recompute_granularity") == SELECTIVE else FULL
        modules = _words(m.get("recompute_modules")) if recompute == SELECTIVE else ()
    pipeline = m.count("pipeline_model_parallel_size", 1)
    first, last = (
        m.count(f"num_layers_in_{which}_pipeline_stage", 0) if pipeline > 1 else 0 for which in ("first", "last")
    )
    return Layout(
        MEGATRON,
        tensor=m.count("tensor_model_parallel_size", 1),
        pipeline=pipeline,
        context=m.count("context_parallel_size", 1),
        expert=m.count("expert_model_parallel_size", 1),
        expert_tensor=m.count("expert_tensor_parallel_size", 1),
        sequence_parallel=m.on("sequence_parallel"),
        recompute=recompute,
        modules=modules,
        offload=offload,
        fraction=m.real("optimizer.optimizer_offload_fraction", 1.0) if offload else 1.0,
        first_stage=first or None,
        last_stage=last or None,
        **common,
    )


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, list) else ()


def packed_parts(layout: Layout) -> int:
    """Equal parts that Megatron cuts a packed sequence into."""
    parts = layout.tensor if layout.sequence_parallel else 1
    return parts * (2 * layout.context if layout.context > 1 else 1)


def padding(layout: Layout) -> int:
    """policy.make_sequence_length_divisible_by that a layout needs [RL: packing, and vocabulary-parallel sampling]."""
    return packed_parts(layout) if layout.batching == PACKED else layout.tensor


def data_parallel(layout: Layout, world: int) -> int:
    """Ranks with data of their own."""
    return max(world // layout.model_parallel, 1)


def overrides(layout: Layout) -> dict[str, Any]:
    """The layout as overrides of launch.py, key -> value, `parallelism` first: they compose to this layout."""
    if layout.backend == MEGATRON:
        keys: dict[str, Any] = {"parallelism": "backend/megatron"}
        for key, value in (
            ("tensor_model_parallel_size", layout.tensor),
            ("pipeline_model_parallel_size", layout.pipeline),
            ("context_parallel_size", layout.context),
            ("expert_model_parallel_size", layout.expert),
        ):
            if value != 1:
                keys[f"{_M}.{key}"] = value
        if layout.sequence_parallel:
            keys[f"{_M}.sequence_parallel"] = True
        if layout.recompute != NONE:
            keys[f"{_M}.activation_checkpointing"] = True
        if layout.offload:
            keys[f"{_M}.optimizer.optimizer_cpu_offload"] = True
            keys[f"{_M}.optimizer.optimizer_offload_fraction"] = layout.fraction
        if layout.batching == PACKED:
            keys["policy.sequence_packing.enabled"] = True
        if padding(layout) != 1:
            keys["policy.make_sequence_length_divisible_by"] = padding(layout)
    elif layout.expert > 1:
        keys = {"parallelism": "fsdp2_ep8"}
        if layout.expert != 8:
            keys[f"{_D}.expert_parallel_size"] = layout.expert
        if layout.recompute != NONE:
            keys[f"{_D}.activation_checkpointing"] = True
        if layout.offload:
            keys[f"{_D}.cpu_offload"] = True
    else:
        keys = {"parallelism": "fsdp2_offload" if layout.offload else "fsdp2"}
        if layout.recompute == NONE:
            keys[f"{_D}.activation_checkpointing"] = False
        if layout.batching != DYNAMIC:
            keys["policy.dynamic_batching.enabled"] = False
    keys["policy.train_micro_batch_size"] = layout.micro_batch
    keys["policy.logprob_batch_size"] = layout.logprob_batch
    return keys
