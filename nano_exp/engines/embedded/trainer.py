"""One step of GRPO: rollout, advantages, optimizer updates, validation; and the state that a checkpoint holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from nano_exp.engines.embedded import grpo, rollout, schedule, task
from nano_exp.engines.embedded.nemotron_h import batched_logprobs, build, response_logits
from nano_exp.engines.embedded.rollout import Rollout
from nano_exp.engines.embedded.settings import Settings

Metrics = dict[str, float]
State = dict[str, Any]
PHASES = ("generation", "logprobs", "reference", "training", "optimizer")
#: What is entered around each phase of a step, by its name in PHASES: a place to measure memory and time.
Watch = Callable[[str], AbstractContextManager[None]]


def unwatched(phase: str) -> AbstractContextManager[None]:
    return nullcontext()


class Timer:
    """Seconds spent under each name since the last `take`; NeMo RL's timing/train names.

    A GPU works on after its calls have returned, so there a measurement ends when it has finished.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: Metrics = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def take(self) -> Metrics:
        taken, self._seconds = self._seconds, {}
        return taken


class Trainer:
    """The policy, its optimizer and its chance.

    Rollouts draw from one generator whose state is saved. Validation draws from a fresh one for each step, so
    validating more or less often changes no training step.
    """

    def __init__(self, settings: Settings, device: torch.device, watch: Watch = unwatched) -> None:
        self.settings, self.device, self.watch = settings, device, watch
        self.vocabulary = task.Vocabulary()
        self.train_set, self.validation_set = task.split(settings.validation_share, settings.data_seed)
        self.model = build(
            settings.architecture, self.vocabulary, settings.seed, device, settings.precision, settings.recompute
        )
        self.loss, self.sampling = settings.loss, settings.sampling
        self.timer = Timer(device)
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        random.seed(settings.seed)
        self.optimizer = self._new_optimizer()
        self.reference: dict[str, Tensor] | None = None

    def _new_optimizer(self) -> torch.optim.AdamW:
        settings = self.settings.optimizer
        # The unfused update of a GPU holds another float32 copy of all weights while it runs.
        return torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.lr,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=self.device.type == "cuda" or None,
        )

    def configure_optimizer(self) -> None:
        """Put the settings' values in place of those that a checkpoint's optimizer state has."""
        settings = self.settings.optimizer
        for group in self.optimizer.param_groups:
            group.update(betas=tuple(settings.betas), eps=settings.eps, weight_decay=settings.weight_decay)

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def freeze_reference(self) -> None:
        """Take the present weights as the reference policy, where the loss needs one."""
        if self.loss.reference_policy_kl_penalty != 0:
            self.reference = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def step(self, finished: int, keep_going: Callable[[], None]) -> tuple[Metrics, Rollout]:
        """The training step that follows `finished` ones: train/* metrics without the prefix, and the rollout.

        `keep_going` is called while nothing has changed yet but `generator`; what it raises ends the step.
        """
        settings = self.settings
        with self.timer.measure("data_processing"):
            requests = task.batch(self.train_set, finished, settings.prompts, settings.seed, settings.shuffle)
            repeated = [request for request in requests for _ in range(settings.generations)]
        with self.timer.measure("generation"), self.watch("generation"):
            self.model.eval()
            answers = rollout.generate(
                self.model,
                self.vocabulary,
                repeated,
                self.sampling,
                settings.max_new_tokens,
                self.generator,
                keep_going,
            )
        return self.learn(answers, finished), answers

    def learn(self, answers: Rollout, finished: int) -> Metrics:
        """All of a step but its rollout: update the policy with `answers`; train/* metrics without the prefix."""
        settings = self.settings
        with self.timer.measure("policy_and_reference_logprobs"):
            previous, reference = self._logprobs(answers)
        with self.timer.measure("advantage_calculation"):
            grouped = answers.rewards.view(settings.prompts, settings.generations)
            advantage = grpo.advantages(grouped, settings.leave_one_out, settings.normalize).flatten()
            low, high = settings.advantage_clip_low, settings.advantage_clip_high
            if low is not None or high is not None:
                advantage = advantage.clamp(low, high)
            sample_mask = (~answers.truncated).float() if settings.overlong_filtering else torch.ones_like(advantage)
            batch = grpo.Batch(
                previous=previous,
                generation=answers.logprobs,
                advantages=advantage.unsqueeze(1).expand_as(previous),
                token_mask=answers.token_mask,
                sample_mask=sample_mask,
                reference=reference,
            )
        rate = schedule.learning_rate(finished, settings.optimizer.lr, settings.scheduler)
        with self.timer.measure("policy_training"):
            trained = self._train(answers, batch, rate)
        return {**trained, **self._rollout_metrics(answers, batch, grouped)}

    def _logprobs(self, answers: Rollout) -> tuple[Tensor, Tensor | None]:
        """Log probabilities of the answers under the policy before its update, and under the reference policy."""

        def run() -> tuple[Tensor, Tensor]:
            arguments = (answers.tokens, answers.mask, answers.prompt_length, self.sampling)
            return batched_logprobs(self.model, *arguments, self.settings.logprob_batch)

        with self.watch("logprobs"):
            previous, _ = run()
        if self.reference is None:
            return previous, None
        with self.watch("reference"):
            current = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.reference)
            _, reference = run()
            self.model.load_state_dict(current)
        return previous, reference

    def _train(self, answers: Rollout, batch: grpo.Batch, rate: float) -> Metrics:
        """An optimizer update for each global batch of the rollout; the mean of their metrics."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        updates = settings.answers // settings.global_batch
        sums: Metrics = {}
        norm = torch.zeros(())
        for update in range(updates):
            first = update * settings.global_batch
            whole = batch.rows(first, first + settings.global_batch)
            tokens, samples = whole.mask.sum(), whole.sample_mask.sum()
            self.optimizer.zero_grad()
            for start in range(first, first + settings.global_batch, settings.micro_batch):
                with self.watch("training"):
                    metrics = self._micro_batch(answers, batch, start, tokens, samples)
                _merge(sums, metrics, updates)
            _merge(sums, {"global_valid_toks": tokens.item(), "global_valid_seqs": samples.item()}, updates)
            limit = settings.max_grad_norm
            with self.watch("optimizer"):
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
                self.optimizer.step()
        self.optimizer.zero_grad()
        ratios = {name: -1.0 for name, value in sums.items() if abs(value) == float("inf")}
        return {**sums, **ratios, "grad_norm": norm.item(), "lr": rate}

    def _micro_batch(self, answers: Rollout, batch: grpo.Batch, first: int, tokens: Tensor, samples: Tensor) -> Metrics:
        """Add the gradients of the micro batch that begins at sequence `first`; its metrics."""
        rows = slice(first, first + self.settings.micro_batch)
        # The logits have no name here: they are the largest tensor, and backward needs only what log_softmax keeps.
        current, plain = grpo.sampled_logprobs(
            response_logits(self.model, answers.tokens[rows], answers.mask[rows], answers.prompt_length),
            answers.tokens[rows, answers.prompt_length :],
            self.sampling,
        )
        loss, metrics = grpo.policy_loss(current, plain, batch.rows(rows.start, rows.stop), self.loss, tokens, samples)
        loss.backward()
        return metrics

    def _rollout_metrics(self, answers: Rollout, batch: grpo.Batch, grouped: Tensor) -> Metrics:
        baseline, _ = grpo.baseline_and_std(grouped, self.settings.leave_one_out)
        zero, one = (100 * (baseline == value).float().mean().item() for value in (0, 1))
        counted = batch.advantages[batch.token_mask.bool()]
        return {
            "reward": answers.rewards.mean().item(),
            "advantages/mean": counted.mean().item(),
            "advantages/max": counted.max().item(),
            "advantages/min": counted.min().item(),
            "baseline_reward/pct_0": zero,
            "baseline_reward/pct_1": one,
            "baseline_reward/pct_mixed": 100 - zero - one,
            "mean_prompt_length": answers.prompt_tokens.float().mean().item(),
            "total_num_tokens": float(answers.mask.sum().item()),
            **rollout.rollout_metrics(answers),
        }

    def validate(self, finished: int) -> tuple[Metrics, list[tuple[str, str]]]:
        """accuracy (mean reward) and avg_length on the held-out requests, sampled as in training (NeMo RL's validate).

        Returns the metrics and (request, answer) pairs.
        """
        settings = self.settings
        self.model.eval()
        chance = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + finished)
        rewards: list[float] = []
        lengths: list[float] = []
        pairs: list[tuple[str, str]] = []
        size = settings.val_batch_size or 0
        for number in range(settings.val_batches):
            requests = self.validation_set[number * size : (number + 1) * size]
            if not requests:
                break
            answers = rollout.generate(
                self.model, self.vocabulary, requests, self.sampling, settings.max_new_tokens, chance
            )
            rewards += answers.rewards.tolist()
            lengths.append(answers.token_mask.sum(-1).mean().item())
            pairs += zip((request.request for request in requests), answers.texts, strict=True)
        return {"accuracy": sum(rewards) / len(rewards), "avg_length": sum(lengths) / len(lengths)}, pairs

    def chance(self) -> State:
        """The state of every source of chance."""
        return {
            "rollout": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
        }

    def restore_chance(self, state: State) -> None:
        self.generator.set_state(state["rollout"])
        torch.set_rng_state(state["torch"])
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))


def _merge(sums: Metrics, metrics: Metrics, updates: int) -> None:
    """Add a micro batch's metrics: minimum and maximum as such, the rest as a mean over the updates."""
    for name, value in metrics.items():
        if name.endswith("_min"):
            sums[name] = min(sums.get(name, value), value)
        elif name.endswith("_max"):
            sums[name] = max(sums.get(name, value), value)
        else:
            sums[name] = sums.get(name, 0.0) + value / updates
