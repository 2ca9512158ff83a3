"""What the values of several keys must have in common. `check` is the engine's whole check; it imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nano_exp.engines.embedded import keys, task
from nano_exp.errors import UserError, choice, nearest

Leaves = dict[str, Any]
Combination = Callable[[Leaves], None]
_COMBINATIONS: list[Combination] = []


def combination(rule: Combination) -> Combination:
    """Register a rule on the leaves of a config, all of which have a possible value of their own."""
    _COMBINATIONS.append(rule)
    return rule


def check(config: dict[str, Any]) -> None:
    """Refuse a config that this engine cannot run as it is written.

    Raises
    ------
    UserError: the first key, value or combination that is refused
    """
    flat = keys.check_keys(config)
    for rule in _COMBINATIONS:
        rule(flat)


def _leave_one_out(flat: Leaves) -> bool:
    own = flat.get("grpo.adv_estimator.use_leave_one_out_baseline")
    return bool(flat["grpo.use_leave_one_out_baseline"] if own is None else own)


@combination
def several_generations(flat: Leaves) -> None:
    generations = flat["grpo.num_generations_per_prompt"]
    if generations < 2:
        base = "leaves out the only one" if _leave_one_out(flat) else "is that one's own reward"
        raise UserError(
            f"grpo.num_generations_per_prompt={generations}",
            f"an answer is compared with the other answers to its prompt; with one the baseline {base}, "
            "so every advantage is 0 and nothing is learned",
            "grpo.num_generations_per_prompt=2 or more (16 was measured to learn)",
        )


@combination
def global_batches(flat: Leaves) -> None:
    prompts, generations = flat["grpo.num_prompts_per_step"], flat["grpo.num_generations_per_prompt"]
    whole, size = prompts * generations, flat["policy.train_global_batch_size"]
    if whole % size:
        raise UserError(
            f"policy.train_global_batch_size={size} with a rollout of {prompts} x {generations} = {whole} answers",
            "a rollout is cut into whole global batches, one optimizer update each",
            f"policy.train_global_batch_size={_divisor(whole, size)}, or {whole} for one update a rollout",
        )


@combination
def micro_batches(flat: Leaves) -> None:
    whole, size = flat["policy.train_global_batch_size"], flat["policy.train_micro_batch_size"]
    if whole % size:
        raise UserError(
            f"policy.train_micro_batch_size={size} with policy.train_global_batch_size={whole}",
            "a global batch is cut into whole micro batches",
            f"policy.train_micro_batch_size={_divisor(whole, size)}",
        )
    answers = flat["grpo.num_prompts_per_step"] * flat["grpo.num_generations_per_prompt"]
    size = flat["policy.logprob_batch_size"]
    if answers % size:
        raise UserError(
            f"policy.logprob_batch_size={size} with a rollout of {answers} answers",
            "a rollout is cut into whole batches for its log probabilities",
            f"policy.logprob_batch_size={_divisor(answers, size)}",
        )


def _divisor(whole: int, near: int) -> int:
    """The largest divisor of `whole` that is not over `near`."""
    return next(size for size in range(min(near, whole), 0, -1) if whole % size == 0)


@combination
def enough_requests(flat: Leaves) -> None:
    train, held_out = task.split(flat["data.train.split_validation_size"], flat["data.train.seed"])
    prompts, steps = flat["grpo.num_prompts_per_step"], flat["grpo.max_num_steps"]
    if prompts > len(train):
        raise UserError(
            f"grpo.num_prompts_per_step={prompts}",
            f"the task has {len(train)} requests to train on, and a step takes different ones",
            f"grpo.num_prompts_per_step={len(train)} or less",
        )
    epochs, per_epoch = flat.get("grpo.max_num_epochs"), len(train) // prompts
    if epochs is not None and epochs * per_epoch < steps:
        raise UserError(
            f"grpo.max_num_epochs={epochs} with grpo.max_num_steps={steps}",
            f"an epoch has {per_epoch} steps, so the data ends after step {epochs * per_epoch}",
            f"grpo.max_num_epochs={-(-steps // per_epoch)}, or grpo.max_num_steps={epochs * per_epoch}",
        )
    if _validates(flat) and not held_out:
        raise UserError(
            f"data.train.split_validation_size={flat['data.train.split_validation_size']}",
            "validation is on and no request is held out for it",
            "data.train.split_validation_size=0.25, or grpo.val_period=0 with val_at_start and val_at_end false",
        )


def _validates(flat: Leaves) -> bool:
    return bool(flat["grpo.val_period"] or flat.get("grpo.val_at_start") or flat.get("grpo.val_at_end"))


@combination
def whole_validation_batches(flat: Leaves) -> None:
    samples, size = flat.get("grpo.max_val_samples"), flat.get("grpo.val_batch_size")
    if _validates(flat) and (samples is None or size is None or samples < size):
        raise UserError(
            f"grpo.max_val_samples={keys.r.show(samples)} with grpo.val_batch_size={keys.r.show(size)}",
            "a validation takes max_val_samples // val_batch_size whole batches, which is none",
            f"grpo.val_batch_size={samples or 40} and grpo.max_val_samples={samples or 40}",
        )


@combination
def room_for_an_answer(flat: Leaves) -> None:
    longest, new = task.longest_prompt(), flat["policy.generation.max_new_tokens"]
    limit = flat["policy.max_total_sequence_length"]
    if new < task.ANSWER_TOKENS:
        raise UserError(
            f"policy.generation.max_new_tokens={new}",
            f"a right answer has {task.ANSWER_TOKENS} tokens, so no answer could earn a reward",
            f"policy.generation.max_new_tokens=12 ({task.ANSWER_TOKENS} or more)",
        )
    if longest + new > limit:
        raise UserError(
            f"policy.max_total_sequence_length={limit} with policy.generation.max_new_tokens={new}",
            f"the longest prompt has {longest} tokens, so a sequence may have {longest + new}",
            f"policy.max_total_sequence_length={longest + new}, or "
            f"policy.generation.max_new_tokens={max(task.ANSWER_TOKENS, limit - longest)}",
        )


@combination
def known_metric(flat: Leaves) -> None:
    full = flat.get("checkpointing.metric_name")
    if full is None:
        return
    prefix, _, name = full.partition(":")
    names = {"train": keys.TRAIN_METRICS, "val": keys.VALIDATION_METRICS}.get(prefix, ())
    if name not in names:
        every = [f"train:{one}" for one in keys.TRAIN_METRICS] + [f"val:{one}" for one in keys.VALIDATION_METRICS]
        raise UserError(
            f"checkpointing.metric_name={full}",
            "checkpoints are ranked by a metric of this engine, written train:<metric> or val:<metric>",
            choice("checkpointing.metric_name=", nearest(full, every), every),
        )


@combination
def estimator_agrees(flat: Leaves) -> None:
    for name in ("normalize_rewards", "use_leave_one_out_baseline"):
        outer, own = flat[f"grpo.{name}"], flat.get(f"grpo.adv_estimator.{name}")
        if own is not None and own != outer:
            raise UserError(
                f"grpo.{name}={keys.r.show(outer)} with grpo.adv_estimator.{name}={keys.r.show(own)}",
                "NeMo RL trains with adv_estimator's and the other says something else",
                f"grpo.{name}={keys.r.show(own)}; the published configs tie the two together",
            )


@combination
def reference_needed(flat: Leaves) -> None:
    penalty = flat.get("loss_fn.reference_policy_kl_penalty", 0.01)
    if flat.get("grpo.skip_reference_policy_logprobs_calculation") and penalty != 0:
        raise UserError(
            f"grpo.skip_reference_policy_logprobs_calculation=true with loss_fn.reference_policy_kl_penalty={penalty}",
            "the penalty is computed from the reference policy's log probabilities",
            "loss_fn.reference_policy_kl_penalty=0, or leave the first one out",
        )


@combination
def rate_falls(flat: Leaves) -> None:
    lr, entries = flat["policy.optimizer.kwargs.lr"], flat.get("policy.scheduler") or []
    for entry in [entries] if isinstance(entries, dict) else entries:
        low = (entry.get("kwargs") or {}).get("eta_min", 0)
        if low > lr:
            raise UserError(
                f"policy.scheduler: eta_min={low} with policy.optimizer.kwargs.lr={lr}",
                "the rate would rise from lr to its minimum",
                "optimizer.min_lr=<at most optimizer.lr>; one knob moves both the optimizer and the scheduler",
            )


def _architecture(flat: Leaves, name: str, default: int) -> int:
    return int(flat.get(f"policy.hf_config_overrides.{name}", default))


def _multiple(flat: Leaves, whole: str, part: str, why: str) -> None:
    big, small = (flat.get(f"policy.hf_config_overrides.{name}") for name in (whole, part))
    if big is not None and small is not None and big % small:
        raise UserError(
            f"policy.hf_config_overrides.{whole}={big} with {part}={small}",
            why,
            f"policy.hf_config_overrides.{part}={_divisor(big, small)}",
        )


@combination
def possible_architecture(flat: Leaves) -> None:
    words = len(task.Vocabulary())
    size = _architecture(flat, "vocab_size", words)
    if size < words:
        raise UserError(
            f"policy.hf_config_overrides.vocab_size={size}",
            f"the task has {words} tokens",
            f"policy.hf_config_overrides.vocab_size={words} or more",
        )
    _multiple(flat, "num_attention_heads", "num_key_value_heads", "query heads share key and value heads equally")
    _multiple(flat, "mamba_num_heads", "n_groups", "Mamba heads share groups equally")
    if "E" in flat["policy.hf_config_overrides.hybrid_override_pattern"]:
        _possible_experts(flat)


def _possible_experts(flat: Leaves) -> None:
    _multiple(flat, "n_routed_experts", "n_group", "experts form equal groups")
    experts, groups = _architecture(flat, "n_routed_experts", 8), _architecture(flat, "n_group", 1)
    chosen, used = _architecture(flat, "num_experts_per_tok", 2), _architecture(flat, "topk_group", 1)
    in_group = experts // groups
    if in_group < 2 or used > groups or chosen > used * in_group:
        raise UserError(
            f"policy.hf_config_overrides: n_routed_experts={experts}, n_group={groups}, topk_group={used}, "
            f"num_experts_per_tok={chosen}",
            "a token chooses topk_group of n_group groups, each of two experts or more, and its experts among those",
            "policy.hf_config_overrides.n_group=1 with topk_group=1 and num_experts_per_tok up to n_routed_experts",
        )
