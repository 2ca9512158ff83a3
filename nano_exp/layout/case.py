"""A layout as the rulebook sees it, with what it is laid over; and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from nano_exp.dotted import Config
from nano_exp.layout import world
from nano_exp.layout.architecture import Architecture
from nano_exp.layout.layouts import FSDP2, Layout
from nano_exp.nemo_rl import versions

PROMPTS, GENERATIONS = "grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"
GBS, MBS, LBS = "policy.train_global_batch_size", "policy.train_micro_batch_size", "policy.logprob_batch_size"
PADDING, ROUND = "policy.make_sequence_length_divisible_by", "policy.dynamic_batching.sequence_length_round"
PACKING, DYNAMIC_BATCHING = "policy.sequence_packing.enabled", "policy.dynamic_batching.enabled"
TOP_P, TOP_K = "policy.generation.top_p", "policy.generation.top_k"
#: The fused loss's switch, by the version (major, minor, patch) that has it first.
FUSED_LOSS = {
    (0, 5, 0): "policy.megatron_cfg.use_linear_ce_fusion_loss",
    (0, 8, 0): "policy.megatron_cfg.use_fused_linear_logprobs",
}
NODES, GPUS = "cluster.num_nodes", "cluster.gpus_per_node"
#: The variable that lets training and log probabilities have other micro batches.
UNEQUAL = "NRL_IGNORE_TP_ACCURACY_CHECK"
LATE = "found out after the first rollout: "


class Shape(NamedTuple):
    """What a layout is laid over: GPUs, the batch, and the settings that some layouts do not go with.

    Parameters
    ----------
    world: GPUs that train
    prompts, generations: of one step: prompts, and sequences for each
    version: NeMo RL's (major, minor, patch)
    filtered: top-p or top-k filter what is sampled
    length_round: dynamic batching rounds lengths up to multiples of it
    unequal: log probabilities may have other micro batches than training
    fused_loss: Megatron computes the loss without whole logits
    """

    world: int | None
    gpus_per_node: int
    prompts: int | None
    generations: int | None
    global_batch: int | None
    version: tuple[int, ...] = (0, 7, 0)
    filtered: bool = False
    length_round: int | None = None
    unequal: bool = False
    fused_loss: bool = False

    @property
    def fused_key(self) -> str:
        """The fused loss's switch at this version."""
        return fused_key(self.version)

    @property
    def rollout(self) -> int | None:
        """Sequences of one step."""
        return self.prompts * self.generations if self.prompts and self.generations else None


def fused_key(version: tuple[int, ...]) -> str:
    """The fused loss's switch at a version."""
    return next(key for since, key in reversed(FUSED_LOSS.items()) if version >= since)


def shape_of(config: Mapping[str, Any], environ: Mapping[str, str]) -> Shape:
    """Read a resolved config. A value of a wrong kind is None: it is for others to report.

    Parameters
    ----------
    environ: the engine's environment, but for site.env (null there takes a variable away)
    """
    settings = Config(config)
    top_p, top_k = settings.get(TOP_P), settings.count(TOP_K, 0)
    site_env = settings.section("site.env").values
    ignored = site_env[UNEQUAL] if UNEQUAL in site_env else environ.get(UNEQUAL)
    version = versions.order(settings.text("nemo_rl.version"))
    return Shape(
        world.of_config(config).training,
        settings.count(GPUS, 1),
        settings.count(PROMPTS, 0) or None,
        settings.count(GENERATIONS, 0) or None,
        settings.count(GBS, 0) or None,
        version,
        filtered=top_k > 0 or (isinstance(top_p, int | float) and 0 < top_p < 1),
        length_round=settings.count(ROUND, 0) or None,
        unequal=settings.on("loss_fn.force_on_policy_ratio") or ignored not in (None, ""),
        fused_loss=settings.on(fused_key(version)),
    )


@dataclass(frozen=True)
class Case:
    """A layout and what it is laid over; no architecture: a model of which nothing is known."""

    layout: Layout
    architecture: Architecture | None
    shape: Shape

    @cached_property
    def ranks(self) -> int | None:
        """Data parallel ranks; None where the layout does not divide the GPUs."""
        size, gpus = self.layout.model_parallel, self.shape.world
        return None if gpus is None or gpus % size else gpus // size

    @property
    def hybrid(self) -> bool:
        return self.architecture is not None and self.architecture.hybrid

    @property
    def experts(self) -> int:
        """The model's routed experts; 0 for a dense model, and for one that is not known."""
        return self.architecture.experts if self.architecture is not None else 0

    @property
    def own_modules(self) -> bool:
        """Whether the model is built of NeMo Automodel's own modules, and not of Hugging Face's."""
        return self.layout.backend == FSDP2 and self.layout.second_worker and not self.layout.force_hf


class Problem(NamedTuple):
    """Why a layout is not valid.

    Parameters
    ----------
    keys: the dotted keys of NeMo RL that say it
    fix: what to type
    """

    keys: tuple[str, ...]
    why: str
    fix: str
    severity: Literal["error", "warning"] = "error"
    rule: str = ""


Check = Callable[[Case], Iterable[Problem]]


@dataclass(frozen=True)
class Rule:
    """One rule. `number` and `versions` are as those of preflight's rules."""

    name: str
    summary: str
    number: int | None
    versions: str
    check: Check


RULES: dict[str, Rule] = {}


def rule(number: int | None = None, *, versions: str = "") -> Callable[[Check], Check]:
    """Add a rule to the book under its function's name."""

    def add(check: Check) -> Check:
        summary = (check.__doc__ or "").strip().splitlines()[0]
        RULES[check.__name__] = Rule(check.__name__, summary, number, versions, check)
        return check

    return add
