"""The ranked list, `parallelism=auto`, and what is printed of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import core_case
import pytest
from core_case import config_loader, launch, standin
from planner_case import CONSTANTS, H100, config, read

from nano_exp.compose import freeze
from nano_exp.errors import UserError
from nano_exp.layout import layouts, rules, workload
from nano_exp.layout.layouts import FULL
from nano_exp.planner import auto, describe, gpus, proposal, search, steptime
from nano_exp.planner.search import Option

TWELVE = ("model=nano_12b", "cluster=2n8g")
THIRTY = ("model=nano_30b", "cluster=1n8g")


def every(*overrides: str) -> tuple[Option, ...]:
    return search.every(read(*overrides), H100, CONSTANTS)


def expand(words: list[str]) -> tuple[list[str], str]:
    """One point's words with a layout in the place of parallelism=auto, and what was taken."""
    rest = auto.without(words)
    return auto.take(rest, config(*rest))


def composed(words: list[str]) -> dict[str, Any]:
    return config(*words)


# --- ranking --------------------------------------------------------------------------------------------------------


def test_what_fits_comes_first() -> None:
    classes = [option.klass for option in every(*THIRTY)]
    assert classes == sorted(classes, key=("fits", "tight", "no").index)
    assert {"fits", "tight", "no"} <= set(classes)


def test_a_layout_is_made_thrifty_only_where_it_has_to_be() -> None:
    for option in every(*TWELVE):
        if option.layout.recompute == FULL or option.layout.offload:
            plain = replace(option.job, layout=replace(option.layout, recompute="none", offload=False))
            assert search.option(plain, H100, CONSTANTS).klass != "fits"


def test_every_proposed_layout_is_valid() -> None:
    for option in every(*THIRTY):
        assert rules.problems(option.layout, option.job.architecture, option.job.shape) == []


def test_the_leading_layouts_compose_to_themselves_and_are_judged_the_same() -> None:
    for words in (TWELVE, THIRTY):
        for option in search.shortlist(every(*words), 3):
            again = read(*words, *search.as_words(layouts.overrides(option.layout).items()))
            assert again.layout == option.layout
            assert search.option(again, H100, CONSTANTS).phases == option.phases


def test_offload_and_recompute_cost_time() -> None:
    base = read("model=nano_12b", "cluster=1n8g")
    plain = steptime.estimate(base, H100, CONSTANTS)
    again = steptime.estimate(replace(base, layout=replace(base.layout, recompute=FULL)), H100, CONSTANTS)
    assert again.training > plain.training * 1.2
    host = steptime.estimate(replace(base, layout=replace(base.layout, offload=True)), H100, CONSTANTS)
    assert host.transfers > plain.transfers


def test_flops_of_a_token_are_twice_the_parameters_that_multiply() -> None:
    a = read("model=nano_12b", "cluster=1n8g").architecture
    matrices = 12_310_001_152 - 131072 * 5120
    attention, mamba = 6 * 2 * 5120 * 512, 28 * 6 * 10240 * 128
    assert steptime.flops_per_token(a, 512) == 2 * matrices + attention + mamba


def test_pinned_keys_are_kept() -> None:
    pinned = (("policy.megatron_cfg.tensor_model_parallel_size", 4),)
    found = search.every(read(*TWELVE), H100, CONSTANTS, pinned)
    assert {option.layout.tensor for option in found} == {4}


# --- auto -----------------------------------------------------------------------------------------------------------


def test_auto_takes_the_first_of_the_list_as_plain_overrides() -> None:
    words, note = expand([*TWELVE, "parallelism=auto", "grpo.seed=7"])
    best = every(*TWELVE)[0]
    assert read(*words).layout == best.layout
    assert "grpo.seed=7" in words
    assert "parallelism=auto" not in words
    assert note.startswith(f"parallelism=auto takes {best.layout.title()}, micro batch")


def test_auto_leaves_what_was_typed() -> None:
    key = "policy.megatron_cfg.tensor_model_parallel_size"
    words, _ = expand([f"{key}=8", *TWELVE, "parallelism=auto"])
    assert read(*words).layout.tensor == 8


def test_a_point_keeps_auto_as_typed_and_has_the_identity_of_its_values(tmp_path: Path) -> None:
    typed = [*TWELVE, "parallelism=auto"]
    point = core_case.compose_points(config_loader(), [typed])[0]
    assert point.overrides == tuple(typed)
    assert point.notes
    words, _ = expand(typed)
    plain = core_case.compose_points(config_loader(), [words])[0]
    assert plain.notes == ()
    assert freeze.freeze(point, tmp_path).digest == freeze.freeze(plain, tmp_path).digest


def test_each_point_of_a_sweep_gets_the_layout_of_its_own_values() -> None:
    base = ["model=nano_9b", "cluster=1n8g"]
    lengths = [8192, 65536]
    typed = [
        [*base, choice, f"policy.max_total_sequence_length={n}"]
        for choice in ("parallelism=auto", "parallelism=published")
        for n in lengths
    ]
    points = auto.compose_points(config_loader(), typed)
    assert [list(point.overrides) for point in points] == typed
    frozen = freeze.freeze_all(points, Path("/launch"))
    found = [workload.of_config(one.config).layout for one in frozen]
    for length, layout in zip(lengths, found, strict=False):
        best = every(*base, f"policy.max_total_sequence_length={length}")[0]
        assert layout == best.layout
    assert found[0].title() != found[1].title()
    assert found[2].title() == read(*base).layout.title()
    assert [bool(point.notes) for point in points] == [True, True, False, False]


def test_auto_follows_the_sites_gpu() -> None:
    small, _ = expand([*TWELVE, "parallelism=auto", "site.gpu=a100-40", *LESS])
    large, _ = expand([*TWELVE, "parallelism=auto", "site.gpu=b200-192"])
    assert read(*small).layout != read(*large).layout


#: What lets vLLM's part fit 40 GB.
LESS = (
    "policy.generation.vllm_cfg.tensor_parallel_size=4",
    "policy.generation.vllm_kwargs.max_num_seqs=128",
)


def test_auto_refuses_where_nothing_fits_or_is_valid() -> None:
    with pytest.raises(UserError, match=r"no layout fits 8 x a100-40") as caught:
        long = "policy.max_total_sequence_length=131072"
        expand([*THIRTY, "parallelism=auto", "site.gpu=a100-40", long])
    assert "GiB in the phase" in caught.value.why
    with pytest.raises(UserError, match=r"no layout is valid on 16 training GPUs"):
        expand([*TWELVE, "parallelism=auto", "policy.megatron_cfg.tensor_model_parallel_size=3"])


def test_auto_of_the_tiny_run_is_its_only_layout() -> None:
    assert expand(["cluster=local", "parallelism=auto"]) == (["cluster=local"], "")


def test_a_launch_with_auto_says_what_it_takes(tmp_path: Path) -> None:
    said = launch(tmp_path, "-m", *standin(), "parallelism=auto,published", "dry_run=true")
    assert said.returncode == 0, said.stderr
    first = said.stdout.splitlines()[0]
    assert first.startswith("parallelism=auto takes megatron")
    assert "plan: 2 runs" in said.stdout
    assert list(tmp_path.iterdir()) == []


# --- proposals ------------------------------------------------------------------------------------------------------


def proposed(*overrides: str, **given: Any) -> proposal.Proposal:
    return proposal.propose(config_loader(), overrides, **given)


def test_the_published_layout_is_marked_and_costs_one() -> None:
    made = proposed(*TWELVE)
    assert made.published is not None
    assert made.published.layout == read(*TWELVE).layout
    assert made.relative(made.published) == 1
    assert made.overrides(made.published) == {}
    text = describe.as_text(made, 2)
    assert [line for line in text.splitlines() if line.endswith("published")]


def test_a_typed_layout_stands_beside_the_published_one() -> None:
    made = proposed(*TWELVE, "parallelism=megatron_tp8", "grpo.seed=3")
    assert made.published is not None
    assert made.published.layout == read(*TWELVE).layout
    assert made.typed is not None
    assert made.typed.layout.tensor == 8
    assert made.words == (*TWELVE, "grpo.seed=3")
    assert any(line.endswith("  typed") for line in describe.as_text(made, 1).splitlines())


def test_a_typed_layout_that_is_not_valid_is_said_to_be_so() -> None:
    made = proposed(*TWELVE, "parallelism=megatron_tp8", "policy.megatron_cfg.pipeline_model_parallel_size=4")
    assert made.typed is None
    assert any("has 62 layers; 62 of them do not make 4 equal stages" in why for why in made.invalid)
    line = "the layout as typed is not valid: policy.megatron_cfg.pipeline_model_parallel_size=4, "
    assert line in describe.as_text(made, 2)


def test_a_cluster_without_a_valid_layout_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="no layout is valid on 24 training GPUs") as caught:
        proposed(*TWELVE, "cluster.num_nodes=3")
    assert "are 24 data parallel ranks, which do not share" in caught.value.why


def test_planned_lengths_are_inputs() -> None:
    made = proposed(*TWELVE, max_length=4096, mean_length=1000)
    assert (made.job.max_length, made.job.mean_length) == (4096, 1000)
    assert "policy.max_total_sequence_length=4096" in made.words
    assert not any("on average" in one for one in made.assumed)
    with pytest.raises(UserError, match="a mean length of 1000 tokens"):
        proposed(*TWELVE, mean_length=1000)
    with pytest.raises(UserError, match="--max-length 0"):
        proposed(*TWELVE, max_length=0)


def test_another_model_is_planned_with_a_recipes_batch(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    values = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336}
    file.write_text(
        json.dumps({**values, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8})
    )
    made = proposed("cluster=1n8g", model=file)
    assert made.job.architecture.layers == "*-" * 32
    assert any("model=nano_12b" in one for one in made.assumed)
    assert made.published is None
    assert "published" not in describe.as_text(made, 2)
    assert made.options[0].klass == "fits"


def test_json_has_every_layout_with_phases_and_overrides() -> None:
    made = proposed(*TWELVE, gpu="h200-141")
    data = json.loads(describe.as_json(made))
    assert len(data["layouts"]) == len(made.options)
    assert data["parameters"]["total"] == 12_310_001_152
    assert data["gpu"] == {"name": "h200-141", "gib": gpus.gpu("h200-141").gib}
    assert sum(one["published"] for one in data["layouts"]) == 1
    first = data["layouts"][0]
    assert first["relative_time_is"] == "an estimate, not measured"
    assert read(*TWELVE, *first["overrides"]).layout == made.options[0].layout
    train = next(phase for phase in first["phases"] if phase["phase"] == "train")
    expected = sum(term["expected"] for term in train["terms"].values())
    assert train["gib"]["expected"] == pytest.approx(expected, abs=0.1)
