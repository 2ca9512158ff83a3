"""GRPO's arithmetic: advantages, sampling distribution, KL estimates, clipped loss. Pure functions on tensors.

The meanings are NeMo RL's at v0.7.0: nemo_rl/algorithms/advantage_estimator.py, utils.py
(calculate_baseline_and_std_per_prompt, calculate_kl), loss/loss_functions.py (ClippedPGLossFn) and
logits_sampling_utils.py. Shapes: B sequences of T next-token positions; a mask is 1 where a response token counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nano_exp.engines.embedded.settings import LossSettings, Sampling

STD_EPSILON = 1e-6
MEAN_EPSILON = 1e-8


def baseline_and_std(rewards: Tensor, leave_one_out: bool) -> tuple[Tensor, Tensor]:
    """Each answer's baseline and standard deviation among the answers to its prompt.

    With `leave_one_out` both leave the answer itself out (RLOO, arXiv:2402.14740). The variance has Bessel's
    correction; where it is undefined (two answers, one left out) the standard deviation is 0.

    Parameters
    ----------
    rewards: [prompts, generations], at least two generations
    """
    generations = rewards.shape[1]
    count = generations - int(leave_one_out)
    keep = torch.ones(generations, generations, dtype=rewards.dtype, device=rewards.device)
    if leave_one_out:
        keep.fill_diagonal_(0)
    mean = rewards @ keep / count
    if count < 2:
        return mean, torch.zeros_like(rewards)
    variance = (rewards.square() @ keep / count - mean.square()) * (count / (count - 1))
    return mean, variance.sqrt().nan_to_num(0.0)


def advantages(rewards: Tensor, leave_one_out: bool, normalize: bool) -> Tensor:
    """Reward minus baseline, divided by the standard deviation + 1e-6 where `normalize` and the deviation is not 0.

    Parameters
    ----------
    rewards: [prompts, generations]
    """
    mean, std = baseline_and_std(rewards, leave_one_out)
    plain = rewards - mean
    return torch.where(std > 0, plain / (std + STD_EPSILON), plain) if normalize else plain


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits with all but the top_k, and then all but the top_p nucleus of those, at minus infinity.

    The best token always stays, and ties with the last kept top_k value stay too (as vLLM and NeMo RL have it).
    Temperature is not applied here. The gradient of what is filtered out is 0.

    Parameters
    ----------
    logits: [..., vocabulary], already divided by the temperature
    """
    if not sampling.filters:
        return logits
    with torch.no_grad():
        keep = torch.ones_like(logits, dtype=torch.bool)
        if sampling.top_k is not None and 0 < sampling.top_k < logits.shape[-1]:
            keep = logits >= logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        if sampling.top_p != 1.0:
            ascending, order = logits.masked_fill(~keep, -torch.inf).sort(dim=-1)
            in_nucleus = ascending.softmax(dim=-1).cumsum(dim=-1) > 1 - sampling.top_p
            in_nucleus[..., -1] = True
            keep = keep & torch.zeros_like(keep).scatter(-1, order, in_nucleus)
    return logits.masked_fill(~keep, -torch.inf)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log probability of each of `tokens` [B, T] under `logits` [B, T, vocabulary]."""
    return logits.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def sampled_logprobs(logits: Tensor, tokens: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Log probabilities under the distribution that was sampled, and without its top_k and top_p filter.

    NeMo RL trains on the distribution it samples: temperature, top_k and top_p count for the current and the previous
    policy; the KL to the reference policy uses the temperature alone. A token that the filter of these weights drops
    has log probability 0, hence no gradient (mask_out_neg_inf_logprobs).
    """
    scaled = logits / sampling.temperature if sampling.temperature != 1.0 else logits
    plain = token_logprobs(scaled, tokens)
    if not sampling.filters:
        return plain, plain
    filtered = token_logprobs(filter_logits(scaled, sampling), tokens)
    return filtered.masked_fill(filtered.isinf(), 0.0), plain


def masked_mean(values: Tensor, mask: Tensor, total: Tensor | float) -> Tensor:
    """Sum over the mask divided by `total`, the count over the whole global batch.

    Dividing by the global count makes the sum over micro batches independent of how they were cut.
    """
    return (values * mask).sum() / (total + MEAN_EPSILON)


def kl_estimate(
    logprobs: Tensor,
    reference: Tensor,
    kind: str,
    input_clamp: float | None,
    output_clamp: float | None,
    weights: Tensor | None = None,
) -> Tensor:
    """Per-token estimate of KL(policy || reference): k1, k2 or k3 (J. Schulman, Approximating KL Divergence, 2020).

    Parameters
    ----------
    input_clamp, output_clamp: limits of |log ratio| before and of |estimate| after; None for no limit
    weights: factors multiplied in before the output clamp; detached where the input clamp holds, so that a clamped
        token has no gradient at all

    Raises
    ------
    ValueError: `kind` is none of the three
    """
    log_ratio = reference - logprobs
    if input_clamp is not None:
        clamped = log_ratio.clamp(-input_clamp, input_clamp)
        if weights is not None:
            weights = torch.where(clamped == log_ratio, weights, weights.detach())
        log_ratio = clamped
    if kind == "k1":
        estimate = -log_ratio
    elif kind == "k2":
        estimate = log_ratio.square() / 2
    elif kind == "k3":
        estimate = log_ratio.exp() - log_ratio - 1
    else:
        raise ValueError(f"unknown KL estimate {kind!r}: k1, k2 or k3")
    if weights is not None:
        estimate = estimate * weights
    return estimate if output_clamp is None else estimate.clamp(-output_clamp, output_clamp)


def clipped_loss(ratios: Tensor, advantage: Tensor, settings: LossSettings) -> Tensor:
    """Per-token clipped policy loss (PPO, arXiv:1707.06347), with the dual clip (arXiv:1912.09729) if ratio_clip_c."""
    bounded = ratios.clamp(1.0 - settings.ratio_clip_min, 1.0 + settings.ratio_clip_max)
    loss = torch.maximum(-advantage * ratios, -advantage * bounded)
    if settings.ratio_clip_c is not None:
        floor = torch.minimum(loss, -advantage * settings.ratio_clip_c)
        loss = torch.where(advantage < 0, floor, loss)
    return loss


@dataclass(frozen=True)
class Batch:
    """What the loss needs of some sequences: [B, T] each, `sample_mask` [B]; no `reference` without a penalty."""

    previous: Tensor
    generation: Tensor
    advantages: Tensor
    token_mask: Tensor
    sample_mask: Tensor
    reference: Tensor | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """The sequences from `start` up to `stop`."""
        return Batch(
            self.previous[start:stop],
            self.generation[start:stop],
            self.advantages[start:stop],
            self.token_mask[start:stop],
            self.sample_mask[start:stop],
            None if self.reference is None else self.reference[start:stop],
        )

    @property
    def mask(self) -> Tensor:
        return self.token_mask * self.sample_mask.unsqueeze(-1)


def _reduce(values: Tensor, batch: Batch, tokens: Tensor, samples: Tensor, token_level: bool) -> Tensor:
    """The mean over all tokens, or over sequences of each one's mean over its tokens."""
    if token_level:
        return masked_mean(values, batch.mask, tokens)
    per_sequence = (values * batch.token_mask).sum(-1) / (batch.token_mask.sum(-1) + MEAN_EPSILON)
    return masked_mean(per_sequence, batch.sample_mask, samples)


def policy_loss(
    current: Tensor, current_unfiltered: Tensor, batch: Batch, settings: LossSettings, tokens: Tensor, samples: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a micro batch as its part of the global batch's loss, and NeMo RL's metrics of it.

    Parameters
    ----------
    current, current_unfiltered: [B, T] log probabilities with gradient, see `sampled_logprobs`
    tokens, samples: valid tokens and sequences in the whole global batch

    Returns
    -------
    The scalar loss, and metrics whose sum over micro batches is the global batch's value (`*_min`, `*_max`: their
    minimum and maximum).
    """
    ratios = (current - batch.previous).exp()
    per_token = clipped_loss(ratios, batch.advantages, settings)
    actor_weights = (batch.previous - batch.generation).exp().nan_to_num(0.0, 0.0, 0.0)
    if settings.use_importance_sampling_correction:
        per_token = per_token * actor_weights
    loss = _reduce(per_token, batch, tokens, samples, settings.token_level_loss)

    penalty = settings.reference_policy_kl_penalty
    kl = torch.zeros((), device=current.device)
    if penalty != 0 and batch.reference is not None:
        # Value 1, gradient that of the sampling probability: the KL is an expectation under the policy being trained
        # (arXiv:2506.09477).
        weights = (current_unfiltered - current_unfiltered.detach()).exp()
        estimate = kl_estimate(
            current_unfiltered,
            batch.reference,
            settings.reference_policy_kl_type,
            settings.kl_input_clamp_value,
            settings.kl_output_clamp_value,
            weights,
        )
        kl = _reduce(estimate, batch, tokens, samples, settings.token_level_loss)
    total = loss + penalty * kl
    with torch.no_grad():
        return total, _metrics(current, ratios, actor_weights, total, kl, batch, settings, tokens)


def _metrics(
    current: Tensor,
    ratios: Tensor,
    actor_weights: Tensor,
    loss: Tensor,
    kl: Tensor,
    batch: Batch,
    settings: LossSettings,
    tokens: Tensor,
) -> dict[str, float]:
    """The metrics of ClippedPGLossFn, by its names."""
    mask, previous, generation = batch.mask, batch.previous, batch.generation
    bounded = ratios.clamp(1.0 - settings.ratio_clip_min, 1.0 + settings.ratio_clip_max)
    mixture = (0.5 * previous.exp() + 0.5 * generation.exp()).log()
    kind = settings.reference_policy_kl_type

    def k3(logprobs: Tensor) -> Tensor:
        return (logprobs - mixture).exp() - (logprobs - mixture) - 1

    def mean(values: Tensor) -> float:
        return masked_mean(values, mask, tokens).item()

    counted = ratios[mask.bool()]
    counted_bounded = bounded[mask.bool()]
    none = counted.numel() == 0
    return {
        "loss": loss.item(),
        "kl_penalty": kl.item(),
        "probs_ratio": mean(ratios),
        "probs_ratio_clamped": mean(bounded),
        "probs_ratio_min": float("inf") if none else counted.min().item(),
        "probs_ratio_max": float("-inf") if none else counted.max().item(),
        "probs_ratio_clamped_min": float("inf") if none else counted_bounded.min().item(),
        "probs_ratio_clamped_max": float("-inf") if none else counted_bounded.max().item(),
        "token_mult_prob_error": mean(((generation - previous).abs() * mask).exp()),
        "gen_kl_error": mean(kl_estimate(generation, previous, kind, None, None)),
        "policy_kl_error": mean(kl_estimate(previous, generation, kind, None, None)),
        "js_divergence_error": mean(0.5 * k3(previous) + 0.5 * k3(generation)),
        "sampling_importance_ratio": mean(actor_weights),
        "approx_entropy": -mean((current - generation).exp() * current),
        "num_valid_samples": batch.sample_mask.sum().item(),
    }
