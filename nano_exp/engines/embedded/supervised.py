"""A supervised step: cross-entropy on the right calls of the step's requests (engine.algorithm=sft).

Its `reward` is the task's own, of greedy answers before the update: where every token of the right call is the most
probable one after those before it, greedy decoding gives exactly that call.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from nano_exp.engines.embedded import schedule, task
from nano_exp.engines.embedded.nemotron_h import response_logits
from nano_exp.engines.embedded.rollout import pad_left
from nano_exp.engines.embedded.trainer import Metrics, Trainer


def step(trainer: Trainer, finished: int) -> Metrics:
    """The step that follows `finished` ones, one update with all of its requests: train/* metrics, no prefix."""
    settings, vocabulary = trainer.settings, trainer.vocabulary
    with trainer.timer.measure("data_processing"):
        requests = task.batch(trainer.train_set, finished, settings.prompts, settings.seed, settings.shuffle)
        prompts, mask = pad_left([vocabulary.prompt(one) for one in requests], vocabulary.pad, trainer.device)
        answers = torch.tensor([vocabulary.answer(one.tool, one.argument) for one in requests], device=trainer.device)
        tokens, mask = torch.cat([prompts, answers], dim=1), torch.cat([mask, torch.ones_like(answers)], dim=1)
    rate = schedule.learning_rate(finished, settings.optimizer.lr, settings.scheduler)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    with trainer.timer.measure("policy_training"):
        trainer.model.train()
        trainer.optimizer.zero_grad()
        logits = response_logits(trainer.model, tokens, mask, prompts.shape[1])
        loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
        loss.backward()
        limit = float("inf") if settings.max_grad_norm is None else settings.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), limit)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    right = (logits.argmax(-1) == answers).all(dim=1).float()
    return {
        "loss": loss.item(),
        "grad_norm": norm.item(),
        "lr": rate,
        "reward": right.mean().item(),
        "num_valid_samples": float(len(requests)),
        "global_valid_seqs": float(len(requests)),
        "global_valid_toks": float(answers.numel()),
        "total_num_tokens": float(mask.sum().item()),
    }
