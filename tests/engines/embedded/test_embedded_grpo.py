"""GRPO's arithmetic against values worked out by hand and in float64."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_exp.engines.embedded import grpo
from nano_exp.engines.embedded.grpo import Batch, LossSettings, Sampling


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_by_hand() -> None:
    rewards = doubles(1, 0, 0, 1).unsqueeze(0)
    std = math.sqrt(1 / 3)
    plain = grpo.advantages(rewards, leave_one_out=False, normalize=False)
    assert plain.tolist() == [[0.5, -0.5, -0.5, 0.5]]
    normal = grpo.advantages(rewards, leave_one_out=False, normalize=True)
    assert normal[0].tolist() == pytest.approx([s * 0.5 / (std + 1e-6) for s in (1, -1, -1, 1)], rel=1e-12)
    left_out = grpo.advantages(rewards, leave_one_out=True, normalize=True)
    # The other three have mean 1/3 (or 2/3) and sample variance 1/3.
    assert left_out[0].tolist() == pytest.approx([s * (2 / 3) / (std + 1e-6) for s in (1, -1, -1, 1)], rel=1e-12)


def test_no_spread_among_the_others_leaves_the_advantage_undivided() -> None:
    rewards = doubles(1, 0, 0).unsqueeze(0)
    first, second, third = grpo.advantages(rewards, leave_one_out=True, normalize=True)[0].tolist()
    assert first == 1.0
    assert second == third == pytest.approx(-0.5 / (math.sqrt(0.5) + 1e-6), rel=1e-12)


def test_equal_rewards_teach_nothing_and_two_answers_have_no_deviation() -> None:
    assert grpo.advantages(torch.ones(3, 5), True, True).abs().max() == 0
    assert grpo.advantages(doubles(3, 1).unsqueeze(0), True, True).tolist() == [[2.0, -2.0]]


@given(st.lists(st.integers(-3, 3), min_size=3, max_size=9), st.booleans())
def test_advantages_equal_the_slow_way(rewards: list[int], leave_one_out: bool) -> None:
    fast = grpo.advantages(torch.tensor([rewards], dtype=torch.float64), leave_one_out, True)[0].tolist()
    for index, reward in enumerate(rewards):
        others = rewards[:index] + rewards[index + 1 :] if leave_one_out else rewards
        slow = reward - statistics.fmean(others)
        if len(set(others)) > 1:
            slow /= statistics.stdev(others) + 1e-6
            assert fast[index] == pytest.approx(slow, rel=1e-9, abs=1e-9)
        elif fast[index] != pytest.approx(slow, abs=1e-9):
            # Equal rewards may leave a deviation of rounding size; the advantage then only keeps its sign.
            assert math.copysign(1, fast[index]) == math.copysign(1, slow)


@pytest.mark.parametrize(("kind", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) + 0.5 - 1)])
def test_kl_estimates_by_hand(kind: str, expected: float) -> None:
    estimate = grpo.kl_estimate(doubles(-1.0), doubles(-1.5), kind, None, None)
    assert estimate.item() == pytest.approx(expected, rel=1e-12)


def test_kl_clamps_before_and_after() -> None:
    logprobs, reference = doubles(-30.0, -1.0), doubles(-1.0, -30.0)
    assert grpo.kl_estimate(logprobs, reference, "k1", 20.0, None).tolist() == [-20.0, 20.0]
    assert grpo.kl_estimate(logprobs, reference, "k3", 20.0, 10.0).tolist() == [10.0, 10.0]
    assert grpo.kl_estimate(logprobs, reference, "k1", None, 10.0).tolist() == [-10.0, 10.0]
    with pytest.raises(ValueError, match="k4"):
        grpo.kl_estimate(logprobs, reference, "k4", None, None)


def test_a_kl_clamped_on_input_has_no_gradient() -> None:
    logprobs = doubles(-30.0, -1.0).requires_grad_()
    weights = (logprobs - logprobs.detach()).exp()
    grpo.kl_estimate(logprobs, doubles(-1.0, -1.5), "k1", 20.0, None, weights).sum().backward()
    # k1 at -0.5: weight's gradient 0.5, the estimate's 1.
    assert logprobs.grad is not None and logprobs.grad.tolist() == [0.0, 1.5]


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, -1.3), (0.5, 1.0, -0.5), (1.1, 1.0, -1.1), (0.5, -1.0, 0.8), (1.5, -1.0, 1.5), (5.0, -1.0, 5.0)],
)
def test_clipped_loss_by_hand(ratio: float, advantage: float, expected: float) -> None:
    settings = LossSettings(ratio_clip_min=0.2, ratio_clip_max=0.3)
    assert grpo.clipped_loss(doubles(ratio), doubles(advantage), settings).item() == pytest.approx(expected)


def test_dual_clip_bounds_negative_advantages_only() -> None:
    settings = LossSettings(ratio_clip_c=3.0)
    loss = grpo.clipped_loss(doubles(5.0, 2.0, 5.0), doubles(-1.0, -1.0, 1.0), settings)
    assert loss.tolist() == pytest.approx([3.0, 2.0, -1.2])


def batch(**changes: torch.Tensor | None) -> Batch:
    """Two answers of one and three tokens."""
    values: dict[str, torch.Tensor | None] = {
        "previous": doubles(-1.0, 0, 0, -1.0, -2.0, -3.0).view(2, 3),
        "generation": doubles(-1.1, 0, 0, -1.0, -2.2, -3.0).view(2, 3),
        "advantages": doubles(1, 1, 1, -2, -2, -2).view(2, 3),
        "token_mask": doubles(1, 0, 0, 1, 1, 1).view(2, 3),
        "sample_mask": doubles(1, 1),
        "reference": doubles(-1.2, 0, 0, -1.5, -2.0, -2.5).view(2, 3),
    } | changes
    return Batch(**values)  # type: ignore[arg-type]


def loss_of(data: Batch, settings: LossSettings, current: torch.Tensor | None = None) -> tuple[float, dict[str, float]]:
    now = data.previous if current is None else current
    loss, metrics = grpo.policy_loss(now, now, data, settings, data.mask.sum(), data.sample_mask.sum())
    return loss.item(), metrics


def test_token_level_and_sequence_level_means() -> None:
    # On policy every ratio is 1, so a token's loss is minus its advantage: -1 once, 2 three times.
    token, _ = loss_of(batch(), LossSettings(reference_policy_kl_penalty=0.0, token_level_loss=True))
    sequence, _ = loss_of(batch(), LossSettings(reference_policy_kl_penalty=0.0, token_level_loss=False))
    assert token == pytest.approx((-1 + 2 * 3) / 4)
    assert sequence == pytest.approx((-1 + 2) / 2)


def test_the_penalty_is_the_mean_k3_times_its_weight() -> None:
    k3 = [math.exp(r) - r - 1 for r in (-0.2, -0.5, 0.0, 0.5)]
    without, _ = loss_of(batch(), LossSettings(reference_policy_kl_penalty=0.0))
    loss, metrics = loss_of(batch(), LossSettings(reference_policy_kl_penalty=0.1))
    assert metrics["kl_penalty"] == pytest.approx(sum(k3) / 4)
    assert loss - without == pytest.approx(0.1 * sum(k3) / 4)


def test_importance_sampling_correction_weighs_tokens_by_train_over_generation() -> None:
    settings = LossSettings(reference_policy_kl_penalty=0.0, use_importance_sampling_correction=True)
    loss, metrics = loss_of(batch(), settings)
    weights = [math.exp(0.1), 1.0, math.exp(0.2), 1.0]
    assert loss == pytest.approx((-weights[0] + 2 * sum(weights[1:])) / 4)
    assert metrics["sampling_importance_ratio"] == pytest.approx(sum(weights) / 4)


def test_a_masked_answer_counts_nowhere() -> None:
    settings = LossSettings(reference_policy_kl_penalty=0.1)
    full, _ = loss_of(batch().rows(1, 2), settings)
    masked, metrics = loss_of(batch(sample_mask=doubles(0, 1)), settings)
    assert masked == pytest.approx(full)
    assert metrics["num_valid_samples"] == 1


@pytest.mark.parametrize("token_level", [True, False])
def test_micro_batches_add_up_to_the_whole(token_level: bool) -> None:
    torch.manual_seed(0)
    settings = LossSettings(reference_policy_kl_penalty=0.1, token_level_loss=token_level, ratio_clip_c=3.0)
    shape, kept = (6, 5), (torch.rand(6, 5) < 0.7).double()
    data = Batch(
        previous=-torch.rand(shape).double(),
        generation=-torch.rand(shape).double(),
        advantages=torch.randn(6, 1).double().expand(shape),
        token_mask=kept,
        sample_mask=torch.tensor([1, 1, 0, 1, 1, 1.0]).double(),
        reference=-torch.rand(shape).double(),
    )
    current = (-torch.rand(shape).double()).requires_grad_()
    tokens, samples = data.mask.sum(), data.sample_mask.sum()

    def gradient(size: int) -> tuple[torch.Tensor, float]:
        current.grad = None
        total = 0.0
        for start in range(0, 6, size):
            rows = current[start : start + size]
            loss, _ = grpo.policy_loss(rows, rows, data.rows(start, start + size), settings, tokens, samples)
            loss.backward()
            total += loss.item()
        assert current.grad is not None
        return current.grad.clone(), total

    whole, parts = gradient(6), gradient(2)
    assert torch.allclose(whole[0], parts[0], rtol=1e-12, atol=1e-15)
    assert whole[1] == pytest.approx(parts[1], rel=1e-12)
    assert whole[0].abs().sum() > 0


def test_top_k_and_top_p_keep_what_they_say() -> None:
    logits = doubles(0.5, 0.3, 0.15, 0.05).log()

    def kept(**sampling: float) -> list[int]:
        return grpo.filter_logits(logits, Sampling(**sampling)).isfinite().nonzero().flatten().tolist()  # type: ignore[arg-type]

    assert kept() == kept(top_k=-1) == kept(top_k=9) == [0, 1, 2, 3]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_p=0.79) == [0, 1]
    assert kept(top_p=0.81) == [0, 1, 2]
    assert kept(top_p=1e-6) == [0]
    # top_k comes first: of the best two, 0.5 / 0.8 is not enough for 0.7.
    assert kept(top_k=2, top_p=0.6) == [0]
    assert kept(top_k=2, top_p=0.7) == [0, 1]


def test_log_probabilities_follow_the_sampled_distribution() -> None:
    logits = doubles(0.5, 0.3, 0.2).log().view(1, 1, 3).expand(1, 3, 3)
    tokens = torch.tensor([[0, 1, 2]])
    filtered, plain = grpo.sampled_logprobs(logits, tokens, Sampling(top_k=2))
    assert filtered[0].tolist() == pytest.approx([math.log(5 / 8), math.log(3 / 8), 0.0])
    assert plain[0].tolist() == pytest.approx([math.log(p) for p in (0.5, 0.3, 0.2)])
    _, warm = grpo.sampled_logprobs(logits, tokens, Sampling(temperature=0.5))
    squares = [0.25, 0.09, 0.04]
    assert warm[0].tolist() == pytest.approx([math.log(s / sum(squares)) for s in squares])


def test_what_is_filtered_out_has_no_gradient() -> None:
    logits = doubles(1.0, 0.5, 0.2).requires_grad_()
    grpo.sampled_logprobs(logits.view(1, 1, 3), torch.tensor([[0]]), Sampling(top_k=2))[0].sum().backward()
    assert logits.grad is not None
    assert logits.grad[2] == 0 and logits.grad[0] > 0 > logits.grad[1]
