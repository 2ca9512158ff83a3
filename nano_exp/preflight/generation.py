"""Sequence lengths and batches against what the generation engine has room for."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

KWARGS = "policy.generation.vllm_kwargs"
MAX_SEQS, LENGTH = f"{KWARGS}.max_num_seqs", "policy.max_total_sequence_length"
MODEL_LENGTH = "policy.generation.vllm_cfg.max_model_len"


def hybrid(c: View) -> bool:
    """Whether the model has Mamba layers."""
    return "M" in str(c.model.get("hybrid_override_pattern") or "")


@rule(severity="warning", versions=">=v0.7.0")
def mamba_cache_blocks(c: View) -> Iterator[Mistake]:
    """vLLM sets aside a Mamba cache block for each running sequence, as many as max_num_seqs."""
    limit = c.number(MAX_SEQS)
    if not c.vllm or not hybrid(c) or limit is None or c.rollout is None:
        return
    if limit > c.rollout:
        yield Mistake(
            (MAX_SEQS, "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"),
            f"a step has {c.rollout} sequences; blocks for {limit} are memory that nothing uses, and "
            "more than there is room for stop vLLM",
            f"{MAX_SEQS}={c.rollout}",
        )
    elif limit < c.rollout and c.vtp and c.generating and c.vpp:
        engines = max(1, c.generating // (c.vtp * c.vpp))
        share = -(-c.rollout // engines)
        if limit < share:
            yield Mistake(
                (MAX_SEQS, "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"),
                f"each of {engines} engines generates {share} sequences of a step and runs {limit} at a time; the rest "
                "wait",
                f"{MAX_SEQS}={c.rollout} (the rollout, as published)",
            )


@rule()
def mamba_cache_precision(c: View) -> Iterator[Mistake]:
    """Nano v2's Mamba state needs fp32 in vLLM's cache (a warning before v0.6.0, whose 12B recipe lacks it)."""
    key = f"{KWARGS}.mamba_ssm_cache_dtype"
    if not c.vllm or not hybrid(c) or not str(c.model.get("hf_id") or "").endswith("-v2"):
        return
    if c.get(key) != "float32":
        yield Mistake(
            (key,) if c.has(key) else (),
            "the state of Nano v2's Mamba layers overflows in bf16, and what is then generated is noise",
            f"++{key}=float32",
            "" if c.has(key) else f"{key} is not set",
            severity="error" if c.version >= (0, 6, 0) else "warning",
        )


@rule(severity="warning")
def engine_shorter_than_sequences(c: View) -> Iterator[Mistake]:
    """The generation engine takes sequences as long as the policy trains on."""
    engine, policy = c.number(MODEL_LENGTH), c.number(LENGTH)
    if not c.vllm or engine is None or policy is None:
        return
    if engine < policy:
        yield Mistake(
            (MODEL_LENGTH, LENGTH),
            f"the engine ends every sequence at {engine} tokens, so none reaches the {policy} that training pads and "
            "reserves memory for",
            f"{MODEL_LENGTH}={policy}",
        )
    elif engine > policy:
        yield Mistake(
            (MODEL_LENGTH, LENGTH),
            f"a sequence may have {engine} tokens, and what training was given room for is {policy}",
            f"{MODEL_LENGTH}={policy}, or {LENGTH}={engine}",
        )


@rule()
def prompt_room(c: View) -> Iterator[Mistake]:
    """A prompt may be as long as a sequence at most."""
    prompt, length = c.number("data.max_input_seq_length"), c.number(LENGTH)
    if prompt is not None and length is not None and prompt > length:
        yield Mistake(
            ("data.max_input_seq_length", LENGTH),
            f"a prompt of {prompt} tokens leaves no room for an answer in {length}",
            f"data.max_input_seq_length={length} or less",
        )


@rule(severity="warning")
def answer_room(c: View) -> Iterator[Mistake]:
    """An answer is not allowed to be longer than a sequence."""
    new, length = c.number("policy.generation.max_new_tokens"), c.number(LENGTH)
    if new is not None and length is not None and new > length:
        yield Mistake(
            ("policy.generation.max_new_tokens", LENGTH),
            f"an answer of {new} tokens is longer than a whole sequence of {length}: generation ends there",
            f"policy.generation.max_new_tokens={length}",
        )
