"""What NeMo RL finds out only after the first full rollout, hours into the allocation (batched_data_dict.py and the
workers). Its setup accepts all of these."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.layout.case import LATE, PADDING, ROUND
from nano_exp.layout.divisors import next_multiple
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

LENGTH = "policy.max_total_sequence_length"


@rule(30, severity="warning")
def packing_room(c: View) -> Iterator[Mistake]:
    """A micro batch that is packed, or dynamic, has room for the longest sequence.

    Dynamic batching pads a sequence to sequence_length_round, but never beyond the batch's own width, and then has
    `assert max_seqlen_this_shard_indice <= max_tokens_per_microbatch` (batched_data_dict.py, all versions). A warning,
    as recipes of NVIDIA's count on answers that stay shorter.
    """
    longest, multiple = c.number(LENGTH), c.number(PADDING) or 1
    if not (c.packing or c.dynamic) or longest is None:
        return
    padded = next_multiple(longest, max(1, multiple))
    if c.packing:
        kind = "sequence_packing"
    else:
        kind = "dynamic_batching"
        padded = min(padded, next_multiple(longest, max(1, c.number(ROUND) or 1)))
    names = ["train_mb_tokens", "logprob_mb_tokens"]
    if c.on("loss_fn.force_on_policy_ratio") and c.on("grpo.skip_reference_policy_logprobs_calculation"):
        names.pop()  # no log probabilities are computed beside the training's
    for name in names:
        key = f"policy.{kind}.{name}"
        room = c.number(key)
        if room is not None and room < padded:
            yield Mistake(
                (key, LENGTH),
                f"found out when such a sequence comes, hours into the run: one may have {padded} tokens with its "
                f"padding, and a micro batch holds {room}",
                f"{key}={padded}",
            )


@rule()
def dynamic_sampling_batches(c: View) -> Iterator[Mistake]:
    """Dynamic sampling may generate at least one batch a step.

    `assert dynamic_sampling_max_gen_batches > 0` (grpo.py, dynamic_sampling, all versions), which is only reached by a
    step that has too few prompts with a spread of rewards.
    """
    key = "grpo.dynamic_sampling_max_gen_batches"
    if not c.on("grpo.use_dynamic_sampling"):
        return
    if not c.has(key):
        yield Mistake(
            ("grpo.use_dynamic_sampling",),
            f"{LATE}NeMo RL reads {key} without a default, at the first step that has too few prompts whose rewards "
            "differ",
            f"++{key}=10",
        )
    elif (limit := c.number(key)) is not None and limit < 1:
        yield Mistake(
            (key, "grpo.use_dynamic_sampling"),
            f"{LATE}NeMo RL asserts that it is above 0 at the first step that has too few prompts whose rewards differ",
            f"{key}=10",
        )


REWARD_PENALTIES = ("duplicated_reasoning", "empty_final_answer", "unwanted_tokens", "malformed_think_tag")


@rule(versions=">=v0.8.0")
def reward_penalties_need_gym(c: View) -> Iterator[Mistake]:
    """Rewards that a penalty zeroes are NeMo Gym's, and unwanted tokens are named.

    _raise_if_reward_penalties_enabled_without_nemo_gym, and RewardPenaltyConfig's own check (grpo.py).
    """
    for name in REWARD_PENALTIES:
        key = f"reward_penalties.penalize_{name}"
        if not c.on(key):
            continue
        if not c.gym:
            yield Mistake((key,), "it is found in what NeMo Gym's rollouts report; NeMo RL stops", f"{key}=false")
        elif name == "unwanted_tokens" and not c.get("reward_penalties.token_ids.unwanted"):
            yield Mistake(
                (key,), "which tokens are unwanted is not said", "++reward_penalties.token_ids.unwanted=[ID,...]"
            )
