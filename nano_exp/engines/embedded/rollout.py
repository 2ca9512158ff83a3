"""Rollouts: sample answers to prompts with the policy, keep their log probabilities, score them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nano_exp.engines.embedded.grpo import filter_logits, token_logprobs
from nano_exp.engines.embedded.nemotron_h import Policy
from nano_exp.engines.embedded.settings import Sampling
from nano_exp.engines.embedded.task import Example, Vocabulary, reward


@dataclass(frozen=True)
class Rollout:
    """Sampled answers of B sequences; R is the longest answer's length, its end token included.

    Parameters
    ----------
    tokens: [B, prompt_length + R]; prompts are padded on the left, answers on the right
    mask: the same shape, 1 where a token is real
    token_mask: [B, R], 1 for answer tokens
    logprobs: [B, R] under the distribution that was sampled, 0 at padding
    rewards: [B]
    truncated: [B], True where no end token came within the limit
    prompt_tokens: [B], real tokens of each prompt
    texts: the answers
    """

    tokens: Tensor
    mask: Tensor
    prompt_length: int
    token_mask: Tensor
    logprobs: Tensor
    rewards: Tensor
    truncated: Tensor
    prompt_tokens: Tensor
    texts: list[str]


def pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as one tensor, with its mask."""
    longest = max(len(prompt) for prompt in prompts)
    rows = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def generate(
    model: Policy,
    vocabulary: Vocabulary,
    requests: Sequence[Example],
    sampling: Sampling,
    max_new_tokens: int,
    generator: torch.Generator,
    keep_going: Callable[[], None] = lambda: None,
) -> Rollout:
    """Sample one answer to each of `requests`.

    Parameters
    ----------
    generator: the only source of chance; on the model's device
    keep_going: called before each token; what it raises ends the rollout
    """
    with torch.no_grad(), model.casting():
        return _generate(model, vocabulary, requests, sampling, max_new_tokens, generator, keep_going)


def _generate(
    model: Policy,
    vocabulary: Vocabulary,
    requests: Sequence[Example],
    sampling: Sampling,
    max_new_tokens: int,
    generator: torch.Generator,
    keep_going: Callable[[], None],
) -> Rollout:
    device = generator.device
    tokens, mask = pad_left([vocabulary.prompt(request) for request in requests], vocabulary.pad, device)
    prompt_length = tokens.shape[1]
    prompt_tokens = mask.sum(-1)
    cache = model.new_cache(len(requests))
    finished = torch.zeros(len(requests), dtype=torch.bool, device=device)
    inputs, sampled, logprobs, real = tokens, [], [], []
    attention = mask
    for _ in range(max_new_tokens):
        keep_going()
        output = model(
            input_ids=inputs,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **_masks(model, attention, inputs),
        )
        logits = filter_logits(output.logits[:, -1] / sampling.temperature, sampling)
        chosen = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        inputs = chosen.masked_fill(finished.unsqueeze(1), vocabulary.pad)
        alive = (~finished).long().unsqueeze(1)
        sampled.append(inputs)
        logprobs.append(token_logprobs(logits.unsqueeze(1), chosen) * alive)
        real.append(alive)
        attention = torch.cat([attention, torch.ones_like(alive)], dim=1)
        finished = finished | (inputs.squeeze(1) == vocabulary.end)
        if bool(finished.all()):
            break
    answers, token_mask = torch.cat(sampled, dim=1), torch.cat(real, dim=1)
    texts = [
        vocabulary.text([token for token, keep in zip(row, keep_row, strict=True) if keep])
        for row, keep_row in zip(answers.tolist(), token_mask.tolist(), strict=True)
    ]
    scores = [
        reward(request, text, done) for request, text, done in zip(requests, texts, finished.tolist(), strict=True)
    ]
    return Rollout(
        tokens=torch.cat([tokens, answers], dim=1),
        mask=torch.cat([mask, token_mask], dim=1),
        prompt_length=prompt_length,
        token_mask=token_mask.float(),
        logprobs=torch.cat(logprobs, dim=1),
        rewards=torch.tensor(scores, device=device),
        truncated=~finished,
        prompt_tokens=prompt_tokens,
        texts=texts,
    )


def _masks(model: Policy, attention: Tensor, inputs: Tensor) -> dict[str, Any]:
    """The mask arguments of a cached pass over `inputs`, the last columns of `attention`.

    Without an attention layer transformers cannot tell how long its cache is, and has to be told everything: the
    Mamba layers' mask (one new token is never padding) and positions, which Nemotron-H does not use.
    """
    if "full_attention" in (model.config.layers_block_type or ()):
        return {"attention_mask": attention}
    padding = attention if inputs.shape[1] > 1 else None
    return {"attention_mask": {"linear_attention": padding}, "position_ids": torch.zeros_like(inputs)}


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The numbers of nemo_rl/experience/rollouts.py (v0.7.0) that say something about one-turn answers."""
    answer = rollout.token_mask.sum(-1)
    return {
        "natural_termination_rate": (~rollout.truncated).float().mean().item(),
        "truncation_rate": rollout.truncated.float().mean().item(),
        "mean_total_tokens_per_sample": (answer + rollout.prompt_tokens).mean().item(),
        "mean_gen_tokens_per_sample": answer.mean().item(),
        "max_gen_tokens_per_sample": answer.max().item(),
    }
