"""Numbers that cannot be computed with: NeMo RL declares them as numbers and checks few of them before it uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from nano_exp import alike
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View

#: Each counts something of which a run has at least one.
AT_LEAST_ONE = (
    "cluster.num_nodes",
    "grpo.max_num_steps",
    "grpo.num_prompts_per_step",
    "grpo.num_generations_per_prompt",
    "policy.train_global_batch_size",
    "policy.train_micro_batch_size",
    "policy.logprob_batch_size",
    "policy.max_total_sequence_length",
)


@rule(engine=ANY_ENGINE)
def at_least_one(c: View) -> Iterator[Mistake]:
    """Steps, prompts, generations, batch sizes, lengths and nodes are counted from 1, and a model has a name."""
    for key in AT_LEAST_ONE:
        count = c.number(key)
        if count is not None and count < 1:
            yield Mistake(
                (key,), "a run has at least one of them: with less it ends at once, or divides by it", f"{key}=1"
            )
    if c.get("policy.model_name") == "":
        yield Mistake(("policy.model_name",), "the model is found by its name", "leave it out: model= sets it")


@rule(engine=ANY_ENGINE)
def finite_numbers(c: View) -> Iterator[Mistake]:
    """No number is nan or infinite."""
    optimizer = c.launcher("optimizer")
    knobs = {f"optimizer.{name}": optimizer[name] for name in alike.where(optimizer, _endless)}
    for name, value in {key: value for key, value in knobs.items() if key in c.typed}.items() or knobs.items():
        yield Mistake((), NO_NUMBER, f"{name}=<a number>", f"{name}={value}")
    if knobs:
        return  # what is derived from them is not the user's
    for key in c.where(_endless):
        yield Mistake((key,), NO_NUMBER, f"{key}=<a number>")


NO_NUMBER = "what is computed with it is not a number: the weights become nan at the first step"


def _endless(key: str, value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


#: What an optimizer takes: (last words of the key, whether it takes a value, in words).
RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("lr",), lambda value: value > 0, "above 0"),
    (("min_lr", "weight_decay", "clip_grad"), lambda value: value >= 0, "at least 0"),
    (("adam_beta1", "adam_beta2", "sgd_momentum"), lambda value: 0 <= value < 1, "at least 0 and below 1"),
    (("eps", "adam_eps"), lambda value: value > 0, "above 0"),
)
MEGATRON_OPTIMIZER, DTENSOR_OPTIMIZER = "policy.megatron_cfg.optimizer", "policy.optimizer.kwargs"
#: The project's own name (conf/optimizer) of a key that Megatron calls otherwise.
KNOBS = {"adam_eps": "eps"}


@rule()
def optimizer_ranges(c: View) -> Iterator[Mistake]:
    """The optimizer's numbers are ones that it trains with: a learning rate above 0, moments below 1, and so on.

    torch.optim.AdamW raises ("Invalid learning rate: ..."), Megatron's trains backwards, or nothing at a rate of 0, and
    has `assert self.min_lr >= 0.0` and `assert self.max_lr >= self.min_lr` (optimizer_param_scheduler.py).
    """
    section = MEGATRON_OPTIMIZER if c.megatron else DTENSOR_OPTIMIZER
    bad_rate = False
    for names, good, words in RANGES:
        for name in names:
            value = c.get(f"{section}.{name}")
            if not _number(value) or good(value) or (name == "min_lr" and bad_rate):
                continue
            bad_rate = bad_rate or name == "lr"
            key = f"{section}.{name}"
            typed = _knob(c, KNOBS.get(name, name), key)
            yield Mistake(
                (key,), f"a model cannot be trained with it: it has to be {words}", f"{typed}=<a number {words}>"
            )
    betas = c.get(f"{DTENSOR_OPTIMIZER}.betas")
    if c.dtensor and isinstance(betas, list) and not all(_number(beta) and 0 <= beta < 1 for beta in betas):
        key = f"{DTENSOR_OPTIMIZER}.betas"
        yield Mistake((key,), "both are at least 0 and below 1", f"'{_knob(c, 'betas', key)}=[0.9,0.999]'")
    low, high = c.get(f"{MEGATRON_OPTIMIZER}.min_lr"), c.get(f"{MEGATRON_OPTIMIZER}.lr")
    if c.megatron and _number(low) and _number(high) and low > high > 0:
        yield Mistake(
            (f"{MEGATRON_OPTIMIZER}.min_lr", f"{MEGATRON_OPTIMIZER}.lr"),
            "Megatron's schedule ends at min_lr and asserts that it is not above lr",
            f"{_knob(c, 'min_lr', f'{MEGATRON_OPTIMIZER}.min_lr')}={high:g}",
        )


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _knob(c: View, name: str, key: str) -> str:
    """What one types to change an optimizer's key: the project's own, unless the backend's was typed."""
    return key if key in c.typed or name not in c.launcher("optimizer") else f"optimizer.{name}"
