"""Counts that are none: NeMo RL types them as whole numbers and checks few of them before they are used."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Found, rule
from nano_exp.preflight.view import View

#: Each counts something of which a run has at least one.
AT_LEAST_ONE = (
    "cluster.num_nodes",
    "grpo.max_num_steps",
    "grpo.num_prompts_per_step",
    "grpo.num_generations_per_prompt",
    "policy.train_global_batch_size",
    "policy.train_micro_batch_size",
    "policy.logprob_batch_size",
    "policy.max_total_sequence_length",
)


@rule(engine="any engine")
def at_least_one(c: View) -> Iterator[Found]:
    """Steps, prompts, generations, batch sizes, lengths and nodes are counted from 1, and a model has a name."""
    for key in AT_LEAST_ONE:
        count = c.number(key)
        if count is not None and count < 1:
            yield Found(
                (key,), "a run has at least one of them: with less it ends at once, or divides by it", f"{key}=1"
            )
    if c.get("policy.model_name") == "":
        yield Found(("policy.model_name",), "there is no model without a name", "leave it out: model= sets it")
