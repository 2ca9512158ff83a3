"""Supervised steps of the embedded engine: the loss falls, and `reward` is that of greedy answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nano_exp.engines.embedded import refusals, rollout, settings, supervised, task
from nano_exp.engines.embedded.trainer import Trainer

SFT = {"engine.algorithm": "sft", "loss_fn.reference_policy_kl_penalty": 0.0}


def test_it_learns_and_its_reward_is_that_of_greedy_answers(small_config: Any) -> None:
    changes = {**SFT, "grpo.num_prompts_per_step": 24, "policy.train_global_batch_size": 96}
    read = settings.from_config(small_config({**changes, "policy.train_micro_batch_size": 96}))
    read = replace(read, optimizer=replace(read.optimizer, lr=2e-2))
    trainer = Trainer(read, torch.device("cpu"))
    steps = [supervised.step(trainer, finished) for finished in range(40)]
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    requests = task.batch(trainer.train_set, 40, read.prompts, read.seed, read.shuffle)
    trainer.model.eval()
    greedy = replace(read.sampling, temperature=1e-4)
    chance = torch.Generator().manual_seed(1)
    answers = rollout.generate(trainer.model, trainer.vocabulary, requests, greedy, read.max_new_tokens, chance)
    assert supervised.step(trainer, 40)["reward"] == pytest.approx(answers.rewards.mean().item())
    assert 0 < answers.rewards.mean() <= 1  # else the line above shows nothing


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"loss_fn.reference_policy_kl_penalty": 0.1}, "supervised steps have one loss"),
        ({"checkpointing.metric_name": "train:kl_penalty"}, "checkpoints are ranked by a metric of this engine"),
        ({"engine.algorithm": "ppo"}, "engine.algorithm"),
    ],
)
def test_what_it_cannot_do_is_refused(small_config: Any, changes: dict[str, Any], why: str) -> None:
    found = refusals.mistakes(small_config({**SFT, **changes}))
    assert [one for one in found if why in str(one)]
    assert refusals.mistakes(small_config(SFT)) == []
