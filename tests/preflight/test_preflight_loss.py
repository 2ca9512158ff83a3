"""The rules about names, the loss's options and the keys that a switch makes NeMo RL read."""

from __future__ import annotations

import pytest
from preflight_case import NINE, THIRTY_2, TWELVE, TWELVE_2, Case, assert_case, said, words

LOSS = "loss_fn."
KL = f"{LOSS}reference_policy_kl_type"
TOKEN, SEQUENCE = f"{LOSS}token_level_loss", f"{LOSS}sequence_level_importance_ratios"
CISPO, DUAL = f"{LOSS}use_cispo", f"{LOSS}ratio_clip_c"
TYPE, RATIO = f"{LOSS}truncated_importance_sampling_type", f"{LOSS}truncated_importance_sampling_ratio"
CORRECTION = f"{LOSS}use_importance_sampling_correction"
ICEPOP = (f"{TYPE}=icepop", f"{RATIO}=5", f"{CORRECTION}=true")
MASK = (f"{TYPE}=seq-mask-tis", f"{RATIO}=1.002", f"{RATIO}_min=0.999", f"{CORRECTION}=true")
BACKEND, SGLANG = "policy.generation.backend", "policy.generation.sglang_cfg"
PACK, FP8 = "policy.sequence_packing", "policy.megatron_cfg.fp8_cfg"
ATTENTION = "policy.megatron_cfg.attention_backend"
VERSIONS = ("v0.5.0", "v0.6.0", "v0.7.0")

NAMES = [
    *(
        Case("known_names", TWELVE, (f"{KL}=k4",), (f"{KL}={name}",), False, v)
        for name in ("k1", "k3")
        for v in VERSIONS
    ),
    Case("known_names", TWELVE, (f"{KL}=K3",), (f"{KL}=k3",)),
    Case("known_names", TWELVE, ("grpo.adv_estimator.name=gpro",), ("grpo.adv_estimator.name=grpo",)),
    Case("known_names", TWELVE, ("grpo.adv_estimator.name=opd",), ("grpo.adv_estimator.name=grpo",), version="v0.6.0"),
    Case("known_names", TWELVE, (f"{BACKEND}=vlm",), (f"{BACKEND}=vllm",)),
    Case("known_names", TWELVE, (f"{BACKEND}=sglang",), (f"{BACKEND}=vllm",), version="v0.5.0"),
    Case("known_names", TWELVE, (f"{TYPE}=ice-pop",), (f"{TYPE}=icepop",)),
    Case("known_names", TWELVE, (f"{TYPE}=ice-pop", f"{RATIO}=2"), (f"{TYPE}=icepop",), version="v0.6.0"),
    Case("known_names", THIRTY_2, (f"{PACK}.algorithm=first_fit",), (f"{PACK}.algorithm=first_fit_shuffle",)),
    Case("known_names", TWELVE, (f"{ATTENTION}=flash2",), (f"{ATTENTION}=flash",)),
    *(
        Case("known_names", TWELVE, (f"{key}={typed}",), (f"{key}={meant}",), version=version)
        for key in ("policy.precision", "policy.megatron_cfg.pipeline_dtype", "policy.generation.vllm_cfg.precision")
        for typed, meant in (("bf16", "bfloat16"), ("fp16", "float16"), ("torch.float32", "float32"))
        for version in VERSIONS
    ),
]
DATASETS = [
    Case(
        "known_datasets",
        TWELVE,
        ("data.train.dataset_name=OpenMathInstruct2",),
        ("data.train.dataset_name=OpenMathInstruct-2",),
    ),
    Case("known_datasets", TWELVE, ("data.train.dataset_name=x",), ("data.train.dataset_name=ResponseDataset",)),
    Case(
        "known_datasets",
        TWELVE,
        ("data.train.dataset_name=my.own.Data",),
        ("data.train.dataset_name=ResponseDataset",),
        version="v0.6.0",
    ),
    Case(
        "known_datasets",
        TWELVE,
        ("data.validation={dataset_name: AIME2023}",),
        ("data.validation.dataset_name=AIME2024",),
        typed=False,
    ),
    Case("known_datasets", NINE, ("data.default.dataset_name=NemoGym",), ("data.default.dataset_name=NemoGymDataset",)),
    Case("known_datasets", TWELVE, ("data.dataset_name=gsm8k",), ("data.dataset_name=DeepScaler",), False, "v0.5.0"),
]
OPTIONS = [
    *(Case("loss_options", TWELVE, (f"{SEQUENCE}=true",), (f"{TOKEN}=false",), version=v) for v in VERSIONS),
    Case("loss_options", TWELVE, (f"{SEQUENCE}=true", f"~{TOKEN}"), (f"{SEQUENCE}=false",)),
    *(Case("loss_options", TWELVE, (f"{DUAL}={bad}",), (f"{DUAL}=3",)) for bad in (1, 0.5, -3)),
    Case("loss_options", TWELVE, (f"{DUAL}=1.0",), (f"{DUAL}=null",), version="v0.5.0"),
    *(
        Case("loss_options", TWELVE, (f"{CISPO}=true", *bad), cure)
        for bad, cure in (
            ((f"{DUAL}=3",), (f"{DUAL}=null",)),
            ((f"{TOKEN}=false",), (f"{TOKEN}=true",)),
            ((f"{LOSS}disable_ppo_ratio=true",), (f"{LOSS}disable_ppo_ratio=false",)),
            ((f"{LOSS}force_on_policy_ratio=true",), (f"{CISPO}=false",)),
            ((f"{SEQUENCE}=true",), (f"{SEQUENCE}=false",)),
        )
    ),
    Case("loss_options", TWELVE, (f"{TYPE}=tis", f"{RATIO}=2"), (f"{CORRECTION}=true",)),
    Case("loss_options", TWELVE, (f"{TYPE}=tis", f"{RATIO}=2"), (f"{TYPE}=null",)),
    Case("loss_options", TWELVE, (f"{TYPE}=tis", f"{CORRECTION}=true"), (f"++{RATIO}=2",)),
    Case("loss_options", TWELVE, (f"{TYPE}=tis", f"{RATIO}=0", f"{CORRECTION}=true"), (f"++{RATIO}=2",)),
    Case("loss_options", TWELVE, ICEPOP, (f"++{RATIO}_min=0.5",)),
    Case("loss_options", TWELVE, ICEPOP, (f"++{RATIO}_min=0.5",), version="v0.6.0"),
    Case("loss_options", TWELVE, (*ICEPOP, f"{RATIO}_min=6"), (f"{RATIO}_min=5",)),
    Case("loss_options", TWELVE, (*MASK, f"{SEQUENCE}=true", f"{TOKEN}=false"), (f"{SEQUENCE}=false",)),
    Case(
        "loss_options",
        TWELVE,
        (*MASK, f"{SEQUENCE}=true", f"{TOKEN}=false"),
        (f"{TYPE}=tis",),
        version="v0.6.0",
    ),
    Case("loss_options", TWELVE, (f"{RATIO}=2", f"{CORRECTION}=true"), (f"++{TYPE}=tis",), version="v0.6.0"),
    Case("loss_options", TWELVE, (f"{RATIO}=2",), (f"{CORRECTION}=true",), version="v0.5.0"),
    Case("loss_options", TWELVE, (f"{RATIO}=-1", f"{CORRECTION}=true"), (f"{RATIO}=null",), version="v0.5.0"),
]
SWITCHES = [
    *(
        Case(
            "keys_of_switches", TWELVE, (f"{FP8}.enabled=true", f"~{FP8}.{name}"), (f"++{FP8}.{name}={value}",), True, v
        )
        for name, value in (("fp8", "e4m3"), ("fp8_recipe", "blockwise"), ("fp8_param", "false"))
        for v in VERSIONS
    ),
    Case("keys_of_switches", TWELVE, (f"{BACKEND}=sglang",), (f"{BACKEND}=vllm",)),
    Case("keys_of_switches", TWELVE, (f"{BACKEND}=sglang",), (f"++{SGLANG}={{tp_size: 1}}",), version="v0.6.0"),
]
CASES = [*NAMES, *DATASETS, *OPTIONS, *SWITCHES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_about_settings_refuses_and_its_cure_passes(case: Case) -> None:
    assert_case(case)


def test_names_are_asked_for_where_they_are_read() -> None:
    for row, override, version in (
        (TWELVE, f"{PACK}.algorithm=first_fit", "v0.7.0"),  # packing is off
        (THIRTY_2, f"{PACK}.algorithm=First_Fit_Shuffle", "v0.7.0"),  # PackingAlgorithm[algorithm.upper()]
        (TWELVE_2, f"{ATTENTION}=flash2", "v0.7.0"),  # DTensor
        (TWELVE, f"{ATTENTION}=flash2", "v0.5.0"),  # a key that it does not have
        (TWELVE, "grpo.adv_estimator.name=gpro", "v0.5.0"),
        (TWELVE, f"{TYPE}=ice-pop", "v0.6.0"),  # ignored without a ratio, with a warning
        (TWELVE, "grpo.adv_estimator.name=opd", "v0.7.0"),
        (TWELVE, f"{BACKEND}=sglang", "v0.6.0"),
        (TWELVE, f"{BACKEND}=megatron", "v0.5.0"),
        (TWELVE, f"{KL}=k4", "main"),  # it may have learned more names
        (TWELVE, f"{KL}=null", "v0.7.0"),
    ):
        assert not said("known_names", row, (override,), version), override


def test_data_sets_that_are_there() -> None:
    for row, override, version in (
        (TWELVE, "data.train.dataset_name=my.own.Data", "v0.7.0"),
        (TWELVE, "data.train.dataset_name=AIME2026", "v0.7.0"),
        (TWELVE, "data.train.dataset_name=gsm8k", "v0.6.0"),
        (TWELVE, "data.default.dataset_name=unread", "v0.7.0"),
        (TWELVE, 'data.train=[{"dataset_name": "gsm8k"}, {"dataset_name": "squad"}]', "v0.7.0"),
        (TWELVE, "data.dataset_name=openmathinstruct2", "v0.5.0"),
        (NINE, "data.dataset_name=unread", "v0.5.0"),
        (TWELVE, "data.train.dataset_name=x", "main"),
    ):
        assert not said("known_datasets", row, (override,), version), override
    (found,) = said("known_datasets", TWELVE, ('data.train=[{"dataset_name": "gsm8k"}, {"dataset_name": "sqad"}]',))
    assert found.keys[0][0] == "data.train" and "squad" in found.fix
    assert not said("known_datasets", TWELVE, ("data.train.dataset_name=AIME2024",), "v0.6.0")
    assert said("known_datasets", TWELVE, ("data.train.dataset_name=AIME2026",), "v0.6.0")


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ((f"{SEQUENCE}=true", f"{TOKEN}=false"), "v0.7.0"),
        ((f"{CISPO}=true",), "v0.7.0"),
        ((f"{CISPO}=true", f"{DUAL}=3"), "v0.6.0"),  # a key that it does not have
        ((f"{DUAL}=1.01",), "v0.7.0"),
        ((f"{RATIO}=2",), "v0.7.0"),  # nothing without a type
        ((*ICEPOP, f"{RATIO}_min=0.5"), "v0.7.0"),
        ((f"{TYPE}=tis", f"{RATIO}=2", f"{CORRECTION}=true"), "v0.6.0"),
        ((f"{TYPE}=tis",), "v0.6.0"),  # ignored, with a warning
        ((*ICEPOP, f"{RATIO}_min=6"), "v0.6.0"),
        ((f"{RATIO}=2", f"{CORRECTION}=true"), "v0.5.0"),
        (MASK, "v0.7.0"),
    ],
)
def test_options_of_the_loss_that_go_together(options: tuple[str, ...], version: str) -> None:
    assert not said("loss_options", TWELVE, options, version)


def test_dual_clipping_with_cispo_is_told_once() -> None:
    found = said("loss_options", TWELVE, (f"{CISPO}=true", f"{DUAL}=1"))
    assert len(found) == 1 and "overwrite" in words(found)


def test_fp8_that_is_off_or_not_megatrons_needs_no_keys() -> None:
    assert not said("keys_of_switches", TWELVE, (f"~{FP8}.fp8_recipe",))
    assert not said("keys_of_switches", TWELVE_2, (f"{FP8}={{enabled: true}}",))
