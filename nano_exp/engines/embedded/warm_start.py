"""The warm start: supervised steps that teach the form of a call and copying the name, with a RANDOM tool.

GRPO learns only from prompts whose answers differ in reward, and a model with random weights never earns one. After
the warm start the policy writes well-formed calls of a tool that it knows nothing about, so the reward starts at
chance, one in five, and which tool a request means is left for GRPO. Results say that there was one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy

from nano_exp.engines.embedded.nemotron_h import Policy, response_logits
from nano_exp.engines.embedded.rollout import pad_left
from nano_exp.engines.embedded.settings import WarmStart
from nano_exp.engines.embedded.task import TOOLS, Example, Vocabulary


def run(
    model: Policy,
    vocabulary: Vocabulary,
    train: Sequence[Example],
    settings: WarmStart,
    seed: int,
    progress: Callable[[int, float], None],
) -> None:
    """Train `model` in place. A pure function of the weights, the requests, the settings and the seed.

    Parameters
    ----------
    train: training requests only
    progress: called after each step with the number of finished steps and the loss
    """
    chance = random.Random(f"{seed} warm start")
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0)
    model.train()
    for step in range(settings.steps):
        requests = [chance.choice(train) for _ in range(settings.batch_size)]
        prompts, mask = pad_left([vocabulary.prompt(request) for request in requests], vocabulary.pad, device)
        answers = torch.tensor(
            [vocabulary.answer(chance.choice(TOOLS), request.argument) for request in requests], device=device
        )
        tokens = torch.cat([prompts, answers], dim=1)
        mask = torch.cat([mask, torch.ones_like(answers)], dim=1)
        logits = response_logits(model, tokens, mask, prompts.shape[1])
        loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss.item())
