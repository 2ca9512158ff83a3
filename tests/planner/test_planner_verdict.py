"""What preflight is told: published recipes are never refused, and a fix that is named fits."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from planner_case import CONSTANTS, H100, config, read

from nano_exp import dotted, planner
from nano_exp.errors import UserError
from nano_exp.layout import models
from nano_exp.planner import phase_memory
from nano_exp.planner.verdict import klass_of

SIX = [(m, c) for m in ("nano_9b", "nano_12b", "nano_30b") for c in ("1n8g", "2n8g")]
#: NVIDIA's other recipes for these models at v0.7.0 (examples/configs/recipes/llm and examples/nemo_gym), as overrides
#: of the nearest of the six: what memory depends on.
NIGHTLY = {
    "grpo-nanov3-30BA3B-2n8g-fsdp2-lora": ("recipe=grpo-nanov3-30BA3B-2n8g-fsdp2-lora",),
    "grpo-nanov3-30BA3B-2n8g-megatron-lora": ("recipe=grpo-nanov3-30BA3B-2n8g-megatron-lora",),
    "grpo-nanov3-30BA3B-2n8g-megatron_generation": (
        "model=nano_30b", "cluster=2n8g", "parallelism=backend/megatron", "policy.max_total_sequence_length=2048",
        "policy.megatron_cfg.tensor_model_parallel_size=2", "policy.megatron_cfg.expert_model_parallel_size=8",
        "policy.megatron_cfg.sequence_parallel=true", "policy.generation.backend=megatron",
        "policy.generation.colocated.enabled=false", "policy.generation.colocated.resources.gpus_per_node=8",
        "policy.generation.colocated.resources.num_nodes=1",
    ),
    "grpo_nanov3": (
        "model=nano_30b", "cluster=2n8g", "cluster.num_nodes=32", "policy.max_total_sequence_length=49152",
        "policy.megatron_cfg.context_parallel_size=4", "policy.megatron_cfg.activation_checkpointing=true",
        "policy.megatron_cfg.defer_fp32_logits=true", "policy.generation.vllm_cfg.gpu_memory_utilization=0.5",
        "grpo.num_prompts_per_step=128", "grpo.num_generations_per_prompt=16",
    ),
}  # fmt: skip


#: v0.5.0 and v0.6.0 have fewer.
EARLIER = [("v0_5", *row) for row in SIX[:4]] + [("v0_6", *row) for row in SIX[:5]]


NEWER = [("main", *row) for row in (*SIX, ("nano_30b", "32n8g"))]


@pytest.mark.parametrize(("version", "model", "cluster"), [*(("v0_7", *row) for row in SIX), *EARLIER, *NEWER])
def test_a_published_recipe_is_never_said_not_to_fit_an_h100(version: str, model: str, cluster: str) -> None:
    said = planner.judge(config(f"model={model}", f"cluster={cluster}", f"nemo_rl={version}"), "h100-80")
    assert said.klass in ("fits", "tight")
    assert said.gib_expected <= said.gib_limit  # they run: a planner that expects otherwise is wrong


@pytest.mark.parametrize("name", NIGHTLY)
def test_a_nightly_recipe_is_never_said_not_to_fit_an_h100(name: str) -> None:
    said = planner.judge(config(*NIGHTLY[name]), "h100-80")
    assert said.klass in ("fits", "tight"), said
    assert said.gib_expected <= said.gib_limit


WRONG = {
    "micro batch": ("model=nano_9b", "cluster=1n8g", "policy.train_micro_batch_size=8"),
    "length": ("model=nano_12b", "cluster=1n8g", "policy.max_total_sequence_length=16384"),
    "no tensor parallel": ("model=nano_12b", "cluster=1n8g", "policy.megatron_cfg.tensor_model_parallel_size=1"),
    "sequences": ("model=nano_12b", "cluster=1n8g", "policy.generation.vllm_kwargs.max_num_seqs=1024"),
    "share": ("model=nano_9b", "cluster=1n8g", "policy.generation.vllm_cfg.gpu_memory_utilization=0.98"),
    "dtensor": ("model=nano_12b", "cluster=2n8g", "policy.max_total_sequence_length=8192"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_fix_of_what_does_not_fit_composes_and_fits(name: str) -> None:
    said = planner.judge(config(*WRONG[name]), "h100-80")
    assert said.klass in ("tight", "no")
    assert said.fix
    mended = planner.judge(config(*WRONG[name], *shlex.split(said.fix)), "h100-80")
    assert mended.klass == "fits", mended


def test_no_means_that_even_the_low_estimate_is_above_the_limit() -> None:
    said = planner.judge(config(*WRONG["micro batch"]), "h100-80")
    assert (said.klass, said.phase) == ("no", "train")
    assert said.gib_low > said.gib_limit
    assert "train needs at least" in said.why
    assert planner.judge(config(*WRONG["micro batch"]), "b200-192").klass != "no"


def test_vllms_share_is_judged_by_itself() -> None:
    said = planner.judge(config(*WRONG["sequences"]), "h100-80")
    assert (said.klass, said.phase) == ("no", "vllm share")
    assert said.gib_limit == pytest.approx(0.6 * 79.1, abs=0.01)


def test_another_model_than_the_facts_is_not_judged() -> None:
    said = planner.judge(config("model=nano_9b", "cluster=1n8g", "policy.model_name=Qwen/Qwen2.5-1.5B"), "h100-80")
    assert (said.klass, said.fix) == ("unknown", "")
    assert "Qwen/Qwen2.5-1.5B" in said.why
    absent = planner.judge(config("model=nano_9b", "cluster=1n8g", "policy.model_name=/models/mine"), "h100-80")
    assert absent.klass == "unknown"


def test_the_model_that_is_named_is_judged_and_not_the_one_that_was_chosen(tmp_path: Path) -> None:
    """A name of conf/model's has its facts; a folder, and what lies in HF_HOME, those of its own config.json."""
    wide = ("model=nano_9b", "cluster=1n8g", "policy.train_micro_batch_size=1", "policy.logprob_batch_size=1")
    thirty = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    nine, other = (
        planner.judge(config(*wide), "h100-80"),
        planner.judge(config(*wide, f"policy.model_name={thirty}"), "h100-80"),
    )
    assert nine.klass != "no" and other.klass == "no"
    facts = models.named(config(*wide, f"policy.model_name={thirty}"))
    cached = tmp_path / "hub/models--a--b/snapshots/1"
    for folder in (tmp_path / "own", cached):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(dict(facts)))
    by_folder = planner.judge(config(*wide, f"policy.model_name={tmp_path / 'own'}"), "h100-80")
    in_cache = planner.judge(config(*wide, "policy.model_name=a/b", f"site.hf_home={tmp_path}"), "h100-80")
    assert by_folder == in_cache == other
    (cached / "config.json").write_text("{")
    models._on_disk.cache_clear()
    assert (
        planner.judge(config(*wide, "policy.model_name=a/b", f"site.hf_home={tmp_path}"), "h100-80").klass == "unknown"
    )


def test_an_invalid_layout_is_not_judged() -> None:
    said = planner.judge(
        config("model=nano_9b", "cluster=1n8g", "policy.megatron_cfg.tensor_model_parallel_size=3"), "h100-80"
    )
    assert said.klass == "unknown"
    assert "tensor 3 x pipeline 1 x context 1 = 3, which does not divide them" in said.why


def test_of_the_embedded_engine_it_has_nothing_to_say() -> None:
    said = planner.judge(config("cluster=local"), "h100-80")
    assert (said.klass, said.gib_high) == ("unknown", 0)
    assert said.why.startswith("engine.name=embedded: it trains in one process")


def test_an_unknown_gpu_and_an_impossible_cluster_are_refused() -> None:
    with pytest.raises(UserError, match="GPU 'h100-8'") as caught:
        planner.judge(config("model=nano_9b", "cluster=1n8g"), "h100-8")
    assert "--gpu h100-80" in caught.value.fix
    with pytest.raises(UserError, match=r"cluster.num_nodes=0"):
        planner.judge(config("model=nano_9b", "cluster=1n8g", "cluster.num_nodes=0"), "h100-80")
    generation = "policy.generation.colocated"
    split = (f"{generation}.enabled=false", f"{generation}.resources.num_nodes=1")
    with pytest.raises(UserError, match="generation takes 8 GPUs of 8"):
        planner.judge(config("model=nano_9b", "cluster=1n8g", *split), "h100-80")


@pytest.mark.parametrize("key", ["model", "policy.generation", "policy.megatron_cfg", "policy.megatron_cfg.optimizer"])
@pytest.mark.parametrize("value", [None, 3, "x", [1]])
def test_a_section_of_another_type_is_judged_or_refused_in_words(key: str, value: Any) -> None:
    made = copy.deepcopy(config("model=nano_12b", "cluster=1n8g"))
    dotted.set_dotted(made, key, value)
    try:
        said = planner.judge(made, "h100-80")
    except UserError as error:
        assert error.fix
    else:
        assert said.klass in ("fits", "tight", "no", "unknown")


@pytest.mark.parametrize("share", [0, -1, float("nan"), "x", None])
def test_a_share_that_cannot_be_is_no_reason_to_fall_over(share: Any) -> None:
    made = copy.deepcopy(config("model=nano_12b", "cluster=1n8g"))
    dotted.set_dotted(made, "policy.generation.vllm_cfg.gpu_memory_utilization", share)
    assert planner.judge(made, "h100-80").phase


def test_split_generation_has_gpus_of_its_own() -> None:
    generation = "policy.generation.colocated"
    job = read(
        "model=nano_9b", "cluster=2n8g", f"{generation}.enabled=false", f"{generation}.resources.num_nodes=1",
        f"{generation}.resources.gpus_per_node=8",
    )  # fmt: skip
    assert (job.world, job.generation.world) == (8, 8)
    found = {phase.name: phase for phase in phase_memory.phases(job, H100, CONSTANTS)}
    assert "refit" not in found
    assert all(term.name != "vLLM asleep" for phase in found.values() for term in phase.terms)
    # In non-colocated mode the optimizer state stays during the log-probability passes.
    assert any(term.name == "optimizer state" for term in found["logprob"].terms)
    assert klass_of(tuple(found.values())) == "fits"
