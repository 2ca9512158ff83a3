"""What runs cost at most: GPU-hours of an allocation, and disk for checkpoints. Estimates, and called that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp.preflight.view import View
from nano_exp.slurm.restart_policy import Limits

#: Bytes a parameter in a checkpoint: (weights, optimizer state). Megatron's distributed checkpoint has bf16 weights,
#: and fp32 main weights with Adam's two moments; DTensor's workers keep and save everything in fp32.
BYTES = {"megatron": (2, 12), "dtensor": (4, 8)}


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

    keep_top_k ones, the newest, and the one being written (utils/checkpoint.py, remove_old_checkpoints). LoRA saves
    less.
    """
    parameters, period = c.known_model.get("total_parameters"), c.number("checkpointing.save_period")
    if not c.on("checkpointing.enabled") or type(parameters) is not int or not (c.megatron or c.dtensor):
        return None
    weights, state = BYTES["megatron" if c.megatron else "dtensor"]
    each = parameters * (weights + (state if c.get("checkpointing.save_optimizer", True) is not False else 0))
    top, steps = c.number("checkpointing.keep_top_k"), c.number("grpo.max_num_steps")
    saves = -(-steps // period) if steps and period and steps > 0 and period > 0 else None
    bounds = [n for n in (None if top is None or top < 0 else top + 2, saves) if n is not None]
    return Kept(min(bounds), each) if bounds else None


def gpu_hours(config: Mapping[str, Any], parameters: Mapping[str, Any]) -> float | None:
    """GPUs times the time limit of one allocation, in hours; None without GPUs or a limit."""
    cluster, minutes = config.get("cluster") or {}, parameters.get("timeout_min")
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
    attempts: allocations that a run may take before it needs another launch
    """

    runs: int = 0
    gpu_hours: float | None = None
    largest_gpu_hours: float | None = None
    checkpoint_bytes: int | None = None
    largest_checkpoint_bytes: int | None = None
    attempts: int = 1

    def lines(self) -> list[str]:
        """For people, each saying what it counts; empty where nothing is known."""
        found = []
        if self.gpu_hours is not None and self.largest_gpu_hours is not None:
            said = self._both(f"{_hours(self.largest_gpu_hours)} GPU-hours", _hours(self.gpu_hours))
            found.append(f"one allocation each, to its time limit: {said}")
            if self.attempts > 1:
                found.append(
                    f"a run with steps left goes on in another one, up to {self.attempts} (slurm.max_attempts)"
                )
        if self.checkpoint_bytes is not None and self.largest_checkpoint_bytes is not None:
            each, whole = gigabytes(self.largest_checkpoint_bytes), gigabytes(self.checkpoint_bytes)
            found.append(f"checkpoints, at most (estimated): {self._both(each, whole)}")
        return found

    def _both(self, each: str, whole: str) -> str:
        return f"{each} a run" if self.runs == 1 else f"{each} a run, {whole} in all"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def gigabytes(size: float) -> str:
    """Bytes in GB (10^9), or TB."""
    if size >= 1e12:
        return f"{size / 1e12:.1f} TB"
    return f"{size / 1e9:.0f} GB" if size >= 1e10 else f"{size / 1e9:.1f} GB"


def cost(views: Sequence[View], parameters: Mapping[str, Any]) -> Cost:
    """What runs of these configs cost at most."""
    hours = [h for c in views if c.on_slurm and (h := gpu_hours(c.config, parameters)) is not None]
    kept = [k.most for c in views if (k := checkpoints(c)) is not None]
    return Cost(
        len(views),
        sum(hours) if hours else None,
        max(hours, default=None),
        sum(kept) if kept else None,
        max(kept, default=None),
        max((_attempts(c) for c in views), default=1),
    )


def _attempts(c: View) -> int:
    limits = Limits.of(c.config.get("slurm") or {})
    return limits.attempts if limits.requeue else 1
