"""What NeMo RL finds out only after the first full rollout, hours into the allocation (batched_data_dict.py and the
workers). Its setup accepts all of these."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View, divisor, product

PROMPTS, GENERATIONS = "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"
GBS, MBS, LBS = "policy.train_global_batch_size", "policy.train_micro_batch_size", "policy.logprob_batch_size"
DIVISIBLE, LENGTH = "policy.make_sequence_length_divisible_by", "policy.max_total_sequence_length"
ROUND = "policy.dynamic_batching.sequence_length_round"
LATE = "found out after the first rollout: "


@rule(26)
def whole_global_batches(c: View) -> Iterator[Found]:
    """A rollout is a whole number of global batches."""
    if c.rollout is None or c.gbs is None or c.rollout % c.gbs == 0:
        return
    yield Found(
        (GBS, PROMPTS, GENERATIONS),
        f"{LATE}a step's {c.prompts} x {c.generations} = {c.rollout} sequences are cut into global batches of {c.gbs}, "
        "and some are left over",
        f"{GBS}={c.rollout} (one update a rollout)"
        + (f", or {GBS}={fit}" if 1 < (fit := divisor(c.rollout, c.gbs)) < c.rollout else ""),
    )


def _next_multiple(number: int, of: int) -> int:
    return -(-number // of) * of


@rule(27)
def batches_divide_ranks(c: View) -> Iterator[Found]:
    """Global batch and rollout are shared equally by the data parallel ranks."""
    if c.dp is None:
        return
    where = f"{c.world} GPUs with {c.tp_key}={c.tp} are {c.dp} data parallel ranks"
    if c.gbs is not None and c.gbs % c.dp:
        fit = _next_multiple(c.gbs, c.dp)
        yield Found(
            (GBS, c.tp_key),
            f"{LATE}{where}, which do not share {c.gbs} sequences equally",
            f"{GBS}={fit} (a divisor of {PROMPTS} x {GENERATIONS}), or another number of GPUs",
        )
    if c.rollout is not None and c.rollout % c.dp:
        prompts = _next_multiple(c.prompts or 1, c.dp // math.gcd(c.dp, c.generations or 1))
        yield Found(
            (PROMPTS, GENERATIONS, c.tp_key),
            f"{LATE}{where}, which do not share a rollout of {c.rollout} sequences equally",
            f"{PROMPTS}={prompts}, or {GENERATIONS}={_next_multiple(c.generations or 1, c.dp)}",
        )


@rule(28)
def whole_micro_batches(c: View) -> Iterator[Found]:
    """Without packing and dynamic batching a rank's share is a whole number of micro batches."""
    if c.packing or c.dynamic or c.dp is None:
        return
    if c.gbs is not None and c.mbs is not None and c.gbs % c.dp == 0 and c.gbs // c.dp % c.mbs:
        share = c.gbs // c.dp
        yield Found(
            (GBS, MBS, c.tp_key),
            f"{LATE}each of {c.dp} data parallel ranks has {share} sequences of a global batch, not a whole number of "
            f"micro batches of {c.mbs}",
            f"{MBS}={divisor(share, c.mbs)}",
        )
    if c.rollout is not None and c.lbs is not None and c.rollout % c.dp == 0 and c.rollout // c.dp % c.lbs:
        share = c.rollout // c.dp
        yield Found(
            (LBS, PROMPTS, GENERATIONS, c.tp_key),
            f"{LATE}each of {c.dp} data parallel ranks has {share} sequences of a rollout, not a whole number of "
            f"log-probability batches of {c.lbs}",
            f"{LBS}={divisor(share, c.lbs)}",
        )


@rule(29, versions=">=v0.6.0")
def filtered_sampling_and_tensor_parallel(c: View) -> Iterator[Found]:
    """Log probabilities of filtered sampling are spread over the tensor parallel ranks by tokens."""
    top_p, top_k = c.get("policy.generation.top_p"), c.number("policy.generation.top_k")
    filtered = (isinstance(top_p, int | float) and 0 < top_p < 1) or (top_k is not None and top_k >= 1)
    multiple = c.number(DIVISIBLE)
    if not filtered or c.tp is None or c.tp < 2 or multiple is None or multiple < 1:
        return
    keys = ("policy.generation.top_p", "policy.generation.top_k", c.tp_key, DIVISIBLE)
    fix = f"{DIVISIBLE}={_next_multiple(multiple, c.tp)}"
    # With packing and dynamic batching a micro batch may be one row.
    rows = (1,) if c.packing or c.dynamic else (c.mbs or 1, c.lbs or 1)
    if not any(batch * multiple % c.tp for batch in rows):
        return
    rounded = c.number(ROUND) if c.dynamic else None
    if rounded is not None and rounded % c.tp == 0:
        yield Found(
            keys,
            f"{LATE}a micro batch's tokens must be a multiple of the tensor parallel size {c.tp}; dynamic batching "
            f"rounds them up to multiples of {rounded}, but for the longest sequence of a batch, whose length is only "
            f"padded to a multiple of {multiple}",
            fix,
            severity="warning",
        )
        return
    yield Found(
        keys,
        f"{LATE}a micro batch's tokens must be a multiple of the tensor parallel size {c.tp}, and lengths are only "
        f"padded to multiples of {multiple}",
        fix,
    )


def packed_parts(c: View) -> int | None:
    """Equal parts that Megatron cuts a packed sequence into."""
    if c.cp is None or c.tp is None:
        return None
    sequence_parallel = c.tp > 1 and c.on("policy.megatron_cfg.sequence_parallel")
    return product(2 * c.cp if c.cp > 1 else 1, c.tp if sequence_parallel else 1)


@rule(30, versions=">=v0.6.0")
def packing_alignment(c: View) -> Iterator[Found]:
    """Megatron cuts each packed sequence into equal parts for context and sequence parallel."""
    multiple = c.number(DIVISIBLE)
    parts = packed_parts(c)
    if not c.megatron or not c.packing or multiple is None:
        return
    if parts is not None and multiple % parts:
        yield Found(
            (DIVISIBLE, "policy.megatron_cfg.context_parallel_size", c.tp_key, "policy.megatron_cfg.sequence_parallel"),
            f"{LATE}a packed sequence is cut into {parts} equal parts (2 x context parallel above 1, times tensor "
            "parallel with sequence parallel), so its length must be a multiple of that",
            f"{DIVISIBLE}={_next_multiple(max(multiple, 1), parts)}",
        )


@rule(30, severity="warning")
def packing_room(c: View) -> Iterator[Found]:
    """A micro batch that is packed, or dynamic, has room for the longest sequence.

    Dynamic batching pads a sequence to sequence_length_round, but never beyond the batch's own width, and then has
    `assert max_seqlen_this_shard_indice <= max_tokens_per_microbatch` (batched_data_dict.py, all versions). A warning,
    as recipes of NVIDIA's count on answers that stay shorter.
    """
    longest, multiple = c.number(LENGTH), c.number(DIVISIBLE) or 1
    if not (c.packing or c.dynamic) or longest is None:
        return
    padded = _next_multiple(longest, max(1, multiple))
    if c.packing:
        kind = "sequence_packing"
    else:
        kind = "dynamic_batching"
        padded = min(padded, _next_multiple(longest, max(1, c.number(ROUND) or 1)))
    names = ["train_mb_tokens", "logprob_mb_tokens"]
    if c.on("loss_fn.force_on_policy_ratio") and c.on("grpo.skip_reference_policy_logprobs_calculation"):
        names.pop()  # no log probabilities are computed beside the training's
    for name in names:
        key = f"policy.{kind}.{name}"
        room = c.number(key)
        if room is not None and room < padded:
            yield Found(
                (key, LENGTH),
                f"found out when such a sequence comes, hours into the run: one may have {padded} tokens with its "
                f"padding, and a micro batch holds {room}",
                f"{key}={padded}",
            )


@rule()
def dynamic_sampling_batches(c: View) -> Iterator[Found]:
    """Dynamic sampling may generate at least one batch a step.

    `assert dynamic_sampling_max_gen_batches > 0` (grpo.py, dynamic_sampling, all versions), which is only reached by a
    step that has too few prompts with a spread of rewards.
    """
    key = "grpo.dynamic_sampling_max_gen_batches"
    if not c.on("grpo.use_dynamic_sampling"):
        return
    if not c.has(key):
        yield Found(
            ("grpo.use_dynamic_sampling",),
            f"{LATE}NeMo RL reads {key} without a default, at the first step that has too few prompts whose rewards "
            "differ",
            f"++{key}=10",
        )
    elif (limit := c.number(key)) is not None and limit < 1:
        yield Found(
            (key, "grpo.use_dynamic_sampling"),
            f"{LATE}NeMo RL asserts that it is above 0 at the first step that has too few prompts whose rewards differ",
            f"{key}=10",
        )


@rule(versions=">=v0.7.0")
def penalties_need_gym(c: View) -> Iterator[Found]:
    """Penalties for invalid tool calls and malformed thinking are given by what NeMo Gym reports.

    `assert _should_use_nemo_gym(master_config)` in _resolve_message_level_advantage_penalties (grpo.py).
    """
    for name in ("invalid_tool_call_advantage", "malformed_thinking_advantage"):
        key = f"grpo.{name}"
        if not c.gym and c.get(key) is not None:
            yield Found(
                (key, "env.should_use_nemo_gym"),
                f"{LATE}which messages are invalid is known from NeMo Gym alone, and NeMo RL asserts that it is used",
                f"{key}=null",
            )
