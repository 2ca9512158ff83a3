"""What a user reads after a slip: never a traceback, and every fix that is printed works when it is typed.

Launches run in this process, as dry runs. `NANO_EXP_EXAMPLES=500` for a night.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from core_case import LAUNCH, config_loader
from hydra.core.global_hydra import GlobalHydra

from nano_exp import dotted
from nano_exp.compose import compose, conf_tree, launcher_settings
from nano_exp.synonyms import MEANT

EXAMPLES = int(os.environ.get("NANO_EXP_EXAMPLES", "4"))
NINE = ("model=nano_9b", "cluster=1n8g")
BASES: tuple[tuple[str, ...], ...] = (NINE, ("model=nano_30b", "cluster=1n8g"), ())


@dataclass(frozen=True)
class Said:
    """What a launch ended with."""

    code: Any
    error: str

    @property
    def parts(self) -> tuple[str, str, str]:
        """The first error's found, why and fix."""
        found = re.search(r"^error: (.*)\n  why: (.*)\n  fix: (.*)$", self.error, re.MULTILINE)
        assert found, self.error
        return found[1], found[2], found[3]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, without Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("NANO_EXP_ENV", "")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["launch.py"])


def typed(*words: str) -> Said:
    """`python launch.py WORDS dry_run=true`, in this process."""
    sys.argv[:] = [str(LAUNCH), *words, "dry_run=true", "ignore=place"]
    GlobalHydra.instance().clear()
    errors, heard = io.StringIO(), signal.getsignal(signal.SIGINT)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(LAUNCH), run_name="__main__")
    except SystemExit as end:
        return Said(end.code, errors.getvalue())
    finally:
        signal.signal(signal.SIGINT, heard)
    raise AssertionError("launch.py did not exit")


def fixes(fix: str) -> list[list[str]]:
    """The overrides that a fix says to type, each alternative; what has to be filled in (<...>) is none."""
    fix = re.sub(r" \([^()]*\)", "", fix).removeprefix("one of these: ").split(", for a run")[0].split(";")[0]
    parts = [part for one in re.split(r",? or ", fix) for part in one.split(", ")]
    alternatives = [shlex.split(part) for part in parts if "<" not in part]
    return [words for words in alternatives if words and all("=" in word or word == "-m" for word in words)]


# --- the kinds of mistakes, one by one ------------------------------------------------------------------------------

#: what is typed beside NINE -> what is found, and the fix
SLIPS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "a part of an option": (("model=9b",), "model=9b", "model=nano_9b"),
    "an option in capitals": (("model=NANO_9B",), "model=NANO_9B", "model=nano_9b"),
    "a shape in capitals": (("cluster=1N8G",), "cluster=1N8G", "cluster=1n8g"),
    "another number": (("cluster=3n8g",), "cluster=3n8g", "one of these: cluster=1n1g, cluster=1n2g,"),
    "a model by its weights": (("model=nvidia/NVIDIA-Nemotron-Nano-9B-v2",), "model=nvidia/", "model=nano_9b"),
    "an option in brackets": (("model=[nano_9b]",), "model=[nano_9b]", "model=nano_9b"),
    "a word for a key, in its section": (
        ("optimizer.learning_rate=1e-6",),
        "optimizer.learning_rate=1e-6",
        "optimizer.lr=1e-6",
    ),
    "a word for a key": (("learning_rate=1e-6",), "learning_rate=1e-6", "optimizer.lr=1e-6"),
    "a word for a swept key": (("-m", "lr=1e-6,5e-6"), "lr=1e-6,5e-6", "optimizer.lr=1e-6,5e-6"),
    "a word for what counts": (("gpus=4",), "gpus=4", "cluster.gpus_per_node=4 (GPUs of each node)"),
    "a word near to a group": (("steps=10",), "steps=10", "grpo.max_num_steps=10"),
    "nodes": (("nodes=2",), "nodes=2", "cluster.num_nodes=2"),
    "of two backends the one that trains": (
        ("tp=4",),
        "tp=4",
        "policy.megatron_cfg.tensor_model_parallel_size=4 or policy.generation.vllm_cfg.tensor_parallel_size=4",
    ),
    "a word for a switch": (("wandb=true",), "wandb=true", "logger.wandb_enabled=true"),
    "the same word for a name": (("wandb=mine",), "wandb=mine", "logger.wandb.project=mine"),
    "another unit": (("time=04:00:00",), "time=04:00:00", "site.timeout_min=<minutes"),
    "what follows from others": (("dp=4",), "dp=4", "leave it out"),
    "an added key near to a known one": (("++grpo.max_num_step=3",), "grpo.max_num_step=3", "grpo.max_num_steps=3"),
    "an added word for a key": (("++lr=1e-6",), "lr=1e-06", "optimizer.lr=1e-06"),
    "an added key of a free section": (
        ("++policy.optimizer.kwargs.lrr=1",),
        "policy.optimizer.kwargs.lrr=1",
        "++policy.optimizer.kwargs.lr=1",
    ),
    "an added key of the launcher's": (("++site.partiton=gpu",), "site.partiton=gpu", "site.partition=gpu"),
    "a blank before the value": (("optimizer.lr=", "1e-6"), "optimizer.lr= 1e-6", "optimizer.lr=1e-6"),
    "blanks around the sign": (("optimizer.lr", "=", "1e-6"), "optimizer.lr = 1e-6", "optimizer.lr=1e-6"),
    "a blank after the comma": (
        ("-m", "optimizer.lr=1e-6,", "5e-6"),
        "optimizer.lr=1e-6, 5e-6",
        "-m optimizer.lr=1e-6,5e-6",
    ),
    "two signs": (("optimizer.lr==1e-6",), "optimizer.lr==1e-6", "optimizer.lr=1e-6"),
    "a colon": (("optimizer.lr:1e-6",), "optimizer.lr:1e-6", "optimizer.lr=1e-6"),
    "a list for a sweep": (
        ("optimizer.lr=[1e-6,5e-6]",),
        "optimizer.lr=[1e-06,5e-06]",
        "-m optimizer.lr=1e-06,5e-06, for a run of each",
    ),
    "a list for a sweep of NeMo RL's": (
        ("grpo.num_generations_per_prompt=[8,16]",),
        "grpo.num_generations_per_prompt=[8,16]",
        "-m grpo.num_generations_per_prompt=8,16, for a run of each",
    ),
    "a plus for a key that is there": (("+grpo.seed=5",), "+grpo.seed=5", "grpo.seed=5"),
    "a word for minutes": (("site.timeout_min=abc",), "site.timeout_min=abc", "leave site.timeout_min=... out"),
    "the same, of the launcher": (
        ("hydra.launcher.timeout_min=abc",),
        "hydra.launcher.timeout_min=abc",
        "leave hydra.launcher.timeout_min=... out",
    ),
    "a word for a number": (
        ("grpo.num_generations_per_prompt=eight",),
        "grpo.num_generations_per_prompt=eight",
        "leave grpo.num_generations_per_prompt=... out",
    ),
    "a whole number with a point": (("grpo.max_num_steps=10.0",), "grpo.max_num_steps=10.0", "grpo.max_num_steps=10"),
    "a text for a list": (("run.tags=foo",), "run.tags=foo", "run.tags=[foo]"),
    "a value for a section": (("run=foo",), "run=foo", "run.name=foo"),
    "a number for a section": (("grpo=5",), "grpo=5", "grpo.<name>=<its value>, or leave grpo=5 out"),
    "a section for a group": (("sweep=lr",), "sweep=lr", "sweeps=lr"),
    "an item of a list": (("~policy.scheduler.0",), "~policy.scheduler.0", "leave ~policy.scheduler.0 out"),
    "a null taken away": (("~site.qos",), "~site.qos", "leave ~site.qos out"),
    "a setting taken away": (("~slurm.max_attempts",), "no slurm.max_attempts", "leave ~slurm.max_attempts out"),
    "a group's choice that is added": (
        ("model=nano_9b", "cluster=1n8g", "+model=nano_12b"),
        "+model=nano_12b",
        "model=nano_12b",
    ),
    "no option at all": (("sweeps=[]",), "sweeps=[]", "sweeps=lr"),
    "nothing we know": (("foo.bar=1",), "foo.bar=1", "leave it out"),
}


@pytest.mark.parametrize(("words", "found", "fix"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_is_named_and_its_fix_works(words: tuple[str, ...], found: str, fix: str) -> None:
    base = [word for word in NINE if not words[-1].startswith(word.partition("=")[0] + "=")]
    said = typed(*base, *words)
    assert said.code == 2
    assert said.parts[0].startswith(found) and said.parts[2].startswith(fix), said.error
    for instead in fixes(said.parts[2]):
        assert_passes(base, instead, said)


def assert_passes(base: Sequence[str], instead: Sequence[str], said: Said) -> None:
    """What was printed, typed: launched, or refused for something else than what stands there."""
    again = typed(*base, *instead)
    assert again.code in (0, 2), again.error
    if again.code == 2:
        assert again.parts[0] != said.parts[0], f"{instead}: the same error again"
        assert "the config has no such key" not in again.parts[1] and "has no option" not in again.parts[1], (
            instead,
            again.error,
        )
        assert not any(f"rule: {rule}\n" in again.error for rule in ("unknown_key", "value_type")), (
            instead,
            again.error,
        )


# --- slips by chance ------------------------------------------------------------------------------------------------


@cache
def leaves(base: tuple[str, ...]) -> dict[str, str]:
    """Plain keys of a composed config with the values that they have, as typed."""
    config = conf_tree.raw(compose.compose(config_loader(), list(base)))
    plain = {key: value for key, value in dotted.leaves(config).items() if isinstance(value, bool | int | float)}
    return {
        key: launcher_settings.shown(value)
        for key, value in plain.items()
        if not key.startswith(("model.", "ignore", "dry"))
    }


def slipped(word: str, chance: random.Random) -> str:
    """One slip of the finger in a word."""
    place = chance.randrange(len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    return chance.choice(
        (
            before + after,
            before + letter + letter + after,
            before + after[:1] + letter + after[1:],
            before + chance.choice("abeiorst_") + after,
            word.upper(),
            word.rpartition(".")[2],
            word.replace("_", "-"),
        )
    )


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_whatever_fix_is_printed_for_a_slip_in_a_key_works(seed: int) -> None:
    chance = random.Random(seed)
    base = chance.choice(BASES)
    key = chance.choice(sorted(leaves(base)))
    value = leaves(base)[key]
    word = chance.choice(sorted(MEANT)) if seed % 4 == 0 else slipped(key, chance)
    how = chance.choice(("", "", "++"))
    said = typed(*base, f"{how}{word}={value}")
    assert said.code in (0, 2) and "Traceback" not in said.error, said.error
    if said.code == 2:
        for instead in fixes(said.parts[2]):
            assert_passes(base, instead, said)


@pytest.mark.parametrize("seed", range(EXAMPLES // 2))
def test_whatever_fix_is_printed_for_a_slip_in_an_option_works(seed: int) -> None:
    chance = random.Random(1000 + seed)
    group, option = chance.choice(
        [
            (g, p.stem)
            for g in ("model", "cluster", "parallelism", "generation", "optimizer", "engine", "sweeps")
            for p in sorted((conf_tree.CONF_DIR / g).glob("*.yaml"))
        ]
    )
    base = [word for word in NINE if not word.startswith(f"{group}=")]
    said = typed(*base, f"{group}={slipped(option, chance)}")
    assert said.code in (0, 2) and "Traceback" not in said.error, said.error
    if said.code == 2 and "has no option" in said.parts[1]:
        for instead in fixes(said.parts[2]):
            assert_passes(base, instead, said)


# --- values of a wrong kind -----------------------------------------------------------------------------------------

VALUES = (
    *("5", "-1", "1.5", "word", "true", "null", "[]", "[1,2]", "[a,b]", "{}", "{a:1}", "''", "'a b'", "1e999", "nan"),
    *("???", "'${nope}'", "'${grpo.seed}'", "a/b", "0", "a,b", "range(1,3)"),
)


@cache
def targets() -> list[tuple[tuple[str, ...], str]]:
    """Every group, section and key, with the choices beside which it is there."""
    groups = [(base, group) for base in (NINE, ()) for group in config_loader().list_groups("") if group != "hydra"]
    keys = []
    for base in (NINE, ()):
        config = conf_tree.raw(compose.compose(config_loader(), list(base)))
        parts = [key.split(".") for key in dotted.leaves(config)]
        every = {".".join(part[: i + 1]) for part in parts for i in range(len(part))}
        own = [key for key in every if key.split(".")[0] in launcher_settings.OWN or key.count(".") == 0]
        keys += [(base, key) for key in (*sorted(every), *sorted(own) * 3)]
    return [*groups * 4, *keys]


@pytest.mark.parametrize("seed", range(4 * EXAMPLES))
def test_a_value_of_a_wrong_kind_gives_no_traceback(seed: int) -> None:
    chance = random.Random(seed)
    base, key = chance.choice(targets())
    how, value = chance.choice(("", "", "", "", "+", "++", "~")), chance.choice(VALUES)
    words = [*base, f"~{key}" if how == "~" else f"{how}{key}={value}"]
    said = typed(*(["-m"] if chance.random() < 0.2 else []), *words)
    assert said.code in (0, 2), (words, said.error)
    assert "Traceback" not in said.error and "the config cannot be composed\n" not in said.error, (words, said.error)
    if said.code == 2:
        assert all(said.parts), said.error
