"""What is taken for a slip of the finger, and what is not."""

from __future__ import annotations

import pytest

from nano_exp.errors import nearest, short_for

MODELS = ("nano_12b", "nano_30b", "nano_9b", "nano_tiny")
SHAPES = ("1n1g", "1n8g", "2n8g", "local", "published")
OPTIMIZER = ("optimizer.lr", "optimizer.min_lr", "optimizer.weight_decay", "optimizer.betas", "optimizer.eps")

SLIPS = {
    "a letter is missing": ("nano_9", MODELS, ["nano_9b"]),
    "a letter too much": ("nano_tinyy", MODELS, ["nano_tiny"]),
    "two letters swapped": ("grop", ("grpo", "data"), ["grpo"]),
    "another letter": ("nano_timy", MODELS, ["nano_tiny"]),
    "upper case": ("NANO_9B", MODELS, ["nano_9b"]),
    "upper case with digits": ("1N8G", SHAPES, ["1n8g"]),
    "a dash": ("nano-9b", MODELS, ["nano_9b"]),
    "no separator": ("nano9b", MODELS, ["nano_9b"]),
    "a letter twice in a short word": ("optimizer.lrr", OPTIMIZER, ["optimizer.lr"]),
    "two slips in a long word": ("optimizer.wieght_deca", OPTIMIZER, ["optimizer.weight_decay"]),
    "the section": ("optimiser.lr", OPTIMIZER, ["optimizer.lr"]),
    "two are as near": ("clip_mxn", ("clip_min", "clip_max"), ["clip_min", "clip_max"]),
}


@pytest.mark.parametrize(("word", "there", "near"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_of_the_finger_is_near(word: str, there: tuple[str, ...], near: list[str]) -> None:
    assert nearest(word, there) == near


OTHERS = {
    "another number": ("nano_13b", MODELS),
    "another count": ("4n8g", SHAPES),
    "another size of a layout": ("megatron_tp9", ("megatron_tp2", "megatron_tp8")),
    "another meaning": ("optimizer.learning_rate", OPTIMIZER),
    "another short word": ("pp", ("tp", "cp", "dp")),
    "a key for a group": ("steps", ("sweeps", "site")),
    "a plural": ("nodes", ("model",)),
    "a part": ("9b", MODELS),
    "another depth": ("lr", OPTIMIZER),
}


@pytest.mark.parametrize(("word", "there"), OTHERS.values(), ids=OTHERS.keys())
def test_another_thing_is_not_near(word: str, there: tuple[str, ...]) -> None:
    assert nearest(word, there) == []


def test_a_short_form_is_of_one_name_alone() -> None:
    assert short_for("num_generations", ["num_generations_per_prompt", "num_prompts_per_step"])
    assert short_for("9b", MODELS) is None
    assert short_for("9b", MODELS, anywhere=True) == "nano_9b"
    assert short_for("nano", MODELS, anywhere=True) is None
    assert short_for("batch_size", ["val_batch_size"]) is None, "a word before it makes another thing of it"
    assert short_for("num_val", ["num_val_generations_per_prompt"]) is None, "most of the name is not there"
    assert short_for("", MODELS, anywhere=True) is None
