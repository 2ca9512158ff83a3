"""Remedies are overrides that this project takes, fitted to the config: composed for real, for every recipe."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import OmegaConf

from nano_exp.compose import compose, conf_tree
from nano_exp.triage import causes, remedies
from nano_exp.triage.knobs import Knobs
from nano_exp.triage.remedies_memory import smaller_divisor
from nano_exp.triage.signs import Reading
from nano_exp.triage.vocabulary import PHASES

# Megatron with and without recomputation, and DTensor with everything in host memory already.
RECIPES = [("nano_9b", "1n8g"), ("nano_12b", "1n8g"), ("nano_12b", "2n8g")]
LAUNCHER = {field.name for field in dataclasses.fields(SlurmQueueConf)}
FOUND = [
    Reading(),
    Reading("Ray's memory monitor", subject="512"),
    Reading("Bus error", subject="CPUs"),
    Reading("no kernel image", subject="25001"),
    Reading(subject="WANDB_API_KEY"),
    Reading(subject="offline"),
    Reading(subject="/tmp/x"),
]


def overrides_in(text: str) -> Iterator[tuple[str, str]]:
    """(prefix and key, value) of everything in a remedy that is to be typed, placeholders left out."""
    for prefix, key, value in re.findall(r"(\+\+)?\b([a-z][\w.]*)=((?:\"[^\"]*\")|[^\s;,')]*)", text):
        if value and not value.isupper() and key not in ("export", "token"):
            yield prefix + key, value


@pytest.fixture(scope="module", params=RECIPES, ids="-".join)
def recipe(request: pytest.FixtureRequest) -> tuple[list[str], dict[str, Any]]:
    model, cluster = request.param
    base = [f"model={model}", f"cluster={cluster}"]
    with conf_tree.loader() as loader:
        config = OmegaConf.to_container(compose.compose(loader, base), resolve=True, throw_on_missing=False)
    assert isinstance(config, dict)
    return base, config


def test_what_a_remedy_says_can_be_typed(recipe: tuple[list[str], dict[str, Any]]) -> None:
    base, config = recipe
    knobs = Knobs(config)
    typed: dict[str, str] = {}
    for cause in causes():
        for phase in PHASES:
            for found in FOUND:
                for key, value in overrides_in(remedies.of(cause, config, found, phase)):
                    plain = key.removeprefix("+" * 2)
                    if plain.startswith("hydra.launcher."):
                        assert plain.rpartition(".")[2] in LAUNCHER, key
                    elif key.startswith("++"):
                        # Types of NeMo RL that a config may lack; site.env takes any name.
                        assert knobs.get(plain) is None
                    elif plain != "cluster":
                        assert knobs.get(plain.rpartition(".")[0]) is not None or "." not in plain, (cause, key)
                    if not plain.startswith("hydra.") and plain not in ("fresh", "cluster") and "/path" not in value:
                        typed[key] = value
    assert len(typed) > 8
    with conf_tree.loader() as loader:
        compose.compose(loader, [*base, *(f"{key}={value}" for key, value in typed.items())])


def test_nothing_that_the_config_already_has(recipe: tuple[list[str], dict[str, Any]]) -> None:
    _, config = recipe
    knobs = Knobs(config)
    for cause in causes():
        for phase in PHASES:
            for key, value in overrides_in(remedies.of(cause, config, Reading(), phase)):
                now = knobs.get(key.removeprefix("++"))
                assert now is None or str(now).lower() != value.lower(), (cause, phase, key, value)


def test_only_the_backend_that_trains_is_named(recipe: tuple[list[str], dict[str, Any]]) -> None:
    _, config = recipe
    other = {"megatron_cfg": "policy.dtensor_cfg.", "dtensor_cfg": "policy.megatron_cfg."}[Knobs(config).backend]
    for cause in causes():
        for phase in PHASES:
            assert other not in remedies.of(cause, config, Reading(), phase)


def policy(**more: Any) -> dict[str, Any]:
    base = {
        "megatron_cfg": {"enabled": True, "activation_checkpointing": True, "tensor_model_parallel_size": 1},
        "train_micro_batch_size": 1,
        "logprob_batch_size": 1,
        "max_total_sequence_length": 512,
    }
    return {"policy": {**base, **more}, "cluster": {"gpus_per_node": 8, "num_nodes": 1}}


def test_tokens_of_a_packed_batch_never_fall_below_one_sequence() -> None:
    packing = {"enabled": True, "train_mb_tokens": 3000, "logprob_mb_tokens": 2048}
    said = remedies.of("cuda_oom", policy(sequence_packing=packing, max_total_sequence_length=2048), Reading(), "train")
    assert "policy.sequence_packing.train_mb_tokens=2048" in said
    packing["train_mb_tokens"] = 2048
    said = remedies.of("cuda_oom", policy(sequence_packing=packing, max_total_sequence_length=2048), Reading(), "train")
    assert "mb_tokens" not in said


def test_doubled_tensor_parallel_keeps_the_two_batches_equal() -> None:
    megatron = {"enabled": True, "activation_checkpointing": True, "tensor_model_parallel_size": 2}
    config = policy(megatron_cfg=megatron, train_micro_batch_size=1, logprob_batch_size=4)
    said = remedies.of("cuda_oom", config, Reading(), "train")
    assert "policy.megatron_cfg.tensor_model_parallel_size=4 policy.logprob_batch_size=1" in said


@pytest.mark.parametrize(("size", "less"), [(2, 1), (3, 1), (4, 2), (6, 3), (9, 3), (7, 1)])
def test_a_smaller_micro_batch_divides_what_the_larger_divided(size: int, less: int) -> None:
    assert smaller_divisor(size) == less


def test_a_bad_node_is_left_out_first() -> None:
    assert remedies.of("gpu_lost", {}, Reading(), "train", "gpu08").startswith("hydra.launcher.exclude=gpu08; ")
    assert "exclude" not in remedies.of("cuda_oom", {}, Reading(), "train", "gpu08")


def test_what_is_missing_is_prepared_in_words_that_can_be_typed(recipe: tuple[list[str], dict[str, Any]]) -> None:
    (_, config), site = recipe, {"name": "mysite", "python": None}
    theirs = {**config, "site": {**config["site"], **site}}
    prepare = (
        f"nano-exp prepare model={config['model']['name']} cluster={config['cluster']['num_nodes']}n8g site=mysite"
    )
    assert f"{prepare} --only model`" in remedies.of("model_missing", theirs, Reading(subject="offline"), "setup")
    assert f"{prepare} --only model`" in remedies.of("network", theirs, Reading(subject="huggingface.co"), "setup")
    assert f"{prepare} --only driver`" in remedies.of("import_error", theirs, Reading(), "setup")
    other = {**theirs, "policy": {**config["policy"], "model_name": "org/other"}}
    assert "policy.model_name=org/other --only" in remedies.of("rate_limited", other, Reading(), "setup")
    assert "nano-exp" not in remedies.of("import_error", {}, Reading(), "setup")
