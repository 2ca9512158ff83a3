"""What runs cost at most: GPU-hours of an allocation, and disk for checkpoints. Estimates, and called that."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp import alike
from nano_exp.preflight.view import View
from nano_exp.slurm.restart_policy import Limits

#: Bytes a parameter in a checkpoint: (weights, optimizer state). Megatron's distributed checkpoint has bf16 weights,
#: and fp32 main weights with Adam's two moments; DTensor's workers keep and save everything in fp32.
BYTES = {"megatron": (2, 12), "dtensor": (4, 8)}


#: Bytes a token of what is logged of each rollout, all tokens of the longest sequence counted: train_data_stepN.jsonl
#: (token id 8, mask 5, advantage 21, two log probabilities 44 as JSON has float32, text 5; v0.5 has no ids, masks or
#: advantages), and NeMo Gym's whole responses in W&B's folder (text, as JSON in JSON).
ROLLOUT_BYTES, ROLLOUT_BYTES_V0_5, RESPONSE_BYTES = 83, 49, 6
#: The recipes' way to say that data or time ends a run, not its steps.
NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Kept:
    """Checkpoints of one run: how many there are at once, at most, and their bytes."""

    count: int
    each: int

    @property
    def most(self) -> int:
        return self.count * self.each


def checkpoints(c: View) -> Kept | None:
    """What a run's checkpoints take at their most; None where it saves none or its model's size is not known.

    keep_top_k ones, the newest (after v0.7.0 as many as ft_keep_latest_k says), and the one being written
    (utils/checkpoint.py, remove_old_checkpoints), which is also the place of one that a kill cuts off: the next attempt
    removes that before it saves. LoRA saves less.
    """
    parameters, period = c.known_model.get("total_parameters"), c.number("checkpointing.save_period")
    if not c.on("checkpointing.enabled") or type(parameters) is not int or not (c.megatron or c.dtensor):
        return None
    weights, state = BYTES["megatron" if c.megatron else "dtensor"]
    each = parameters * (weights + (state if c.get("checkpointing.save_optimizer", True) is not False else 0))
    top, steps = c.number("checkpointing.keep_top_k"), c.number("grpo.max_num_steps")
    often = c.number("checkpointing.ft_save_period") if c.version >= (0, 8, 0) else None
    newest = c.number("checkpointing.ft_keep_latest_k") if c.version >= (0, 8, 0) else None
    rare, most = _saves(steps, period), _saves(steps, often)
    saves = None if rare is None else rare + (most or 0)
    kept = None if top is None or top < 0 else top + max(newest or 1, 1) + 1
    if kept is None and newest and rare is not None:  # all that save_period divides
        kept = rare + newest + 1
    bounds = [n for n in (kept, saves) if n is not None]
    return Kept(min(bounds), each) if bounds else None


@dataclass(frozen=True)
class Logged:
    """What is logged of one run's rollouts: bytes of a step, and of all its steps; None where their number is open."""

    step: int
    most: int | None


def rollouts(c: View) -> Logged | None:
    """What logging every rollout takes at most; None where nothing of them is logged, or their number is not known.

    grpo.py writes train_data_stepN.jsonl unless NeMo Gym's responses are logged instead (from v0.6 on; async up to
    v0.7 writes both).
    """
    prompts, each = c.number("grpo.num_prompts_per_step"), c.number("grpo.num_generations_per_prompt")
    tokens, steps = c.number("policy.max_total_sequence_length"), c.number("grpo.max_num_steps")
    if not prompts or not each or not tokens or not (c.megatron or c.dtensor):
        return None
    old, responses = c.version < (0, 6), c.on("env.should_log_nemo_gym_responses")
    a_token = ROLLOUT_BYTES_V0_5 if old else ROLLOUT_BYTES
    if responses and not old and not c.on("grpo.async_grpo.enabled"):
        a_token = 0
    if responses and c.on("logger.wandb_enabled"):
        a_token += RESPONSE_BYTES
    step = prompts * each * tokens * a_token
    return Logged(step, step * steps if steps and steps < NO_LIMIT else None) if step > 0 else None


def _saves(steps: int | None, period: int | None) -> int | None:
    return -(-steps // period) if steps and period and steps > 0 and period > 0 else None


def gpu_hours(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> float | None:
    """GPUs times the time limit of one allocation, in hours; None without GPUs or a limit."""
    cluster, minutes = config.get("cluster"), parameters.get("timeout_min")
    if not isinstance(cluster, Mapping):
        return None
    nodes, gpus = cluster.get("num_nodes"), cluster.get("gpus_per_node")
    if type(nodes) is not int or type(gpus) is not int or not isinstance(minutes, int | float):
        return None
    return nodes * gpus * minutes / 60 or None


@dataclass(frozen=True)
class Cost:
    """What runs cost at most. GPU-hours are those of one allocation for each run; a run may need several.

    Parameters
    ----------
    gpu_hours, checkpoint_bytes: of all runs; None where not known
    largest_gpu_hours, largest_checkpoint_bytes: of the run that costs most
    rollout_bytes, largest_rollout_bytes: what is logged of rollouts; None where nothing is, or the steps are not known
    rollout_bytes_a_step: of the run that logs most; None where nothing is logged
    attempts: allocations that a run may take before it needs another launch
    packed: so many allocations that the runs share; GPU-hours are of those then. 0: each run has its own
    """

    runs: int = 0
    gpu_hours: float | None = None
    largest_gpu_hours: float | None = None
    checkpoint_bytes: int | None = None
    largest_checkpoint_bytes: int | None = None
    rollout_bytes: int | None = None
    largest_rollout_bytes: int | None = None
    rollout_bytes_a_step: int | None = None
    attempts: int = 1
    packed: int = 0

    def lines(self) -> list[str]:
        """For people, each saying what it counts; empty where nothing is known."""
        lines = []
        if self.gpu_hours is not None and self.largest_gpu_hours is not None:
            lines.append(self._allocations(f"{_hours(self.largest_gpu_hours)} GPU-hours", _hours(self.gpu_hours)))
            if self.attempts > 1:
                lines.append(
                    f"a run with steps left goes on in another one, up to {self.attempts} (slurm.max_attempts)"
                )
        return [*lines, *self._disk()]

    def _allocations(self, each: str, whole: str) -> str:
        if not self.packed:
            return f"one allocation each, to its time limit: {self._both(each, whole)}"
        if self.packed == 1:
            return f"one allocation for all, to its time limit: {each}"
        return f"{self.packed} allocations, to their time limit: {each} each, {whole} in all"

    def _disk(self) -> list[str]:
        parts = []
        if self.largest_checkpoint_bytes is not None:
            parts.append(f"checkpoints {gigabytes(self.largest_checkpoint_bytes)}")
        if self.largest_rollout_bytes is not None:
            parts.append(f"logged rollouts {gigabytes(self.largest_rollout_bytes)}")
        open_end = self.largest_rollout_bytes is None and self.rollout_bytes_a_step is not None
        a_step = f"logged rollouts {gigabytes(self.rollout_bytes_a_step or 0)} a step" if open_end else ""
        if not parts:
            return [f"disk, at most (estimated): {a_step}"] if a_step else []
        each = gigabytes((self.largest_checkpoint_bytes or 0) + (self.largest_rollout_bytes or 0))
        whole = gigabytes((self.checkpoint_bytes or 0) + (self.rollout_bytes or 0))
        more = f", and {a_step}" if a_step else ""
        return [f"disk, at most (estimated): {self._both(each, whole)} ({', '.join(parts)}){more}"]

    def _both(self, each: str, whole: str) -> str:
        return f"{each} a run" if self.runs == 1 else f"{each} a run, {whole} in all"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def gigabytes(size: float) -> str:
    """Bytes in GB (10^9), or MB, or TB."""
    if size >= 1e12:
        return f"{size / 1e12:.1f} TB"
    if size < 1e8:
        return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.0f} GB" if size >= 1e10 else f"{size / 1e9:.1f} GB"


def cost(configs: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> Cost:
    """What runs of these configs cost at most."""
    return of_all(alike.each(configs, lambda view: of_one(view, parameters), View, copy.copy))


def of_one(c: View, parameters: Mapping[str, Any]) -> Cost:
    """What a run of this config costs at most."""
    hours = gpu_hours(c.config, parameters) if c.on_slurm else None
    kept, logged = checkpoints(c), rollouts(c)
    size = kept.most if kept is not None else None
    most, step = (logged.most, logged.step) if logged is not None else (None, None)
    return Cost(1, hours, hours, size, size, most, most, step, _attempts(c))


def of_all(costs: Sequence[Cost]) -> Cost:
    """What these runs cost together."""

    def known(name: str) -> list[Any]:
        return [value for one in costs if (value := getattr(one, name)) is not None]

    def total(name: str) -> Any:
        return sum(known(name)) if known(name) else None

    def largest(name: str) -> Any:
        return max(known(name), default=None)

    return Cost(
        len(costs),
        total("gpu_hours"),
        largest("gpu_hours"),
        total("checkpoint_bytes"),
        largest("checkpoint_bytes"),
        total("rollout_bytes"),
        largest("rollout_bytes"),
        largest("rollout_bytes_a_step"),
        max((one.attempts for one in costs), default=1),
    )


def _attempts(c: View) -> int:
    limits = Limits.of(c.config.get("slurm") or {})
    return limits.attempts if limits.requeue else 1
