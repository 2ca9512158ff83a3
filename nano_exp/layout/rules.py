"""How a model is laid over GPUs, and which layouts are valid.

`Layout` is a value; `of_config` reads it from a resolved config and `overrides` writes it as overrides of launch.py.
The rules are pure functions, each with its source, that return "" for a valid layout and else why it is not; they know
nothing of memory. `problems` applies them all; preflight may call it, or single ones:

    problems(layout, architecture, shape)   every Problem(rule, key, why) of a layout on a cluster with a batch

Sources: MC = NVIDIA/Megatron-LM at the pins of NeMo RL v0.5.0-v0.7.0; RL = NVIDIA-NeMo/RL at v0.7.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nano_exp.dotted import Config
from nano_exp.layout.architecture import Architecture

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

    @property
    def model_parallel(self) -> int:
        """Ranks that one replica of the dense part and one sequence are spread over."""
        return self.tensor * self.pipeline * self.context

    @property
    def offloaded(self) -> float:
        """The part of Megatron's optimizer state that is on the host."""
        return self.fraction if self.offload else 0.0

    def title(self) -> str:
        """`megatron tp2 pp2 ep8 recompute, 1 x 8192`: what sets it apart, sizes of 1 left out."""
        sizes = (("tp", self.tensor), ("pp", self.pipeline), ("cp", self.context), ("ep", self.expert))
        words = [self.backend, *(f"{name}{size}" for name, size in sizes if size > 1)]
        words += ["recompute"] * (self.recompute == FULL) + ["selective"] * (self.recompute == SELECTIVE)
        words += ["offload"] * self.offload + [self.batching] * (self.batching != FIXED)
        return " ".join(words)


class Shape(NamedTuple):
    """What a layout is laid over: training GPUs, GPUs of a node, and the batch.

    Parameters
    ----------
    rollout: sequences of one step, grpo.num_prompts_per_step x num_generations_per_prompt
    version: NeMo RL's (major, minor)
    """

    world: int
    gpus_per_node: int
    rollout: int
    global_batch: int
    version: tuple[int, ...] = (0, 7, 0)


class Problem(NamedTuple):
    """Why a layout is not valid. `key`: the dotted key of NeMo RL that says it."""

    rule: str
    key: str
    why: str


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
            policy.count(f"{limit}.{key}_mb_tokens", given)
            for key, given in zip(("train", "logprob"), tokens, strict=True)
        ]
    common: dict[str, Any] = {
        "batching": batching,
        "micro_batch": micro,
        "logprob_batch": logprob,
        "train_tokens": tokens[0],
        "logprob_tokens": tokens[1],
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
        **common,
    )


def _megatron(policy: Config, common: dict[str, Any]) -> Layout:
    m = policy.section("megatron_cfg")
    recompute, modules = NONE, tuple[str, ...]()
    offload = m.on("optimizer.optimizer_cpu_offload")
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
        fraction=min(max(m.real("optimizer.optimizer_offload_fraction", 1.0), 0.0), 1.0) if offload else 1.0,
        first_stage=first or None,
        last_stage=last or None,
        **common,
    )


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in value) if isinstance(value, list) else ()


def divisor(layout: Layout) -> int:
    """policy.make_sequence_length_divisible_by that a layout needs [RL: packing, and vocabulary-parallel sampling]."""
    if layout.batching == PACKED:
        cp = 2 * layout.context if layout.context > 1 else 1
        return cp * (layout.tensor if layout.sequence_parallel else 1)
    return layout.tensor


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
        if divisor(layout) != 1:
            keys["policy.make_sequence_length_divisible_by"] = divisor(layout)
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


# --- rules ----------------------------------------------------------------------------------------------------------


def tensor_divides(a: Architecture, layout: Layout, version: tuple[int, ...]) -> str:
    """Heads, Mamba heads and groups over tensor parallel.

    MC core/ssm/mamba_mixer.py: heads and groups divide by TP. core/transformer/transformer_config.py: attention heads
    divide by TP; key-value heads too, or (core 0.16, from NeMo RL v0.6.0) TP is a multiple of them. DTensor shards only
    MLP and output layer of Nemotron-H, and heads of dense models [RL models/dtensor/parallelize.py].
    """
    tp = layout.tensor
    if tp == 1:
        return ""
    parts: list[tuple[str, int]] = []
    if layout.backend == MEGATRON or not a.hybrid:
        parts.append(("attention heads", a.heads))
        replicated = layout.backend == MEGATRON and version >= (0, 6) and tp % a.kv_heads == 0
        parts += [] if replicated else [("key-value heads", a.kv_heads)]
    if layout.backend == MEGATRON and a.hybrid:
        parts += [("Mamba heads", a.mamba_heads), ("Mamba groups", a.groups)]
    if a.intermediate:
        parts.append(("MLP width", a.intermediate))
    return "; ".join(f"{size} {what} do not divide by {tp}" for what, size in parts if size % tp)


def tensor_in_node(layout: Layout, gpus_per_node: int) -> str:
    """Tensor parallel across nodes works, at a multiple of the step time: it is not proposed, and not refused."""
    return f"tensor parallel {layout.tensor} leaves a node of {gpus_per_node}" if layout.tensor > gpus_per_node else ""


def sequence_parallel_matches(a: Architecture, layout: Layout) -> str:
    """MC model_parallel_config.py: sequence parallel needs TP > 1; core/transformer/moe/moe_layer.py: experts with
    TP > 1 need sequence parallel. RL: Nemotron-H on DTensor refuses it."""
    if layout.backend == FSDP2:
        return "Nemotron-H on DTensor has no sequence parallel" if layout.sequence_parallel and a.hybrid else ""
    if layout.sequence_parallel and layout.tensor == 1:
        return "sequence parallel needs tensor parallel greater than 1"
    if a.experts and layout.tensor > 1 and not layout.sequence_parallel:
        return "experts with tensor parallel need sequence parallel"
    return ""


def context_divides(a: Architecture, layout: Layout) -> str:
    """RL rule: Megatron's context parallel needs packed sequences. MC core/ssm/mamba_context_parallel.py: the Mamba
    heads of a tensor-parallel rank divide by CP; its groups divide by CP, or CP by them."""
    cp, tp = layout.context, layout.tensor
    if cp == 1:
        return ""
    if layout.backend == FSDP2:
        if layout.batching == PACKED:
            return "packed sequences and context parallel exclude each other on DTensor"
        return "Mamba layers have no context parallel on DTensor" if a.hybrid else ""
    if layout.batching != PACKED:
        return "context parallel needs sequence packing"
    if a.hybrid:
        if (a.mamba_heads // tp) % cp:
            return f"{a.mamba_heads // tp} Mamba heads of a tensor-parallel rank do not divide by {cp}"
        groups = max(a.groups // tp, 1)
        if groups % cp and cp % groups:
            return f"{groups} Mamba groups of a tensor-parallel rank and context parallel {cp} do not divide each other"
    return ""


def pipeline_divides(a: Architecture, layout: Layout) -> str:
    """MC core/ssm/mamba_block.py: the layer pattern is cut into equal stages."""
    pp, fixed = layout.pipeline, [n for n in (layout.first_stage, layout.last_stage) if n is not None]
    if pp == 1:
        return ""
    middle, rest = pp - len(fixed), len(a.layers) - sum(fixed)
    good = rest % middle == 0 if middle > 0 else middle == 0 and rest == 0
    return "" if good and rest >= 0 else f"{len(a.layers)} layers do not divide over {pp} stages"


def experts_divide(a: Architecture, layout: Layout) -> str:
    """MC core/transformer/moe/moe_layer.py: experts divide by EP. Automodel's experts at v0.5.0: no TP, no CP."""
    ep = layout.expert
    if ep == 1 and layout.expert_tensor == 1:
        return ""
    if not a.experts:
        return f"expert parallel {ep} for a model without experts"
    if a.experts % ep:
        return f"{a.experts} experts do not divide by {ep}"
    if layout.backend == FSDP2 and (layout.tensor > 1 or layout.context > 1):
        return "expert parallel on DTensor has neither tensor nor context parallel"
    if layout.backend == FSDP2 and layout.force_hf:
        return "Hugging Face's own modules (force_hf) have no expert parallel"
    return ""


def world_divides(layout: Layout, world: int) -> str:
    """RL rule: the training GPUs divide by TP x PP x CP. MC core/parallel_state.py: and by EP x ETP x PP."""
    needs = layout.model_parallel
    if world < needs or world % needs:
        return f"{world} training GPUs do not divide by TP x PP x CP = {needs}"
    experts = layout.expert * layout.expert_tensor * (layout.pipeline if layout.backend == MEGATRON else 1)
    return f"{world} training GPUs do not divide by EP x ETP x PP = {experts}" if world % experts else ""


def batch_divides(layout: Layout, shape: Shape) -> str:
    """RL rules, enforced after the first rollout: rollout by global batch, both by DP, and (without packing and dynamic
    batching) each rank's part by the micro batch."""
    dp = data_parallel(layout, shape.world)
    if shape.rollout % shape.global_batch:
        return f"a rollout of {shape.rollout} does not divide by the global batch {shape.global_batch}"
    if shape.global_batch % dp or shape.rollout % dp:
        return (
            f"global batch {shape.global_batch} and rollout {shape.rollout} do not divide by {dp} data-parallel ranks"
        )
    if layout.batching == FIXED:
        if (shape.global_batch // dp) % layout.micro_batch:
            return (
                f"{shape.global_batch // dp} sequences of a rank do not divide by the micro batch {layout.micro_batch}"
            )
        if (shape.rollout // dp) % layout.logprob_batch:
            return (
                f"{shape.rollout // dp} sequences of a rank do not divide by logprob_batch_size {layout.logprob_batch}"
            )
    return ""


def micro_batches_match(layout: Layout) -> str:
    """RL rule, for accuracy: from tensor parallel 4 on, training and log-probability micro batches are equal."""
    different = layout.tensor >= 4 and layout.micro_batch != layout.logprob_batch
    return "from tensor parallel 4 on, logprob_batch_size must be train_micro_batch_size" if different else ""


def batching_matches(layout: Layout) -> str:
    """RL rule: dynamic batching has no pipeline parallel."""
    return "dynamic batching has no pipeline parallel" if layout.batching == DYNAMIC and layout.pipeline > 1 else ""


def offload_possible(layout: Layout, world: int) -> str:
    """RL: DTensor's cpu_offload is refused on a single GPU."""
    return "cpu_offload needs more than one GPU" if layout.backend == FSDP2 and layout.offload and world == 1 else ""


def data_parallel(layout: Layout, world: int) -> int:
    """Ranks with data of their own."""
    return max(world // layout.model_parallel, 1)


def problems(layout: Layout, a: Architecture, shape: Shape) -> list[Problem]:
    """Every rule that a layout breaks; an empty list for a valid one."""
    own = _M if layout.backend == MEGATRON else _D
    middle = "model_parallel" if layout.backend == MEGATRON else "parallel"
    checks: tuple[tuple[Callable[[], str], str, str], ...] = (
        (lambda: tensor_divides(a, layout, shape.version), "tensor_divides", f"{own}.tensor_{middle}_size"),
        (lambda: sequence_parallel_matches(a, layout), "sequence_parallel_matches", f"{own}.sequence_parallel"),
        (lambda: context_divides(a, layout), "context_divides", f"{own}.context_parallel_size"),
        (lambda: pipeline_divides(a, layout), "pipeline_divides", f"{own}.pipeline_model_parallel_size"),
        (lambda: experts_divide(a, layout), "experts_divide", f"{own}.expert_{middle}_size"),
        (lambda: world_divides(layout, shape.world), "world_divides", f"{own}.tensor_{middle}_size"),
        (lambda: batch_divides(layout, shape), "batch_divides", "policy.train_global_batch_size"),
        (lambda: micro_batches_match(layout), "micro_batches_match", "policy.logprob_batch_size"),
        (lambda: batching_matches(layout), "batching_matches", "policy.dynamic_batching.enabled"),
        (lambda: offload_possible(layout, shape.world), "offload_possible", f"{_D}.cpu_offload"),
    )
    return [Problem(rule, key, why) for check, rule, key in checks if (why := check())]
