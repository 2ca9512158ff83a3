"""The three kinds of architecture generate what they say they generate, and train in every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nano_exp.engines.embedded import rollout, settings
from nano_exp.engines.embedded.grpo import Sampling
from nano_exp.engines.embedded.nemotron_h import batched_logprobs
from nano_exp.engines.embedded.trainer import Trainer

PATTERNS = {"hybrid": "M-M*-", "attention": "*-*-", "mamba": "M-M-", "experts": "ME*E"}
Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trainer(config: dict[str, Any]) -> Trainer:
    made = Trainer(settings.from_config(config), torch.device("cpu"))
    made.freeze_reference()
    return made


def never() -> None:
    """Nothing stops the step."""


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_p=0.9, top_k=20)], ids=["all", "top"])
def test_generated_log_probabilities_equal_a_whole_pass(small_config: Make, pattern: str, sampling: Sampling) -> None:
    made = trainer(small_config({"policy.hf_config_overrides.hybrid_override_pattern": pattern}))
    with torch.no_grad():
        for parameter in made.model.parameters():
            # Wide weights, so that log probabilities differ and time steps spread over small values.
            parameter.add_(torch.randn_like(parameter) * 0.3)
    requests = made.train_set[:12]
    answers = rollout.generate(made.model, made.vocabulary, requests, sampling, 12, torch.Generator().manual_seed(3))
    assert len(set(answers.prompt_tokens.tolist())) > 1, "prompts of different lengths are padded"
    filtered, _ = batched_logprobs(made.model, answers.tokens, answers.mask, answers.prompt_length, sampling, 5)
    apart = (filtered - answers.logprobs).abs() * answers.token_mask
    assert answers.logprobs.min() < -2 and torch.isfinite(filtered).all()
    assert apart.max() < 2e-4


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_a_few_steps_train_every_layer(small_config: Make, pattern: str) -> None:
    config = small_config({"policy.hf_config_overrides.hybrid_override_pattern": pattern})
    made = trainer(config)
    # Random answers earn nothing: reward the longer half, so that there are advantages.
    plain = rollout.reward
    rollout.reward = lambda example, text, done: float(len(text) > 60)
    before = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    moved: set[str] = set()
    try:
        for step in range(3):
            metrics, _ = made.step(step, never)
            assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
            assert metrics["grad_norm"] > 0
        moved = {name for name, value in made.model.named_parameters() if not torch.equal(value, before[name])}
    finally:
        rollout.reward = plain
    for layer, block in enumerate(made.model.model.layers):
        names = {f"model.layers.{layer}.{name}" for name, _ in block.named_parameters()}
        assert names <= moved, f"{block.block_type}: {sorted(names - moved)} did not change"


def test_micro_batch_size_does_not_change_the_update(small_config: Make) -> None:
    def after(micro: int) -> tuple[dict[str, float], torch.Tensor]:
        made = trainer(small_config({"policy.train_micro_batch_size": micro, "policy.train_global_batch_size": 8}))
        requests = [e for e in made.train_set[:2] for _ in range(4)]
        answers = rollout.generate(
            made.model, made.vocabulary, requests, made.sampling, 12, torch.Generator().manual_seed(1)
        )
        previous, _ = batched_logprobs(
            made.model, answers.tokens, answers.mask, answers.prompt_length, made.sampling, 8
        )
        data = rollout_batch(answers, previous)
        metrics = made._train(answers, data, 1e-3)
        return metrics, torch.cat([parameter.detach().flatten() for parameter in made.model.parameters()])

    whole, parts, ones = after(8), after(4), after(1)
    assert whole[0]["grad_norm"] > 0
    for other in (parts, ones):
        assert other[0] == pytest.approx(whole[0], rel=1e-3, abs=1e-6)
        # Adam's first update is lr times the gradient's sign, so rounding may turn gradients near 0.
        assert ((other[1] - whole[1]).abs() > 1e-5).float().mean() < 0.01


def rollout_batch(answers: rollout.Rollout, previous: torch.Tensor) -> Any:
    from nano_exp.engines.embedded.grpo import Batch

    advantages = torch.linspace(-1, 1, 8).unsqueeze(1).expand_as(previous)
    return Batch(previous, answers.logprobs, advantages, answers.token_mask, torch.ones(8), previous - 0.1)


def test_top_k_1_always_writes_the_same(small_config: Make) -> None:
    made = trainer(small_config())
    one = rollout.generate(
        made.model, made.vocabulary, made.train_set[:3], Sampling(top_k=1), 8, torch.Generator().manual_seed(1)
    )
    two = rollout.generate(
        made.model, made.vocabulary, made.train_set[:3], Sampling(top_k=1), 8, torch.Generator().manual_seed(2)
    )
    assert one.texts == two.texts and one.logprobs.abs().max() == 0


def test_validation_draws_from_its_own_chance(small_config: Make) -> None:
    made = trainer(small_config())
    state = made.generator.get_state()
    first, pairs = made.validate(3)
    again, _ = made.validate(3)
    assert first == again and len(pairs) == 4
    assert torch.equal(state, made.generator.get_state())
