"""Keys that NeMo RL does not know, has in another type, wants and does not find, or reads to no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nano_exp import synonyms
from nano_exp.compose import launcher_settings
from nano_exp.nemo_rl.known_keys import FREE, KnownKeys
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View
from nano_exp.text import as_typed

#: Null until the run has a folder, or until the attempt fills them in.
FILLED_IN = (
    *("logger.log_dir", "logger.wandb.name", "checkpointing.checkpoint_dir"),
    *("policy.generation.vllm_cfg.tool_parser_plugin", "checkpointing.checkpoint_must_save_by"),
)
#: The first version that checks its types.
CHECKED = (0, 7, 0)
#: Rule 13's own.
CHECKPOINTING = (
    "checkpointing.keep_top_k",
    "checkpointing.save_optimizer",
    "checkpointing.checkpoint_must_save_by",
)


def _known(c: View) -> KnownKeys | None:
    return c.facts.keys(c.release)


#: Sections that are handed on whole (models/megatron/setup.py); logger.wandb, which is too, has its rules in
#: wandb_names.
PASSED_ON = {"policy.megatron_cfg.optimizer": "Megatron's OptimizerConfig"}


@rule(instead=True)
def unknown_key(c: View) -> Iterator[Mistake]:
    """A key that neither the version's types nor its recipes have is not read (a warning where `+` asked for it).

    Nor is one that recipes carry and GRPO does not read, an evaluation's for instance: in a recipe it does no harm,
    typed it would leave the run as it is without a word.
    """
    known = _known(c)
    if known is None:
        return
    for key in known.unknown(tuple(key for key in c.leaves if not key.startswith("logger.wandb."))):
        typed = c.how_typed(key)
        likely = _likely_keys(c, known, key) if typed is not None or key not in known.raw.unread else ()
        suggestion = " or ".join(f"{name}={as_typed(c.get(key))}" for name in likely)
        if key in known.raw.unread:
            if typed is not None:
                yield Mistake(
                    (key,),
                    f"recipes of NeMo RL {known.raw.version} carry this key, and GRPO does not read it: the run would "
                    "be the same without it",
                    f"{suggestion} instead (NeMo RL reads it), or leave it out" if suggestion else "leave it out",
                )
            continue
        reader = next((reader for section, reader in PASSED_ON.items() if key.startswith(f"{section}.")), "")
        then = f"passed on to {reader}, which stops at what it does not know" if reader else "ignored, silently"
        yield Mistake(
            (key,),
            f"NeMo RL {known.raw.version} has no such key, neither in its types nor in its recipes: it would be {then}",
            (suggestion or "leave it out") + ("" if typed else f", or ++{key}=... to have it all the same"),
            severity="warning" if typed and not likely else "error",
        )
    for key, name in _misspelt(c, known):
        yield Mistake(
            (key,),
            f"{key.rpartition('.')[0]} takes any key, and NeMo RL {known.raw.version} has {name} there, which is very "
            "near: a slip would be handed on to what does not know it, or be ignored",
            f"{name}={as_typed(c.get(key))}",
        )


#: More keys than these that end in the same word say nothing.
_FEW = 3


def _likely_keys(c: View, known: KnownKeys, key: str) -> tuple[str, ...]:
    """What is likely meant by a key that is not read: keys that take its value, each as it would be typed here."""
    passed_on = any(key.startswith(f"{section}.") for section in PASSED_ON)
    synonym = None if passed_on else synonyms.meant(key)
    section, leaf = key.partition(".")[0], key.rpartition(".")[2]
    same = [k for k in c.leaves if k.startswith(f"{section}.") and k.endswith(f".{leaf}") and k in known.names]
    for names in (known.near(key), synonym.keys if synonym else (), same if len(same) <= _FEW else ()):
        if typable := tuple(filter(None, (_as_typed(c, known, name, c.get(key)) for name in names))):
            return typable
    return ()


def _as_typed(c: View, known: KnownKeys, name: str, value: Any) -> str:
    """How a key is typed here, the launcher's own ones too; empty where it is none or does not take the value."""
    is_launchers = name in launcher_settings.SETTINGS and name.split(".")[0] in c.config
    check = launcher_settings.SETTINGS[name].fits if is_launchers else known.checks.get(name)
    if not (is_launchers or known.knows(name)) or not (check is None or check(value)):
        return ""
    return name if is_launchers or c.has(name) else f"++{name}"


def _misspelt(c: View, known: KnownKeys) -> Iterator[tuple[str, str]]:
    """Typed keys of free-form sections that are one slip away from a key that NeMo RL has in the same section."""
    for key, how in c.typed.items():
        if how and key in c.leaves and key not in known.names and known.knows(key) and key.split(".")[0] not in FREE:
            near = [name for name in known.near(key) if name.rpartition(".")[0] == key.rpartition(".")[0]]
            if near:
                yield key, near[0] if c.has(near[0]) else f"++{near[0]}"


@rule()
def value_type(c: View) -> Iterator[Mistake]:
    """A value has the type that NeMo RL declares (it checks that from v0.7.0 on; before, typed ones are warned of)."""
    known = _known(c)
    if known is None:
        return
    checks, checked = known.checks, c.version >= CHECKED
    off = _off_sections(c, known)
    wrong = [
        key
        for key in c.where(known.mistyped)
        if not (c.leaves[key] is None and key in FILLED_IN)
        and not key.startswith(off)
        and (checked or c.how_typed(key) is not None)
    ]
    typed = [key for key in wrong if c.how_typed(key) is not None]
    for key in typed or wrong:  # what is computed from a typed one is wrong with it
        value = c.leaves[key]
        hint = ""
        if isinstance(value, str):
            hint = f" (a text that looks like a number is one: {key}=1.0e-6 without quotes)" if _numeric(value) else ""
        yield Mistake(
            (key,),
            f"NeMo RL {known.raw.version} declares it as {known.types(key)}{hint}",
            launcher_settings.instead(key, value, launcher_settings.Kind(known.types(key), checks[key])),
            severity="error" if checked else "warning",
        )


def _off_sections(c: View, known: KnownKeys) -> tuple[str, ...]:
    """Prefixes of the keys in sections that are off, where the types ask for nothing but that."""
    return tuple(f"{section}." for section in known.switched if c.get(f"{section}.enabled") is False)


def _numeric(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


@rule(versions=">=v0.7.0")
def required_keys(c: View) -> Iterator[Mistake]:
    """A key that the types require is there."""
    known = _known(c)
    if known is None:
        return
    off = _off_sections(c, known)
    for key in known.required(""):
        if key in c.leaves or key in c.inner or key in CHECKPOINTING or key in FILLED_IN or key.startswith(off):
            continue
        parent = key.rpartition(".")[0]
        if (parent and parent not in c.inner and c.leaves.get(parent) != {}) or (
            c.vllm and key.startswith("policy.generation.")
        ):
            continue  # an optional section that is not there asks for nothing; vLLM's are rule 24's
        yield Mistake(
            (),
            f"NeMo RL {known.raw.version} requires it in {parent or 'the config'} ({known.types(key)})",
            f"++{key}=...",
            f"{key} is missing",
        )


#: A section that does nothing unless ...: (section, the one key in it that is read all the same, when it does nothing,
#: why, what to type instead).
Idle = tuple[str, tuple[str, ...], Callable[[View], bool], str, str]


def _off(key: str) -> Callable[[View], bool]:
    return lambda c: not c.on(key)


IDLE: tuple[Idle, ...] = (
    (
        "policy.dtensor_cfg",
        ("policy.dtensor_cfg.enabled",),
        lambda c: c.megatron,
        "Megatron trains, and this is DTensor's",
        "Megatron's own key below policy.megatron_cfg, or a DTensor layout (parallelism=fsdp2)",
    ),
    (
        "policy.optimizer",
        (),
        lambda c: c.megatron,
        "Megatron trains, and its optimizer is policy.megatron_cfg.optimizer",
        "optimizer.lr=... and its kin, which move both backends' keys",
    ),
    (
        "policy.scheduler",
        (),
        lambda c: c.megatron,
        "Megatron trains, and its schedule is policy.megatron_cfg.scheduler",
        "policy.megatron_cfg.scheduler.lr_warmup_iters=... and its kin",
    ),
    (
        "policy.megatron_cfg",
        # The DTensor layouts take the warm-up's length from it.
        ("policy.megatron_cfg.enabled", "policy.megatron_cfg.scheduler.lr_warmup_iters"),
        lambda c: c.dtensor,
        "DTensor trains, and this is Megatron's",
        "DTensor's own key below policy.dtensor_cfg, or a Megatron layout (parallelism=megatron_tp2)",
    ),
    *(
        (
            section,
            (f"{section}.enabled",),
            _off(f"{section}.enabled"),
            f"{section}.enabled is not true",
            f"{section}.enabled=true, or leave it out",
        )
        for section in (
            "policy.sequence_packing",
            "policy.dynamic_batching",
            "policy.draft",
            "policy.dtensor_cfg.lora_cfg",
            "policy.megatron_cfg.peft",
            "grpo.reward_scaling",
            "grpo.reward_shaping",
            "grpo.async_grpo",
            "checkpointing",
        )
    ),
    (
        "grpo.dynamic_sampling_max_gen_batches",
        (),
        _off("grpo.use_dynamic_sampling"),
        "grpo.use_dynamic_sampling is not true",
        "grpo.use_dynamic_sampling=true, or leave it out",
    ),
    (
        "policy.generation.colocated.resources",
        (),
        lambda c: c.colocated,
        "generation is colocated: it uses the training's GPUs",
        "policy.generation.colocated.enabled=false, or leave it out",
    ),
    (
        "logger.wandb",
        (),
        _off("logger.wandb_enabled"),
        "logger.wandb_enabled is not true",
        "logger.wandb_enabled=true, or leave it out",
    ),
)


@rule(severity="warning")
def no_effect(c: View) -> Iterator[Mistake]:
    """A key that was typed does something in this config."""
    for key in c.typed:
        for section, read, idle, why, instead in IDLE:
            if (key == section or key.startswith(f"{section}.")) and key not in read and idle(c):
                emptied = key == section and not c.get(section, True)
                if emptied or (key.endswith(".enabled") and c.get(key) is False):
                    break  # that is how a section is switched off
                subject = "" if c.has(key) and key not in c.inner else f"{key}=..."
                yield Mistake((key,) if not subject else (), f"it does nothing: {why}", instead, subject)
                break
