"""The embedded engine's training peak, forecast for proportions that were never measured on a GPU.

On a CPU torch's profiler records every allocation, and in float32 the operations are the GPU's. So here the formulas
meet other widths, chunks, vocabularies and mixtures of experts than those that they were made from (docs/gpu.md).
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import cases
import measure
import memory
import pytest
import torch
from core_case import spread
from torch.profiler import ProfilerActivity, profile

from nano_exp.engines.embedded.trainer import Trainer
from nano_exp.planner import gpus, phase_memory

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 224,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "n_groups": 1,
}
CASES = {
    "the tiny run's chunks": ("M-M*-", {"mamba_num_heads": 8, "mamba_head_dim": 16, "vocab_size": 96}, 64),
    "large states": ("M-M*-", {"ssm_state_size": 128, "chunk_size": 64, "mamba_num_heads": 4}, 100),
    "long chunks": ("MM-M-", {"ssm_state_size": 64, "chunk_size": 128, "mamba_num_heads": 4}, 200),
    "experts": ("MEME", {"ssm_state_size": 64, "chunk_size": 64, "mamba_num_heads": 4}, 100),
    "large vocabulary, attention alone": ("*-*-", {"vocab_size": 512}, 128),
}
#: Weights, moments and the reference are there before; they are counted exactly elsewhere.
COMES_AND_GOES = ("gradients", "activations", "logits, temporaries", "weights in bf16", "current weights, copied")


@cache
def base() -> dict[str, Any]:
    return cases.base_config()


def allocated(run: Any) -> int:
    """The most bytes that were allocated at a time while `run` ran, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [one for one in profiled.profiler.kineto_results.events() if one.name() == "[memory]"]
    most = now = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "recompute"])
@pytest.mark.parametrize("case", spread(CASES, 3), ids=str)
def test_a_training_step_allocates_what_was_forecast(case: str, recompute: bool, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pattern, own, length = CASES[case]
    sizes = SIZES | own | {"hybrid_override_pattern": pattern}
    changes = {f"policy.hf_config_overrides.{name}": value for name, value in sizes.items()}
    changes |= cases.sequences(length) | cases.batch(2, 4, 4) | (cases.RECOMPUTE if recompute else {})
    made = measure.settings_of(base(), changes, tmp_path)
    trainer = Trainer(made, torch.device("cpu"))
    answers = measure.synthetic(trainer, length)
    trainer.learn(answers, 0)
    most = allocated(lambda: trainer.learn(answers, 1))
    forecast = max(
        math.fsum(term.size.expected for term in phase.terms if term.name in COMES_AND_GOES)
        for phase in memory.phases(memory.Run(made), gpus.gpu("h100-80"), memory.ASSUMED)
        if phase.name != phase_memory.GENERATION
    )
    assert forecast == pytest.approx(most, rel=0.04), f"{forecast / most - 1:+.1%}"
