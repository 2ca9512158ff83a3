"""What NeMo RL asks of single settings: names it knows, the loss's options, and keys that a switch makes it read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nano_exp.errors import nearest
from nano_exp.layout.case import LATE
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

LOSS = "loss_fn."
TYPE, RATIO = f"{LOSS}truncated_importance_sampling_type", f"{LOSS}truncated_importance_sampling_ratio"
RATIO_MIN, CORRECTION = f"{RATIO}_min", f"{LOSS}use_importance_sampling_correction"
TOKEN, SEQUENCE = f"{LOSS}token_level_loss", f"{LOSS}sequence_level_importance_ratios"
CISPO, DUAL = f"{LOSS}use_cispo", f"{LOSS}ratio_clip_c"
NO_RATIO, ON_POLICY = f"{LOSS}disable_ppo_ratio", f"{LOSS}force_on_policy_ratio"
BACKEND, FP8 = "policy.generation.backend", "policy.megatron_cfg.fp8_cfg"
STARTS = "found out when training begins, with all models loaded: "


@dataclass(frozen=True)
class Names:
    """A key that takes one of some names.

    Parameters
    ----------
    since: names by the version that has them first, each set with those before it; nothing before the first of them
    source: the line of NeMo RL that refuses others
    late: when that is, where it is not at once
    """

    key: str
    since: dict[tuple[int, int, int], tuple[str, ...]]
    source: str
    late: str = ""
    read: Callable[[View], bool] = lambda c: True
    lower: bool = False
    synonyms: dict[str, str] = field(default_factory=dict)


#: torch's names of number types, and what they are called elsewhere.
DTYPES = ("bfloat16", "float16", "float32")
SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
SHORT |= {f"torch.{name}": name for name in DTYPES}

NAMES = (
    Names(
        f"{LOSS}reference_policy_kl_type",
        {(0, 5, 0): ("k1", "k2", "k3")},
        'raise ValueError(f"Invalid KL type: {kl_type}")',  # algorithms/utils.py; also where the penalty is 0
        LATE,
    ),
    Names(
        "grpo.adv_estimator.name",
        {(0, 6, 0): ("grpo", "gdpo", "reinforce_plus_plus"), (0, 7, 0): ("opd",)},
        'raise ValueError(f"Invalid adv_estimator name: {adv_estimator_name}")',  # grpo.py
        STARTS,
    ),
    Names(
        BACKEND,
        {(0, 5, 0): ("vllm", "megatron"), (0, 6, 0): ("sglang",), (0, 8, 0): ("trtllm", "dynamo")},
        'if backend == "megatron": ... elif backend == "vllm": ... elif backend == "sglang": ..., and then '
        "policy.print_node_ip_and_gpu_id() of no policy",  # grpo.py, setup
    ),
    Names(
        TYPE,
        {(0, 6, 0): ("tis", "icepop", "seq-mask-tis")},
        "assert self.truncated_importance_sampling_type in (...)",  # loss_functions.py
        # v0.6 ignores the type without a ratio, and says so
        read=lambda c: c.version >= (0, 7, 0) or c.get(RATIO) is not None,
    ),
    Names(
        "policy.sequence_packing.algorithm",
        {
            (0, 5, 0): (
                *("modified_first_fit_decreasing", "first_fit_decreasing", "first_fit_shuffle", "concatenative"),
            )
        },
        'raise ValueError(f"Unknown packing algorithm: {algorithm}. ...")',  # data/packing/algorithms.py
        LATE,
        read=lambda c: c.packing,
        lower=True,  # PackingAlgorithm[algorithm.upper()]
    ),
    Names(
        "policy.megatron_cfg.attention_backend",
        {(0, 6, 0): ("auto", "flash", "fused", "unfused", "local")},
        "model_cfg.attention_backend = AttnBackend[attention_backend]",  # models/megatron/setup.py
        read=lambda c: c.megatron,
    ),
    Names(
        "policy.precision",
        {(0, 5, 0): DTYPES},
        'dtype_map[config["precision"]]',  # models/megatron/setup.py; STRING_TO_DTYPE, models/automodel/setup.py
        synonyms=SHORT,
    ),
    Names(
        "policy.megatron_cfg.pipeline_dtype",
        {(0, 5, 0): DTYPES},
        'dtype_map[config["megatron_cfg"]["pipeline_dtype"]]',  # models/megatron/setup.py
        read=lambda c: c.megatron,
        synonyms=SHORT,
    ),
    Names(
        "policy.generation.vllm_cfg.precision",
        {(0, 5, 0): (*DTYPES, "auto", "half", "float", "fp8")},
        'dtype=self.cfg["vllm_cfg"]["precision"]',  # generation/vllm/vllm_worker.py, to vLLM, whose names these are
        read=lambda c: c.vllm,
        synonyms=SHORT,
    ),
)


def _near(value: str, known: Iterable[str], otherwise: str) -> str:
    return next(iter(nearest(value, sorted(known), n=1)), otherwise)


#: The newest that the names were read from: conf/nemo_rl/main, in the place of a release after v0.7.0. A newer one, or
#: a branch of one's own, may know more.
NEWEST_READ = "v0.6.0+7ea279abfbeb"


def _names_are_read(c: View) -> bool:
    return c.version < (0, 8, 0) or c.release == NEWEST_READ


@rule()
def known_names(c: View) -> Iterator[Mistake]:
    """A setting that chooses by name has a name that this version knows."""
    if not _names_are_read(c):
        return
    for names in NAMES:
        value = c.get(names.key)
        if not isinstance(value, str) or not names.read(c):
            continue
        known = tuple(name for since, more in names.since.items() if c.version >= since for name in more)
        if known and (value.lower() if names.lower else value) not in known:
            yield Mistake(
                (names.key,),
                f"{names.late}{c.release} knows {', '.join(known)}; others end at `{names.source}`",
                f"{names.key}={names.synonyms.get(value.lower()) or _near(value.lower(), known, known[0])}",
            )


#: load_response_dataset (data/datasets/response_datasets/__init__.py): a chain of names, then DATASET_REGISTRY.
DATASETS_V0_5 = frozenset(
    (
        *("open_assistant", "squad", "openmathinstruct2", "clevr_cogent", "openai_format", "OpenMathInstruct-2"),
        *("DeepScaler", "DAPOMath17K", "clevr-cogent", "refcoco", "geometry3k", "tulu3_sft_mixture", "HelpSteer3"),
        "ResponseDataset",
    )
)
DATASETS_V0_6 = frozenset(
    (
        *("AIME2024", "clevr-cogent", "daily-omni", "general-conversation-jsonl", "DAPOMath17K", "DAPOMathAIME2024"),
        *("DeepScaler", "geometry3k", "HelpSteer3", "open_assistant", "OpenMathInstruct-2", "refcoco", "squad"),
        *("tulu3_sft_mixture", "gsm8k", "Nemotron-Cascade-2-SFT-Math", "openai_format", "NemoGymDataset"),
        "ResponseDataset",
    )
)
DATASETS_V0_7 = DATASETS_V0_6 | {
    *("audiomcq", "arrow_text", "avqa", "AIME2025", "AIME2026", "GSM8K", "mmpr-tiny"),
}
DATASETS = {
    (0, 5, 0): DATASETS_V0_5,
    (0, 6, 0): DATASETS_V0_6,
    (0, 7, 0): DATASETS_V0_7,
    (0, 8, 0): DATASETS_V0_7 | {"intent-train", "intent-bench", "NuminaMath-1.5", "OpenR1-Math-220k"},
}


def _datasets(c: View) -> Iterator[tuple[str, Any]]:
    """The key and the name of each data set that is loaded by name."""
    if c.version < (0, 6, 0):
        if not c.gym:  # whose script reads files
            yield "data.dataset_name", c.get("data.dataset_name")
        return
    for part in ("train", "validation"):
        key = f"data.{part}"
        entries = c.get(key)
        one = c.section(key)
        for entry in entries if isinstance(entries, list) else [one] if one else []:
            if not isinstance(entry, dict):
                continue
            if "dataset_name" in entry:
                yield (f"{key}.dataset_name" if entry is one else key), entry["dataset_name"]
            else:  # update_single_dataset_config
                yield "data.default.dataset_name", c.get("data.default.dataset_name")


@rule()
def known_datasets(c: View) -> Iterator[Mistake]:
    """A data set is one that this version has, a file's, or (from v0.7.0 on) a class's dotted path."""
    if not _names_are_read(c):
        return
    known = next(names for since, names in reversed(DATASETS.items()) if c.version >= since)
    for key, name in dict.fromkeys(pair for pair in _datasets(c) if isinstance(pair[1], str)):
        if name in known or ("." in name and c.version >= (0, 7, 0)):
            continue
        near = _near(name, known, "")
        yield Mistake(
            (key,),
            f'NeMo RL stops at `raise ValueError(f"Unsupported {{dataset_name=}}. ...")`; {c.release} has '
            + ", ".join(sorted(known)),
            (f"{key}={near}, or " if near else "") + f"{key}=ResponseDataset (a file, or one of Hugging Face)",
        )


@rule()
def loss_options(c: View) -> Iterator[Mistake]:
    """The loss's options fit each other: clipping, CISPO, sequence level ratios, truncated importance sampling.

    The assertions of ClippedPGLossFn.__init__ (algorithms/loss/loss_functions.py, before v0.6.0
    algorithms/loss_functions.py), and what its call asserts.
    """
    by_token = c.get(TOKEN, True if c.version >= (0, 7, 0) else None)
    if c.on(SEQUENCE) and by_token is True:
        # assert self.loss_type == LossType.SEQUENCE_LEVEL
        yield Mistake(
            (SEQUENCE, TOKEN),
            "ratios of whole sequences (GSPO) go with a loss of whole sequences; NeMo RL stops when it makes the loss",
            f"{TOKEN}=false, or {SEQUENCE}=false",
        )
    cispo = c.on(CISPO) and c.version >= (0, 7, 0)
    if cispo:
        yield from _cispo(c)
    dual = c.get(DUAL)
    if not cispo and isinstance(dual, int | float) and not isinstance(dual, bool) and not dual > 1:
        # assert self.ratio_clip_c > 1, "ratio_clip_c must exceed 1 representing a lower bound of the ratios ..."
        yield Mistake(
            (DUAL,),
            f"{LATE}dual clipping bounds the ratio by it from above, so the loss asserts that it exceeds 1",
            f"{DUAL}=3, or {DUAL}=null (no dual clipping)",
        )
    yield from _truncation(c)


def _cispo(c: View) -> Iterator[Mistake]:
    """`assert not self.disable_ppo_ratio`, and four more."""
    for key, bad, good, why in (
        (NO_RATIO, c.on(NO_RATIO), "false", "it weighs by the ratio that this removes"),
        (ON_POLICY, c.on(ON_POLICY), "false", "it weighs by the ratio that this makes 1"),
        (SEQUENCE, c.on(SEQUENCE), "false", "its ratios are those of tokens"),
        (DUAL, c.get(DUAL) is not None, "null", "dual clipping would overwrite its loss"),
        (TOKEN, c.get(TOKEN) is False, "true", "its loss is the mean over tokens"),
    ):
        if bad:
            yield Mistake(
                (CISPO, key), f"CISPO does not go with it: {why}; NeMo RL stops", f"{key}={good}, or {CISPO}=false"
            )


def _truncation(c: View) -> Iterator[Mistake]:
    """Truncated importance sampling: switched on by its ratio, from v0.7.0 on by its type."""
    by_type = c.version >= (0, 7, 0)
    switch, off = (TYPE, f"{TYPE}=null") if by_type else (RATIO, f"{RATIO}=null")
    if c.get(switch) is None:
        return
    kind, ratio, least = c.get(TYPE), c.get(RATIO), c.get(RATIO_MIN)
    if not c.get(CORRECTION):
        # assert self.use_importance_sampling_correction
        yield Mistake(
            (switch, CORRECTION),
            "what is truncated are the weights of the importance sampling correction; NeMo RL stops without it",
            f"{CORRECTION}=true, or {off}",
        )
    if ratio is None or (isinstance(ratio, int | float) and not ratio > 0):
        # assert self.truncated_importance_sampling_ratio is not None and self.truncated_importance_sampling_ratio > 0
        yield Mistake(
            tuple(dict.fromkeys((switch, RATIO))),
            "the upper bound of the weights is above 0; NeMo RL stops when it makes the loss",
            f"++{RATIO}=2, or {off}",
        )
    if c.version < (0, 6, 0):
        return
    if kind is None:
        # assert self.truncated_importance_sampling_type in ("tis", "icepop", "seq-mask-tis")
        yield Mistake(
            (RATIO,),
            f"from v0.6.0 on {TYPE} says what happens beyond the ratio; v0.6 stops without it",
            f"++{TYPE}=tis, or {off}",
        )
    elif kind in ("icepop", "seq-mask-tis") and least is None:
        # v0.7: assert self.truncated_importance_sampling_ratio_min is not None; v0.6 compares weights to None
        yield Mistake(
            (TYPE,),
            ("NeMo RL stops when it makes the loss: " if by_type else LATE)
            + f"{kind} keeps what lies between two bounds, and the lower one, {RATIO_MIN}, is not set",
            f"++{RATIO_MIN}={0.5 if kind == 'icepop' else 0.999}",
        )
    elif by_type and _above(least, ratio):
        # assert self.truncated_importance_sampling_ratio_min <= self.truncated_importance_sampling_ratio
        yield Mistake(
            (RATIO_MIN, RATIO), "the lower bound is above the upper one; NeMo RL stops", f"{RATIO_MIN}={ratio} or less"
        )
    if kind == "seq-mask-tis" and c.on(SEQUENCE):
        # assert not self.sequence_level_importance_ratios
        yield Mistake(
            (TYPE, SEQUENCE),
            "seq-mask-tis corrects by tokens and masks whole sequences, so ratios are those of tokens; NeMo RL stops",
            f"{SEQUENCE}=false, or {TYPE}=tis",
        )


def _above(low: Any, high: Any) -> bool:
    return isinstance(low, int | float) and isinstance(high, int | float) and low > high > 0


@rule()
def keys_of_switches(c: View) -> Iterator[Mistake]:
    """FP8 training and SGLang have keys that are read without a default."""
    if c.megatron and c.on(f"{FP8}.enabled"):
        # raise KeyError(f"Missing key in fp8_cfg: {e}")  (models/megatron/setup.py, before v0.6.0 the worker)
        for name, value in (("fp8", "e4m3"), ("fp8_recipe", "blockwise"), ("fp8_param", "false")):
            if not c.has(f"{FP8}.{name}"):
                yield Mistake(
                    (f"{FP8}.enabled",),
                    f"Megatron's workers read {FP8}.{name} without a default and stop",
                    f"++{FP8}.{name}={value}, or {FP8}.enabled=false",
                )
    cfg = "policy.generation.sglang_cfg"
    if c.get(BACKEND) == "sglang" and c.version >= (0, 6, 0) and not c.section(cfg) and c.get(cfg) != {}:
        # if "model_path" not in generation_config["sglang_cfg"]  (grpo.py, setup)
        yield Mistake(
            (BACKEND,),
            f"NeMo RL reads {cfg}, which is not there, and stops",
            f"{BACKEND}=vllm, or ++{cfg}={{...}} as examples/configs/grpo_math_1B_sglang.yaml has it",
        )
