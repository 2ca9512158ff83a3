"""policy.precision=bfloat16 and activation checkpointing: the weights stay float32, the numbers stay near."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nano_exp.engines.embedded import rollout, settings, warm_start
from nano_exp.engines.embedded.grpo import Sampling
from nano_exp.engines.embedded.nemotron_h import batched_logprobs, response_logits
from nano_exp.engines.embedded.trainer import PHASES, Trainer

Make = Callable[..., dict[str, Any]]
BFLOAT16 = {"policy.precision": "bfloat16"}
RECOMPUTE = {"policy.dtensor_cfg.activation_checkpointing": True}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trainer(config: dict[str, Any], **arguments: Any) -> Trainer:
    made = Trainer(settings.from_config(config), torch.device("cpu"), **arguments)
    made.freeze_reference()
    return made


def gradients(made: Trainer) -> dict[str, torch.Tensor]:
    """Of a supervised loss on a few requests, by parameter."""
    requests = made.train_set[:4]
    prompts, mask = rollout.pad_left(
        [made.vocabulary.prompt(one) for one in requests], made.vocabulary.pad, torch.device("cpu")
    )
    answers = torch.tensor([made.vocabulary.answer(one.tool, one.argument) for one in requests])
    tokens = torch.cat([prompts, answers], dim=1)
    mask = torch.cat([mask, torch.ones_like(answers)], dim=1)
    made.model.train()
    logits = response_logits(made.model, tokens, mask, prompts.shape[1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten()).backward()
    return {name: one.grad.clone() for name, one in made.model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("pattern", ["M-M*-", "ME*E"])
def test_bfloat16_gradients_are_float32_and_near_float32s(small_config: Make, pattern: str) -> None:
    own = {"policy.hf_config_overrides.hybrid_override_pattern": pattern}
    exact, half = gradients(trainer(small_config(own))), gradients(trainer(small_config(own | BFLOAT16)))
    assert exact.keys() == half.keys()
    assert all(gradient.dtype == torch.float32 for gradient in half.values())
    whole = torch.cat([gradient.flatten() for gradient in exact.values()])
    apart = torch.cat([(half[name] - gradient).flatten() for name, gradient in exact.items()]).norm() / whole.norm()
    assert 1e-4 < apart < 0.05, "bfloat16 has 8 bits: as near as that, and not equal"


@pytest.mark.parametrize("pattern", ["M-M*-", "M-M-"])
def test_generated_log_probabilities_equal_a_whole_pass_in_bfloat16(small_config: Make, pattern: str) -> None:
    made = trainer(small_config(BFLOAT16 | {"policy.hf_config_overrides.hybrid_override_pattern": pattern}))
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    chance = torch.Generator().manual_seed(3)
    answers = rollout.generate(made.model, made.vocabulary, made.train_set[:12], Sampling(), 12, chance)
    again, _ = batched_logprobs(made.model, answers.tokens, answers.mask, answers.prompt_length, Sampling(), 5)
    apart = (again - answers.logprobs).abs() * answers.token_mask
    assert answers.logprobs.min() < -2 and apart.max() < 0.15 and apart.mean() < 0.02


def test_mamba_states_of_a_bfloat16_rollout_are_float32(small_config: Make) -> None:
    made = trainer(small_config(BFLOAT16))
    cache = made.model.new_cache(2)
    with torch.no_grad():
        made.model(input_ids=torch.tensor([[3, 4, 5], [6, 7, 8]]), past_key_values=cache, use_cache=True)
    state = cache.get_recurrent_state(0)
    assert state is not None and state.dtype == torch.float32 and state.abs().max() > 0


def test_weights_changed_between_passes_count_in_bfloat16(small_config: Make) -> None:
    made = trainer(small_config(BFLOAT16))
    seen: list[float] = []
    plan = settings.WarmStart(steps=12, lr=1e-2, batch_size=8)
    warm_start.run(made.model, made.vocabulary, made.train_set, plan, 1, lambda step, loss: seen.append(loss))
    assert seen[-1] < seen[0] - 0.5, "a copy of the first weights would not learn"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activation_checkpointing_changes_no_gradient(small_config: Make, precision: str) -> None:
    own = {"policy.precision": precision, "policy.hf_config_overrides.hybrid_override_pattern": "M-*-"}
    plain, again = gradients(trainer(small_config(own))), gradients(trainer(small_config(own | RECOMPUTE)))
    assert all(torch.allclose(again[name], one, rtol=1e-5, atol=1e-7) for name, one in plain.items())


def test_activation_checkpointing_keeps_less_for_backward(small_config: Make) -> None:
    def kept(config: dict[str, Any]) -> int:
        made, sizes = trainer(config), []
        made.model.train()
        tokens = torch.randint(8, 20, (2, 24))

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            response_logits(made.model, tokens, torch.ones_like(tokens), 8)
        return sum(sizes)

    assert kept(small_config(RECOMPUTE)) < kept(small_config()) / 3


def test_every_phase_of_a_step_is_watched(small_config: Make) -> None:
    from collections import Counter
    from contextlib import contextmanager

    seen: Counter[str] = Counter()

    @contextmanager
    def watch(phase: str) -> Any:
        seen[phase] += 1
        yield

    made = trainer(small_config(), watch=watch)
    made.step(0, lambda: None)
    wanted = made.settings
    assert set(seen) == set(PHASES)
    assert seen["training"] == wanted.answers // wanted.micro_batch
    assert seen["optimizer"] == wanted.answers // wanted.global_batch
