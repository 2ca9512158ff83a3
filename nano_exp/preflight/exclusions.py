"""Settings that exclude each other: one table, and the one function that looks through it.

A rule here has one or several clashes. A clash is found where all of its `when` hold: the names are dotted keys, or
what a `View` derives (`megatron`, `tp`, `gym`, ...), and each is compared with a value or asked by a test below. To add
a rule, add a row, and its failing and passing example in tests/preflight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from nano_exp.layout.case import LATE
from nano_exp.nemo_rl.versions import holds
from nano_exp.preflight.finding import Severity
from nano_exp.preflight.registry import Mistake, Rule, add
from nano_exp.preflight.view import View

Test = Callable[[Any], bool]
#: Given to a test where the key is not in the config.
MISSING: Final = object()


def is_off(value: Any) -> bool:
    """Not true: a switch that is absent is off."""
    return value is not True


def is_empty(value: Any) -> bool:
    """Absent, or what Python takes for false."""
    return value is MISSING or not value


def is_set(value: Any) -> bool:
    return value is not None and value is not MISSING


def above(limit: int) -> Test:
    """A whole number above another one."""
    return lambda value: type(value) is int and value > limit


def other_than(*values: Any) -> Test:
    """Another value than these; an absent key has NeMo RL's default, which is among them."""
    return lambda value: value is not MISSING and value not in values


def starts_with(text: str) -> Test:
    return lambda value: str(value).startswith(text)


@dataclass(frozen=True)
class Clash:
    """Settings that do not go together.

    Parameters
    ----------
    when: dotted key, or attribute of `View` -> the value that it has, or a test; `{engine}` in a key stands for the
        generation backend's section
    why: why it cannot work, or what happens instead
    fix: what to type
    keys: those that a finding shows; by default the dotted ones of `when`
    versions: where it is narrower than its rule's
    """

    when: Mapping[str, Any]
    why: str
    fix: str
    keys: tuple[str, ...] = ()
    versions: str = ""

    def is_in(self, c: View) -> bool:
        """Whether a config has all of these settings."""
        return holds(self.versions, c.version) and all(
            test(value) if callable(test) else value is test if isinstance(test, bool) else value == test
            for value, test in ((_value(c, key), test) for key, test in self.when.items())
        )

    def shown_keys(self) -> tuple[str, ...]:
        return self.keys or tuple(key for key in self.when if "." in key)


@dataclass(frozen=True)
class Exclusion:
    """A rule of preflight: a name, what has to hold, and the clashes that break it. `number` and `versions` are as
    those of `registry.Rule`."""

    name: str
    summary: str
    clashes: tuple[Clash, ...]
    number: int | None = None
    versions: str = ""
    severity: Severity = "error"


def _value(c: View, key: str) -> Any:
    if "." not in key:
        return getattr(c, key)
    dotted = _in_engine(c, key)
    return c.value(dotted) if c.has(dotted) else MISSING


def _in_engine(c: View, text: str) -> str:
    return text.replace("{engine}", c.engine_section)


def check(c: View, rule: Exclusion) -> Iterator[Mistake]:
    """What a rule of the table says of a config."""
    for clash in rule.clashes:
        if clash.is_in(c):
            yield Mistake(tuple(_in_engine(c, key) for key in clash.shown_keys()), clash.why, _in_engine(c, clash.fix))


MEGATRON, DTENSOR = "policy.megatron_cfg", "policy.dtensor_cfg"
VLLM = "policy.generation.vllm_cfg"
OPTIMIZER = f"{MEGATRON}.optimizer"
V2 = f"{DTENSOR}._v2"
SKIPPED, PENALTY = "grpo.skip_reference_policy_logprobs_calculation", "loss_fn.reference_policy_kl_penalty"
CORRECTION = "loss_fn.use_importance_sampling_correction"
ASYNC, GYM = "grpo.async_grpo.enabled", "env.should_use_nemo_gym"
KV_CACHE, DRAFT = f"{VLLM}.kv_cache_dtype", "policy.draft.enabled"
LORA, YARN = f"{DTENSOR}.lora_cfg", "policy.hf_config_overrides.rope_scaling.rope_type"
FORMAT, PLAN = "checkpointing.model_save_format", f"{DTENSOR}.custom_parallel_plan"
CHUNKS, GRANULARITY = "policy.logprob_chunk_size", f"{MEGATRON}.recompute_granularity"


def _fp8_cache(other: str, when: Mapping[str, Any], why: str, instead: str) -> Clash:
    """An FP8 KV cache beside a setting that it does not go with."""
    return Clash(
        {"vllm": True, KV_CACHE: starts_with("fp8"), **when},
        why,
        f"{KV_CACHE}=auto, or {other}={instead}",
        (KV_CACHE, other),
    )


def _asynchronous(key: str, when: Mapping[str, Any], why: str, instead: str) -> Clash:
    """Asynchronous GRPO beside a setting that it does not go with."""
    return Clash({ASYNC: True, **when}, why, f"{key}={instead}, or {ASYNC}=false", (ASYNC, key))


def _precision(precision: str, name: str, when: Mapping[str, Any], why: str, instead: str) -> Clash:
    """The weights' precision beside what Megatron's optimizer is told of it."""
    key = f"{OPTIMIZER}.{name}"
    keys = ("policy.precision", *when, key)
    on = is_off if instead == "true" else True
    return Clash({"megatron": True, "policy.precision": precision, **when, key: on}, why, f"{key}={instead}", keys)


EXCLUSIONS = (
    Exclusion(
        "batch_multiplier",
        "More prompts than a step trains on are drawn only for dynamic sampling.",
        (
            Clash(
                {"grpo.batch_multiplier": other_than(1), "grpo.use_dynamic_sampling": is_off},
                "the prompts that batch_multiplier adds are what dynamic sampling chooses from; without it NeMo RL "
                "stops",
                "grpo.batch_multiplier=1, or grpo.use_dynamic_sampling=true",
            ),
        ),
        1,
    ),
    Exclusion(
        "penalty_without_reference",
        "The KL penalty needs the reference policy's log probabilities.",
        (
            Clash(
                {SKIPPED: True, PENALTY: other_than(0)},
                "the penalty is computed from the log probabilities that are skipped",
                f"{PENALTY}=0, or {SKIPPED}=false",
            ),
        ),
        5,
        ">=v0.6.0",
    ),
    Exclusion(
        "fp8_correction",
        "vLLM in FP8 generates with other weights than those trained, which has to be corrected for.",
        (
            Clash(
                {"vllm": True, f"{VLLM}.precision": "fp8", CORRECTION: is_off},
                "samples of an FP8 policy are off-policy; NeMo RL stops without the correction",
                f"{CORRECTION}=true, or {VLLM}.precision=bfloat16",
            ),
        ),
        9,
    ),
    Exclusion(
        "fp8_kv_cache",
        "An FP8 KV cache goes with FP8 weights, Megatron without pipelining, and the synchronous engine.",
        (
            _fp8_cache(
                f"{VLLM}.precision",
                {f"{VLLM}.precision": lambda value: value != "fp8"},
                "it is only for FP8 weights",
                "fp8",
            ),
            _fp8_cache(
                f"{DTENSOR}.enabled", {"dtensor": True}, "its scales are computed by Megatron's worker alone", "false"
            ),
            _fp8_cache(
                f"{VLLM}.async_engine",
                {"async_engine": True},
                "its scales are not sent to the asynchronous engine",
                "false",
            ),
            _fp8_cache(
                f"{MEGATRON}.pipeline_model_parallel_size",
                {"megatron": True, "pp": above(1)},
                "its scales are not gathered over pipeline stages",
                "1",
            ),
        ),
        9,
    ),
    Exclusion(
        "async_grpo",
        "Asynchronous GRPO generates beside the training, with samples of an older policy.",
        (
            _asynchronous(
                "policy.generation.{engine}.async_engine",
                {"always_async": False, "policy.generation.{engine}.async_engine": is_off},
                "trajectories are collected from the asynchronous engine",
                "true",
            ),
            _asynchronous(CORRECTION, {CORRECTION: is_off}, "samples of an older policy need the correction", "true"),
            _asynchronous(
                "policy.generation.colocated.enabled",
                {"may_be_colocated_async": False, "colocated": True},
                "generation goes on while the policy trains: GPUs of its own",
                "false",
            ),
            *(
                _asynchronous(key, {key: True}, "asynchronous GRPO does not have it", "false")
                for key in (
                    *("grpo.use_dynamic_sampling", "grpo.reward_scaling.enabled", "grpo.reward_shaping.enabled"),
                    "data.use_multiple_dataloader",
                )
            ),
        ),
        11,
    ),
    Exclusion(
        "pipeline_needs_async",
        "Pipeline parallel generation needs the asynchronous engine.",
        (
            Clash(
                {"vllm": True, "vpp": above(1), "async_engine": False},
                "only the asynchronous engine runs pipeline stages",
                f"{VLLM}.async_engine=true, or {VLLM}.pipeline_parallel_size=1",
                (f"{VLLM}.pipeline_parallel_size", f"{VLLM}.async_engine"),
            ),
        ),
        21,
    ),
    Exclusion(
        "one_backend",
        "Exactly one backend trains.",
        tuple(
            Clash(
                {f"{MEGATRON}.enabled": state, f"{DTENSOR}.enabled": state},
                why,
                "a whole layout: parallelism=megatron_tp2, parallelism=fsdp2, ...; by hand, one of the two true and "
                "the other false",
            )
            for state, why in (
                (True, "both backends are on, and one trains"),
                (is_off, "no backend is on, so nothing trains"),
            )
        ),
        14,
    ),
    Exclusion(
        "dtensor_v1_limits",
        "LoRA and replicated FSDP are DTensor v2's.",
        (
            Clash(
                {"dtensor": True, f"{LORA}.enabled": True, V2: is_off},
                "the first DTensor worker has no LoRA",
                f"++{V2}=true",
            ),
            Clash(
                {"dtensor": True, f"{DTENSOR}.dp_replicate_size": above(1), V2: is_off},
                "the first DTensor worker cannot replicate shards",
                f"++{V2}=true",
                versions=">=v0.7.0",
            ),
        ),
        19,
    ),
    Exclusion(
        "draft_model",
        "A draft model is trained by Megatron, without packing.",
        (
            Clash(
                {DRAFT: True, "megatron": False},
                "only Megatron trains a draft model",
                f"{DRAFT}=false",
                (DRAFT, f"{MEGATRON}.enabled"),
            ),
            Clash(
                {DRAFT: True, "policy.sequence_packing.enabled": True},
                "a draft model is not trained on packed sequences",
                f"policy.sequence_packing.enabled=false, or {DRAFT}=false",
            ),
        ),
        19,
        ">=v0.6.0",
    ),
    # `assert _should_use_nemo_gym(master_config)` in _resolve_message_level_advantage_penalties (grpo.py).
    Exclusion(
        "penalties_need_gym",
        "Penalties for invalid tool calls and malformed thinking are given by what NeMo Gym reports.",
        tuple(
            Clash(
                {"gym": False, key: is_set},
                f"{LATE}which messages are invalid is known from NeMo Gym alone, and NeMo RL asserts that it is used",
                f"{key}=null",
                (key, GYM),
            )
            for key in ("grpo.invalid_tool_call_advantage", "grpo.malformed_thinking_advantage")
        ),
        versions=">=v0.7.0",
    ),
    Exclusion(
        "gym_validation_samples",
        "NeMo Gym validates on its whole validation file.",
        (
            Clash(
                {"grpo.max_val_samples": is_set, GYM: True},
                "run_grpo_nemo_gym.py takes the whole validation file and stops when a number is set",
                "grpo.max_val_samples=null",
            ),
        ),
    ),
    Exclusion(
        "gym_overlong_filtering",
        "Filtering of overlong answers was seen to crash with NeMo Gym.",
        (
            Clash(
                {"grpo.overlong_filtering": True, GYM: True},
                "Gym's rollouts do not say which answers were cut, and the filter was seen to crash on that",
                "grpo.overlong_filtering=false",
            ),
        ),
        versions="<v0.6.0",
        severity="warning",
    ),
    Exclusion(
        "chunked_log_probabilities",
        "Log probabilities in chunks need logits that are not yet in fp32.",
        (
            Clash(
                {"megatron": True, CHUNKS: above(0), f"{MEGATRON}.defer_fp32_logits": is_off},
                "chunks save memory only where the whole logits are not turned to fp32 first",
                f"{MEGATRON}.defer_fp32_logits=true",
            ),
        ),
        33,
    ),
    Exclusion(
        "optimizer_precision",
        "The optimizer's precision is the model's.",
        (
            *(
                _precision(
                    precision,
                    name,
                    {f"{OPTIMIZER}.use_precision_aware_optimizer": True},
                    f"the precision-aware optimizer keeps what the {precision} weights lack, so it has to know that "
                    "they are",
                    "true",
                )
                for precision, name in (("bfloat16", "bf16"), ("float16", "fp16"))
            ),
            *(
                _precision("float32", name, {}, "the weights are fp32 and the optimizer is told otherwise", "false")
                for name in ("bf16", "fp16")
            ),
        ),
        34,
    ),
    Exclusion(
        "recompute_granularity",
        "Activations are recomputed in full or selectively.",
        (
            Clash(
                {
                    "megatron": True,
                    f"{MEGATRON}.activation_checkpointing": True,
                    GRANULARITY: other_than("full", "selective"),
                },
                "there are two ways to recompute activations: full and selective",
                f"{GRANULARITY}=full",
                (GRANULARITY,),
            ),
        ),
        35,
        ">=v0.7.0",
    ),
    Exclusion(
        "megatron_reward_model",
        "Megatron trains no reward model.",
        (
            Clash(
                {"megatron": True, "policy.reward_model_cfg.enabled": True},
                "NeMo RL's Megatron worker has no reward models",
                "policy.reward_model_cfg.enabled=false, or parallelism=fsdp2",
                ("policy.reward_model_cfg.enabled", f"{MEGATRON}.enabled"),
            ),
        ),
        35,
    ),
    Exclusion(
        "lora_kernels",
        "LoRA's Triton kernels do not know tensor parallel.",
        (
            Clash(
                {"dtensor": True, f"{LORA}.enabled": True, "tp": above(1), f"{LORA}.use_triton": True},
                "its Triton kernels work on whole matrices",
                f"{LORA}.use_triton=false",
                (f"{LORA}.use_triton", f"{DTENSOR}.tensor_parallel_size"),
            ),
        ),
        36,
    ),
    Exclusion(
        "dtensor_yarn",
        "YaRN is Megatron's.",
        (
            Clash(
                {"dtensor": True, YARN: "yarn"},
                "DTensor's worker has no YaRN",
                "a Megatron layout: parallelism=megatron_tp2",
                (YARN, f"{DTENSOR}.enabled"),
            ),
        ),
        36,
        ">=v0.6.0",
    ),
    # `raise ValueError("model_save_format must be None or omitted if using DTensorPolicyWorker (_v2=False).")`
    # (lm_policy.py, save_checkpoint, all versions), for Megatron too, where it looks at the same key.
    Exclusion(
        "save_format_needs_v2",
        "A format of the saved weights is DTensor v2's to choose.",
        (
            Clash(
                {"checkpointing.enabled": True, FORMAT: is_set, V2: is_empty},
                "found out at the first save, after hours of training: NeMo RL takes a format only with DTensor's "
                "second worker, and stops",
                f"{FORMAT}=null, or ++{V2}=true",
                (FORMAT, V2),
            ),
        ),
    ),
    Exclusion(
        "hybrid_on_dtensor_v1",
        "The first DTensor worker shards Nemotron-H by a plan of its own.",
        (
            Clash(
                {"dtensor": True, "model_type": "nemotron_h", PLAN: is_set, V2: is_off},
                "the plan for Nemotron-H is NeMo RL's own",
                f"{PLAN}=null",
            ),
        ),
        37,
    ),
)

for _one in EXCLUSIONS:
    add(
        Rule(
            _one.name, _one.summary, _one.severity, _one.number, _one.versions, "exclusions", partial(check, rule=_one)
        )
    )
