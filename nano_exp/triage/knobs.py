"""A frozen config, asked by dotted keys, and overrides that Hydra takes for it."""

from __future__ import annotations

import json
from typing import Any

from nano_exp.dotted import Config


class Knobs(Config):
    """What remedies read of a config, which may be empty or of another version."""

    def logs(self) -> str:
        """The command that shows what the engine said, behind a colon; nothing for a job without a run."""
        name, run = self.get("run.name"), self.get("run.id")
        return f": `nano-exp logs {name}/{run} --stream err`" if name and run else ""  # an id may be in two names

    def set(self, key: str, value: Any) -> str:
        """`key=value`, or `++key=value` for a key that this config does not have."""
        text = value if isinstance(value, str) else json.dumps(value)
        return f"{'++' if self.values and not self.has(key) else ''}{key}={text}"

    def env(self, name: str, value: str) -> str:
        """An environment variable of the engine."""
        return f"'++site.env.{name}={value}'"

    def prepare(self, step: str) -> str:
        """The command that makes one thing ahead, for a model and a shape of ours; empty for another config."""
        model, site = self.get("model.name"), self.get("site.name")
        if not model or not site:
            return ""
        words = [f"model={model}", f"cluster={1 if self.nodes == 1 else 2}n8g", f"site={site}"]
        if (name := self.get("policy.model_name")) != self.get("model.hf_id"):
            words.append(f"policy.model_name={name}")
        return f"`nano-exp prepare {' '.join(words)} --only {step}`"

    @property
    def backend(self) -> str:
        """The section of what trains: megatron_cfg, dtensor_cfg or ""."""
        for name in ("megatron_cfg", "dtensor_cfg"):
            if self.get(f"policy.{name}.enabled") is True:
                return name
        return ""

    @property
    def tensor_parallel_key(self) -> str:
        names = {"megatron_cfg": "tensor_model_parallel_size", "dtensor_cfg": "tensor_parallel_size"}
        return f"policy.{self.backend}.{names[self.backend]}" if self.backend else ""

    @property
    def tensor_parallel(self) -> int:
        return max(self.whole(self.tensor_parallel_key) or 1, 1) if self.backend else 1

    @property
    def other_parallel(self) -> int:
        """Pipeline times context parallelism of what trains."""
        keys = {
            "megatron_cfg": ("pipeline_model_parallel_size", "context_parallel_size"),
            "dtensor_cfg": ("context_parallel_size",),
        }
        size = 1
        for key in keys.get(self.backend, ()):
            size *= max(self.whole(f"policy.{self.backend}.{key}") or 1, 1)
        return size

    @property
    def nodes(self) -> int:
        return max(self.whole("cluster.num_nodes") or 1, 1)

    @property
    def gpus_per_node(self) -> int:
        return max(self.whole("cluster.gpus_per_node") or 8, 1)

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node
