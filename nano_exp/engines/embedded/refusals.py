"""Every mistake in a config for this engine: keys and values by settings.py's table, then what values have in common.

A rule on several keys is asked where each of them has a possible value of its own. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from nano_exp.engines import Mistake
from nano_exp.engines.embedded import task
from nano_exp.engines.embedded.settings import (
    KEYS,
    MODEL,
    PATTERNS,
    SUPERVISED_METRICS,
    TRAIN_METRICS,
    VALIDATION_METRICS,
    leaves,
)
from nano_exp.errors import choice, nearest
from nano_exp.text import as_typed

SECTIONS = ("grpo", "loss_fn", "policy", "data", "env", "logger", "checkpointing", "cluster", "engine")


def mistakes(config: dict[str, Any]) -> list[Mistake]:
    """All that keeps this engine from running the config as it is written."""
    values_by_key = dict(leaves(_engine_sections(config)))
    unknown = _unknown({key: value for key, value in values_by_key.items() if not _is_known(key, value)})
    problems = {key: KEYS[key].kind.problem(value) for key, value in values_by_key.items() if key in KEYS}
    wrong = [
        Mistake({key: values_by_key[key]}, problem, f"{key}={KEYS[key].kind.instead}, or leave the override out")
        for key, problem in problems.items()
        if problem
    ]
    missing = [
        Mistake({key: None}, "the embedded engine has no default for it", f"+{key}=<value>", f"{key} is missing")
        for key, of in KEYS.items()
        if key not in values_by_key and of.default is MISSING
    ]
    usable = {key: values_by_key.get(key, of.default) for key, of in KEYS.items() if not problems.get(key)}
    values = Values({key: value for key, value in usable.items() if value is not MISSING})
    return [*unknown, *wrong, *missing, *(mistake for rule in RULES for mistake in values.mistakes_of(rule))]


def _engine_sections(config: dict[str, Any]) -> dict[str, Any]:
    """The engine's sections, and those that nobody has."""
    others = set(config) - {*SECTIONS, "data_plane", "on_policy_distillation"}
    if others:
        # Only at launch are there sections that are not the engine's.
        from nano_exp.store.run_config import LAUNCHER_KEYS

        others &= set(LAUNCHER_KEYS)
    return {name: value for name, value in config.items() if name not in others}


def _is_known(key: str, value: Any) -> bool:
    return key in KEYS or value == {} or any(fnmatchcase(key, pattern) for pattern in PATTERNS)


def _unknown(values_by_key: dict[str, Any]) -> Iterator[Mistake]:
    """One mistake for each key; for each section of which the engine has nothing, one for all of it."""
    why = "the embedded engine has no such key; it might change the result, so it is refused and not ignored"
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values_by_key.items():
        around = (key[: match.start()] for match in re.finditer(r"\.", key))
        foreign = (name for name in around if not any(known.startswith(f"{name}.") for known in KEYS))
        sections.setdefault(next(foreign, key), {})[key] = value
    for name, keys in sections.items():
        key, value = next(iter(keys.items()))
        near = nearest(key, KEYS, n=1) if len(keys) == 1 else []
        fix = f"leave {'it' if len(keys) == 1 else name} out"
        fix = f"{near[0]}={as_typed(value)}, or {fix}" if near else fix
        yield Mistake(keys, why, f"{fix}; NeMo RL itself runs with engine=nemo_rl")


class Unusable(Exception):
    """A rule asked for a key whose value is missing or refused by itself."""


class Values(dict[str, Any]):
    """The values of KEYS that are possible, defaults where a key is absent."""

    def __missing__(self, key: str) -> Any:
        if key in KEYS:
            raise Unusable(key)
        raise KeyError(key)

    def mistakes_of(self, rule: Rule) -> Iterator[Mistake]:
        """What a rule says, as far as it has values to judge."""
        try:
            yield from rule(self)
        except Unusable:
            return

    def pick(self, *keys: str) -> dict[str, Any]:
        return {key: self[key] for key in keys}


Rule = Callable[[Values], Iterator[Mistake]]

PROMPTS, GENERATIONS = "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"
GLOBAL, MICRO = "policy.train_global_batch_size", "policy.train_micro_batch_size"
LOGPROB = "policy.logprob_batch_size"
SPLIT = "data.train.split_validation_size"
VALIDATIONS = ("grpo.val_period", "grpo.val_at_start", "grpo.val_at_end")
NEW, LENGTH = "policy.generation.max_new_tokens", "policy.max_total_sequence_length"
RATE = "policy.optimizer.kwargs.lr"

#: Keys whose product has to be a multiple of the next one, and why.
DIVIDES = (
    ((PROMPTS, GENERATIONS), GLOBAL, "a rollout is cut into whole global batches, one optimizer update each"),
    ((GLOBAL,), MICRO, "a global batch is cut into whole micro batches"),
    ((PROMPTS, GENERATIONS), LOGPROB, "a rollout is cut into whole batches for its log probabilities"),
    ((f"{MODEL}.num_attention_heads",), f"{MODEL}.num_key_value_heads", "query heads share these equally"),
    ((f"{MODEL}.mamba_num_heads",), f"{MODEL}.n_groups", "Mamba heads share groups equally"),
)


def whole_parts(v: Values) -> Iterator[Mistake]:
    for whole, part, why in DIVIDES:
        yield from v.mistakes_of(partial(_divides, whole=whole, part=part, why=why))


def _divides(v: Values, whole: tuple[str, ...], part: str, why: str) -> Iterator[Mistake]:
    if v[part] is None or None in (sizes := [v[key] for key in whole]):
        return  # an architecture's key that is left to transformers
    total, size = math.prod(sizes), v[part]
    if total % size:
        fits = next(number for number in range(min(size, total), 0, -1) if total % number == 0)
        count = f" ({total} answers)" if len(whole) > 1 else ""
        yield Mistake(v.pick(part, *whole), f"{why}{count}", f"{part}={fits}")


def enough_requests(v: Values) -> Iterator[Mistake]:
    requests, _ = task.sizes(v[SPLIT])
    if v[PROMPTS] > requests:
        yield Mistake(
            v.pick(PROMPTS),
            f"the task has {requests} requests to train on, and a step takes different ones",
            f"{PROMPTS}={requests} or less",
        )
        return
    epochs, steps, per_epoch = v["grpo.max_num_epochs"], v["grpo.max_num_steps"], requests // v[PROMPTS]
    if epochs is not None and epochs * per_epoch < steps:
        yield Mistake(
            v.pick("grpo.max_num_epochs", "grpo.max_num_steps"),
            f"an epoch has {per_epoch} steps, so the data ends after step {epochs * per_epoch}",
            f"grpo.max_num_epochs={-(-steps // per_epoch)}, or grpo.max_num_steps={epochs * per_epoch}",
        )


def validation(v: Values) -> Iterator[Mistake]:
    if not any(v.pick(*VALIDATIONS).values()):
        return
    yield from v.mistakes_of(_held_out)
    samples, size = v["grpo.max_val_samples"], v["grpo.val_batch_size"]
    if samples is None or size is None or samples < size:
        yield Mistake(
            v.pick("grpo.max_val_samples", "grpo.val_batch_size"),
            "a validation takes max_val_samples // val_batch_size whole batches, which comes to 0",
            f"grpo.val_batch_size={samples or 40} and grpo.max_val_samples={samples or 40}",
        )


def _held_out(v: Values) -> Iterator[Mistake]:
    if not task.sizes(v[SPLIT])[1]:
        yield Mistake(
            v.pick(SPLIT),
            "validation is on and no request is held out for it",
            f"{SPLIT}=0.25, or grpo.val_period=0 with val_at_start and val_at_end false",
        )


def room_for_an_answer(v: Values) -> Iterator[Mistake]:
    longest = task.longest_prompt()
    if longest + v[NEW] > v[LENGTH]:
        yield Mistake(
            v.pick(LENGTH, NEW),
            f"the longest prompt has {longest} tokens, so a sequence may have {longest + v[NEW]}",
            f"{LENGTH}={longest + v[NEW]}, or {NEW}={max(task.ANSWER_TOKENS, v[LENGTH] - longest)}",
        )


def known_metric(v: Values) -> Iterator[Mistake]:
    train = SUPERVISED_METRICS if v["engine.algorithm"] == "sft" else TRAIN_METRICS
    every = [*(f"train:{name}" for name in train), *(f"val:{name}" for name in VALIDATION_METRICS)]
    full = v["checkpointing.metric_name"]
    if full is not None and full not in every:
        yield Mistake(
            v.pick("checkpointing.metric_name"),
            "checkpoints are ranked by a metric of this engine, written train:<metric> or val:<metric>",
            choice("checkpointing.metric_name=", nearest(full, every), every),
        )


def estimator_agrees(v: Values) -> Iterator[Mistake]:
    for name in ("normalize_rewards", "use_leave_one_out_baseline"):
        outer, inner = f"grpo.{name}", f"grpo.adv_estimator.{name}"
        if v[inner] is not None and v[inner] != v[outer]:
            yield Mistake(
                v.pick(outer, inner),
                "NeMo RL trains with adv_estimator's and the other says something else",
                f"{outer}={str(v[inner]).lower()}; the published configs tie the two together",
            )


def reference_needed(v: Values) -> Iterator[Mistake]:
    skip, penalty = "grpo.skip_reference_policy_logprobs_calculation", "loss_fn.reference_policy_kl_penalty"
    if v[skip] and v[penalty] != 0:
        yield Mistake(
            v.pick(skip, penalty),
            "the penalty is computed from the reference policy's log probabilities",
            f"{penalty}=0, or leave the first one out",
        )


def supervised_has_no_penalty(v: Values) -> Iterator[Mistake]:
    penalty = "loss_fn.reference_policy_kl_penalty"
    if v["engine.algorithm"] == "sft" and v[penalty] != 0:
        yield Mistake(
            v.pick("engine.algorithm", penalty),
            "supervised steps have one loss, cross-entropy on the right calls",
            f"{penalty}=0",
        )


def rate_falls(v: Values) -> Iterator[Mistake]:
    entries = v["policy.scheduler"] or []
    for entry in [entries] if isinstance(entries, dict) else entries:
        low = (entry.get("kwargs") or {}).get("eta_min", 0)
        if low > v[RATE]:
            yield Mistake(
                v.pick("policy.scheduler", RATE),
                "the rate would rise from lr to its minimum",
                "optimizer.min_lr=<at most optimizer.lr>; one knob moves both the optimizer and the scheduler",
                f"policy.scheduler: eta_min={low} with {RATE}={v[RATE]}",
            )


def possible_experts(v: Values) -> Iterator[Mistake]:
    if "E" not in v[f"{MODEL}.hybrid_override_pattern"]:
        return
    names = ("n_routed_experts", "n_group", "topk_group", "num_experts_per_tok")
    keys = [f"{MODEL}.{name}" for name in names]
    # transformers' defaults, where a key is left to it.
    experts, groups, used, chosen = (v[key] or default for key, default in zip(keys, (8, 1, 1, 2), strict=True))
    yield from _divides(v, (keys[0],), keys[1], "experts form equal groups")
    in_group = experts // groups
    if in_group < 2 or used > groups or chosen > used * in_group:
        yield Mistake(
            v.pick(*keys),
            "a token chooses topk_group of n_group groups, each of two experts or more, and its experts among those",
            f"{MODEL}.n_group=1 with topk_group=1 and num_experts_per_tok up to n_routed_experts",
        )


RULES: tuple[Rule, ...] = (
    whole_parts,
    enough_requests,
    validation,
    room_for_an_answer,
    known_metric,
    estimator_agrees,
    reference_needed,
    supervised_has_no_penalty,
    rate_falls,
    possible_experts,
)
