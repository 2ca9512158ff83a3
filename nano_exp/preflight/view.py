"""A frozen config as the rules see it: flat keys, and the numbers that many rules need, derived once.

A value of a wrong type is None in the derived numbers: one rule reports it, and the others have nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from nano_exp import alike
from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.layout import architecture, case, layouts, models, world
from nano_exp.layout.architecture import Architecture
from nano_exp.layout.case import Case
from nano_exp.layout.world import World
from nano_exp.nemo_rl import versions
from nano_exp.overrides import Override
from nano_exp.preflight import ahead
from nano_exp.preflight.facts import Facts
from nano_exp.store.run_config import LAUNCHER_KEYS


def whole(value: Any) -> int | None:
    """A whole number, or None for anything else (true and false too)."""
    return value if type(value) is int else None


def product(*numbers: int | None) -> int | None:
    """Their product; None when one is not known."""
    result = 1
    for number in numbers:
        if number is None:
            return None
        result *= number
    return result


def _prepare(key: str, overrides: Sequence[str]) -> str:
    return ahead.command(overrides)


def signs(overrides: Sequence[str]) -> dict[str, str]:
    """Dotted key -> how it was typed: "", "+" or "++"; of those that set a value."""
    typed = map(Override.parse, overrides)
    return {one.name: one.sign for one in typed if one.has_value and not one.deletes}


class View:
    """One frozen config, and the facts around it.

    Parameters
    ----------
    config: resolved, the launcher's sections included
    overrides: as typed

    Attributes
    ----------
    get: the value at a dotted key of NeMo RL's, with a default as dict.get has it
    release, version: the NeMo RL version that the config was made for: "v0.7.0", (0, 7, 0)
    """

    def __init__(self, config: Mapping[str, Any], overrides: Sequence[str] = (), facts: Facts | None = None) -> None:
        self._take({"config": config, "overrides": overrides}, facts)

    @classmethod
    def of(cls, point: Mapping[str, Any], facts: Facts) -> View:
        """A view of a point that may be watched (`nano_exp.alike`).

        Parameters
        ----------
        point: its `config`, `overrides` and their `typed`
        """
        view = cls.__new__(cls)
        view._take(point, facts)
        view.typed = point["typed"]
        return view

    def _take(self, point: Mapping[str, Any], facts: Facts | None) -> None:
        self._point, self.config = point, point["config"]
        self.facts = facts if facts is not None else Facts()
        self.leaves, self.inner = alike.flat(self.config, LAUNCHER_KEYS)
        self.engine = str(self.launcher("engine").get("name") or "nemo_rl")
        self.release = str(self.launcher("nemo_rl").get("version") or "")
        self.version = versions.order(self.release)
        self.get = self.leaves.get

    def has(self, key: str) -> bool:
        """Whether the key is there, null or not."""
        return key in self.leaves or key in self.inner

    def value(self, key: str) -> Any:
        """What stands at a dotted key, the launcher's too: a leaf or a mapping; None where there is nothing."""
        if key in self.leaves:
            return self.leaves[key]
        return Config(self.config).get(key)

    def where(self, holds: Callable[[str, Any], bool]) -> list[str]:
        """The keys of the leaves of which something holds.

        Parameters
        ----------
        holds: of a dotted key and its value; a function or a method that is there for good
        """
        return alike.where(self.leaves, holds)

    def section(self, key: str) -> Mapping[str, Any]:
        """A mapping of NeMo RL's; empty where there is none."""
        return self.inner.get(key, {})

    def number(self, key: str) -> int | None:
        """A whole number; None where there is none."""
        value = self.get(key)
        return value if type(value) is int else None

    def on(self, key: str) -> bool:
        """Whether a switch is on."""
        return self.get(key) is True

    @cached_property
    def on_slurm(self) -> bool:
        return self.launcher("slurm").get("where") == "slurm"

    def launcher(self, section: str) -> Mapping[str, Any]:
        """One of the launcher's sections; empty where there is none."""
        values = self.config.get(section)
        return values if isinstance(values, dict) else {}

    @cached_property
    def pack(self) -> int | None:
        """So many runs share the job; None where each has its own."""
        count = self.config.get("pack")
        return count if isinstance(count, int) and count > 1 else None

    @cached_property
    def site(self) -> Mapping[str, Any]:
        return self.launcher("site")

    @cached_property
    def site_env(self) -> Mapping[str, Any]:
        """Variables that the site sets (null: takes away)."""
        env = self.site.get("env")
        return env if isinstance(env, dict) else {}

    @cached_property
    def known_model(self) -> Mapping[str, Any]:
        """Facts about the model that policy.model_name names, with the keys of conf/model; its name alone where none
        are known."""
        return models.named(self.config)

    @cached_property
    def model(self) -> Mapping[str, Any]:
        """The same; of a folder that is not on this host (a container's), those of the model that was chosen, whose
        weights it likely holds."""
        known = self.known_model
        folder = str(self.get("policy.model_name") or "").startswith(("/", ".", "~"))
        return self.launcher("model") if folder and not known.get("model_type") else known

    @property
    def model_type(self) -> Any:
        """The model's kind, as its config.json names it."""
        return self.model.get("model_type")

    @property
    def overrides(self) -> Sequence[str]:
        """As typed."""
        words: Sequence[str] = self._point["overrides"]
        return words

    @cached_property
    def typed(self) -> dict[str, str]:
        """Dotted key -> how it was typed: "", "+" or "++"."""
        return signs(self.overrides)

    @property
    def prepare(self) -> str:
        """The command that makes ahead what a first run makes."""
        return alike.said(self._point, _prepare, "overrides")[0]

    def how_typed(self, key: str) -> str | None:
        """How the key, or a mapping around it, was typed; None when it comes from the files."""
        while key:
            if key in self.typed:
                return self.typed[key]
            key = key.rpartition(".")[0]
        return None

    # --- who trains -------------------------------------------------------------------------------------------------

    @cached_property
    def megatron(self) -> bool:
        return self.on("policy.megatron_cfg.enabled")

    @cached_property
    def dtensor(self) -> bool:
        return self.on("policy.dtensor_cfg.enabled") and not self.megatron

    @cached_property
    def vllm(self) -> bool:
        return self.get("policy.generation.backend") == "vllm"

    @cached_property
    def gym(self) -> bool:
        return self.on("env.should_use_nemo_gym")

    @cached_property
    def _layout(self) -> str:
        return "policy.megatron_cfg." if self.megatron else "policy.dtensor_cfg."

    @cached_property
    def tp_key(self) -> str:
        """The key of the training backend's tensor parallel size."""
        return f"{self._layout}{'tensor_model_parallel_size' if self.megatron else 'tensor_parallel_size'}"

    @cached_property
    def tp(self) -> int | None:
        return self._size(self.tp_key)

    @cached_property
    def pp(self) -> int | None:
        return self._size("policy.megatron_cfg.pipeline_model_parallel_size") if self.megatron else 1

    def _size(self, key: str) -> int | None:
        value = self.number(key)
        return value if value is not None and value > 0 else None

    # --- where it trains and generates ------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> int | None:
        return self._size("cluster.num_nodes")

    @cached_property
    def gpus(self) -> int | None:
        """GPUs of a node."""
        return self._size("cluster.gpus_per_node")

    @cached_property
    def colocated(self) -> bool:
        return self.get("policy.generation.colocated.enabled") is not False

    @cached_property
    def _gpus(self) -> World:
        return world.of_config(self.config)

    @property
    def reward_model(self) -> tuple[int, int]:
        """Nodes, and GPUs of a node, that a reward model takes for itself; (0, 0) without one."""
        return self._gpus.reward_model

    @property
    def policy_nodes(self) -> int | None:
        """Nodes that are left beside a reward model; None where teachers take some too: their number is not read."""
        return self._gpus.nodes

    @property
    def generating(self) -> int | None:
        """GPUs that generate; None when the config does not say."""
        return self._gpus.generating

    @cached_property
    def architecture(self) -> Architecture | None:
        """The model's; None where nothing is known of it."""
        try:
            return architecture.from_facts(self.model)
        except UserError:
            return None

    @cached_property
    def case(self) -> Case | None:
        """What the rules of layouts judge; None where no backend trains, or a size is not a number (other rules)."""
        backend = layouts.backend_of(self.config)
        if backend is None or not layouts.is_counted(self.config, backend):
            return None
        shape = case.shape_of(self.config, self.facts.environ)
        return Case(layouts.of_config(self.config), self.architecture, shape)

    # --- batches ----------------------------------------------------------------------------------------------------

    @cached_property
    def prompts(self) -> int | None:
        return self._size("grpo.num_prompts_per_step")

    @cached_property
    def generations(self) -> int | None:
        return self._size("grpo.num_generations_per_prompt")

    @cached_property
    def rollout(self) -> int | None:
        """Sequences of one step: prompts times generations."""
        return product(self.prompts, self.generations)

    @cached_property
    def gbs(self) -> int | None:
        return self._size("policy.train_global_batch_size")

    @cached_property
    def packing(self) -> bool:
        return self.on("policy.sequence_packing.enabled")

    @cached_property
    def dynamic(self) -> bool:
        return self.on("policy.dynamic_batching.enabled")

    @cached_property
    def async_engine(self) -> bool:
        """Whether the generation backend in use runs asynchronously; vLLM always does for NeMo Gym."""
        section = self.engine_section
        return (self.gym and section == "vllm_cfg") or self.on(f"policy.generation.{section}.async_engine")

    @cached_property
    def engine_section(self) -> str:
        """The generation backend's own section of policy.generation."""
        backend = self.get("policy.generation.backend", "vllm")
        return "mcore_generation_config" if backend == "megatron" else f"{backend}_cfg"

    @cached_property
    def always_async(self) -> bool:
        """From v0.8 on "Megatron Inference always uses its async engine" (grpo.py, async_grpo_train), colocated too; so
        does Dynamo, which is newer than v0.7.0."""
        return self.version >= (0, 8, 0) and self.get("policy.generation.backend") in ("megatron", "dynamo")

    @property
    def may_be_colocated_async(self) -> bool:
        """Whether async GRPO may generate on the training GPUs: "only [...] for the Megatron generation backend"."""
        return self.always_async and self.engine_section != "dynamo_cfg"

    @cached_property
    def vtp(self) -> int | None:
        return self._size("policy.generation.vllm_cfg.tensor_parallel_size")

    @cached_property
    def vpp(self) -> int | None:
        return self._size("policy.generation.vllm_cfg.pipeline_parallel_size")

    @cached_property
    def validates(self) -> bool:
        period = self.get("grpo.val_period")
        return bool(type(period) is int and period > 0) or self.on("grpo.val_at_start") or self.on("grpo.val_at_end")
