"""What measure.py measures on a GPU: hybrid models of three sizes, and the grid of configs. Plain data, no torch.

A case is a set of changes to the tiny run's config, by dotted key, so that it can be typed: `python launch.py
engine.device=cuda <key>=<value> ...` runs it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import core_case

from nano_exp.compose import conf_tree
from nano_exp.engines.embedded import task
from nano_exp.store import run_config

Changes = dict[str, Any]
Kind = Literal["speed", "peak", "rollout", "parity", "tiny"]


@dataclass(frozen=True)
class Case:
    """A measurement: which kind (a method of measure.Session), its name and the keys that it changes."""

    kind: Kind
    name: str
    changes: Changes


COMMON: Changes = {
    "engine.warm_start": {"steps": 0, "lr": 3e-3, "batch_size": 64},
    "grpo.max_num_steps": 1000,
    "grpo.val_period": 0,
    "grpo.val_at_start": False,
    "grpo.val_at_end": False,
    "checkpointing.enabled": False,
    "checkpointing.metric_name": None,
    "logger.wandb_enabled": False,
    "policy.scheduler": None,
    "policy.optimizer.kwargs.lr": 1e-6,
}
#: Undoes what of COMMON would make the tiny run another one.
TINY: Changes = {
    "engine.warm_start": {"steps": 100, "lr": 3e-3, "batch_size": 48},
    "grpo.max_num_steps": 120,
    "grpo.val_period": 10,
    "grpo.val_at_start": True,
    "grpo.val_at_end": True,
    "policy.optimizer.kwargs.lr": 2e-3,
}


def changed(config: Changes, changes: Changes) -> Changes:
    """A copy of `config` with dotted keys changed."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *sections, name = key.split(".")
        target = config
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = copy.deepcopy(value)
    return config


def base_config() -> Changes:
    """The tiny run's config, as a launch freezes it."""
    from nano_exp.compose import freeze

    with conf_tree.loader() as config_loader:
        [point] = core_case.compose_points(config_loader, [["model=nano_tiny"]])
    return run_config.engine_config(freeze.freeze(point, Path.cwd()).config)


def architecture(
    pattern: str,
    hidden: int,
    mlp: int,
    heads: int,
    kv_heads: int,
    head: int,
    mamba_heads: int,
    groups: int,
    vocabulary: int,
) -> Changes:
    """Nano 9B's proportions: Mamba's inner width about twice hidden, MLP 3.5 times, state 128, chunks of 128."""
    values = {
        "hybrid_override_pattern": pattern,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "mamba_num_heads": mamba_heads,
        "mamba_head_dim": 64,
        "n_groups": groups,
        "ssm_state_size": 128,
        "chunk_size": 128,
        "vocab_size": vocabulary,
        "initializer_range": 0.02,
    }
    return {f"policy.hf_config_overrides.{name}": value for name, value in values.items()}


# The patterns are Nano 9B's from its start, cut short.
SIZES: dict[str, Changes] = {
    "10m": architecture("M-M-M-MM-M-M-M*-", 256, 896, 4, 2, 64, 8, 1, 8192),
    "100m": architecture("M-M-M-MM-M-M-M*-M-M-", 640, 2240, 8, 2, 80, 20, 2, 32768),
    "1b": architecture("M-M-M-MM-M-M-M*-M-M-M*-M-M-M-", 2048, 7168, 16, 4, 128, 64, 8, 32768),
}
SMALL: Changes = architecture("M-M*-", 32, 64, 2, 1, 16, 2, 1, 128)


def batch(prompts: int, generations: int, micro: int, logprob: int | None = None) -> Changes:
    return {
        "grpo.num_prompts_per_step": prompts,
        "grpo.num_generations_per_prompt": generations,
        "policy.train_global_batch_size": prompts * generations,
        "policy.train_micro_batch_size": micro,
        "policy.logprob_batch_size": logprob or micro,
    }


def _new_tokens(count: int) -> Changes:
    return {
        "policy.generation.max_new_tokens": count,
        "policy.max_total_sequence_length": task.longest_prompt() + count,
    }


def sequences(total: int) -> Changes:
    """Sequences of `total` tokens, all but the longest prompt's of them new."""
    return {
        "policy.generation.max_new_tokens": total - task.longest_prompt(),
        "policy.max_total_sequence_length": total,
    }


BFLOAT16: Changes = {"policy.precision": "bfloat16", "loss_fn.reference_policy_kl_penalty": 0.01}
RECOMPUTE: Changes = {"policy.dtensor_cfg.activation_checkpointing": True}


def _point(name: str, size: str, length: int, micro: int, changes: Changes | None = None) -> Case:
    """A point of the grid: two micro batches to an update."""
    base = SIZES[size] | BFLOAT16 | sequences(length) | batch(2, micro, micro)
    return Case("peak", name, base | (changes or {}))


def _vocabulary(size: int) -> Changes:
    return {"policy.hf_config_overrides.vocab_size": size}


def _grid() -> Iterator[Case]:
    for length in (128, 256, 512, 1024, 2048):
        yield _point(f"100m, length {length}", "100m", length, 8)
    for micro in (2, 4, 16):
        yield _point(f"100m, micro batch {micro}", "100m", 512, micro)
    for size in (8192, 65536, 131072):
        yield _point(f"100m, vocabulary {size}", "100m", 512, 8, _vocabulary(size))
    for length in (512, 2048):
        yield _point(f"100m, length {length}, recompute", "100m", length, 8, RECOMPUTE)
    yield _point("100m, micro batch 16, recompute", "100m", 512, 16, RECOMPUTE)
    yield _point("100m, vocabulary 131072, recompute", "100m", 512, 8, RECOMPUTE | _vocabulary(131072))
    yield _point("1b, length 512", "1b", 512, 4)
    yield _point("1b, length 512, recompute", "1b", 512, 4, RECOMPUTE)
    yield _point("1b, length 1024", "1b", 1024, 4)
    yield _point("1b, length 2048, recompute", "1b", 2048, 4, RECOMPUTE)
    yield _point("1b, vocabulary 131072, recompute", "1b", 512, 8, RECOMPUTE | _vocabulary(131072))
    yield _point("10m, length 512", "10m", 512, 16)
    yield _point("10m, length 2048, recompute", "10m", 2048, 8, RECOMPUTE)
    yield _point("100m, float32", "100m", 512, 8, {"policy.precision": "float32"})
    yield _point("100m, float32, recompute", "100m", 1024, 8, RECOMPUTE | {"policy.precision": "float32"})
    yield _point("100m, no reference", "100m", 512, 8, {"loss_fn.reference_policy_kl_penalty": 0.0})
    yield _point("100m, log probabilities of 16", "100m", 512, 8, {"policy.logprob_batch_size": 16})
    yield _point("100m, log probabilities of 2", "100m", 1024, 4, {"policy.logprob_batch_size": 2})
    yield _point("100m, temperature 0.7", "100m", 512, 8, {"policy.generation.temperature": 0.7})


def _rollouts() -> Iterator[Case]:
    for size, prompts, changes in (
        ("100m", 8, {}),
        ("100m", 32, {}),
        ("100m", 32, _vocabulary(131072)),
        ("1b", 16, {}),
    ):
        shape = batch(prompts, 8, 8) | _new_tokens(32)
        name = f"{size}, {prompts * 8} sequences, {', '.join(f'vocabulary {v}' for v in changes.values()) or 'plain'}"
        yield Case("rollout", name, SIZES[size] | BFLOAT16 | shape | changes)


def all_cases(small: bool) -> list[Case]:
    """Every measurement, the most important first.

    Parameters
    ----------
    small: the same list with models of thousands of parameters, to try it on a CPU
    """
    new = _new_tokens(256)
    cases = [
        Case("speed", "100m", SIZES["100m"] | BFLOAT16 | new | batch(8, 16, 32)),
        Case("speed", "1b", SIZES["1b"] | BFLOAT16 | new | batch(8, 16, 8)),
        Case("speed", "10m", SIZES["10m"] | BFLOAT16 | new | batch(8, 16, 64)),
        Case("parity", "tiny", TINY | {"grpo.val_period": 0, "grpo.val_at_start": False, "grpo.val_at_end": False}),
        *_grid(),
        *_rollouts(),
        Case("tiny", "tiny", {"engine.device": "cuda"}),
        Case("tiny", "tiny, bfloat16", {"engine.device": "cuda", "policy.precision": "bfloat16"}),
    ]
    return [_shrunk(case) for case in cases] if small else cases


def _shrunk(case: Case) -> Case:
    """The same case for a CPU: thousands of parameters, few tokens, few steps."""
    few = batch(2, 4, 4) | {"engine.warm_start": {"steps": 2, "lr": 3e-3, "batch_size": 8}}
    if case.kind == "tiny":
        few |= {"engine.device": "cpu", "grpo.max_num_steps": 2, "grpo.val_period": 0, "grpo.val_at_start": False}
    elif case.kind != "parity":
        few = SMALL | sequences(32) | batch(2, 4, 4)
    return Case(case.kind, case.name, case.changes | few)
