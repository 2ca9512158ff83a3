"""A mistake that is answered without Hydra has the words that Hydra's long way leads to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_case import config_loader

from nano_exp.advice import quickly
from nano_exp.compose import quick
from nano_exp.errors import UserError
from nano_exp.launch.points import expanded

NINE = ("model=nano_9b", "cluster=1n8g")


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    quick.allow()
    quick.keep(config_loader(), NINE)
    yield
    quick.allow(False)


def slowly(words: tuple[str, ...]) -> UserError:
    """Hydra's."""
    quick.allow(False)
    with pytest.raises(UserError) as refused:
        expanded(words)
    quick.allow()
    return refused.value


def same(words: tuple[str, ...]) -> bool:
    """Whether there is a quick answer; it must be the slow one."""
    quickest = quickly.mistake(words)
    if quickest is not None:
        slow = slowly(words)
        assert (str(quickest), quickest.code) == (str(slow), slow.code)
    return quickest is not None


@pytest.mark.parametrize(
    "more",
    [
        ("grpo.num_prompt_per_step=3",),
        ("grpo.sede=1", "grpo.sed=2"),
        ("grpo.seed=1", "optimiser.lr=1e-6"),
        ("learning_rate=1e-6",),
        ("grpo.zzz=1",),
        ("zzz=1",),
        ("zzz.yyy=1", "grpo.sede=1"),
        ("policy.megatron_cfg.tensor_model_parallel_sice=2",),
        ("site.partitoin=batch",),
        ("run.nam=a",),
        ("dryrun=true",),
        ("dp=8",),
        ("clip=0.2",),
        ("temprature=0.5",),
    ],
)
def test_a_mistyped_key(more: tuple[str, ...]) -> None:
    assert same((*NINE, *more))


@pytest.mark.parametrize("words", [("model=nano_9", "cluster=1n8g"), ("model=nano_9b", "cluster=1n8", "grpo.sede=1")])
def test_a_mistyped_option(words: tuple[str, ...]) -> None:
    assert same(words)


@pytest.mark.parametrize(
    "more",
    [
        ("grpo.seed=1",),
        ("grpo=1",),
        ("lr=abc",),
        ("++grpo.sede=1",),
        ("+grpo.sede=1",),
        ("grpo.sede=[1]",),
        ("grpo.seed.x=1",),
        ("modle=nano_12b",),
        ("dataset=zzz",),
        ("model=nano_12b",),
        ("data=zzz",),
        ("parallelism=zzz",),
        ("hydra.sweeper=1",),
        ("sweeps=zzz",),
    ],
)
def test_what_is_no_mistake_or_not_certain_is_left_to_hydra(more: tuple[str, ...]) -> None:
    assert quickly.mistake((*NINE, *more)) is None
