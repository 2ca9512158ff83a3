"""A small checkout in the shape of NeMo RL's, for the importer: a typed module, and recipes with parents."""

from __future__ import annotations

import textwrap
from pathlib import Path

FILES = {
    "nemo_rl/package_info.py": """
        MAJOR = {major}
        MINOR = {minor}
        PATCH = 0
        """,
    "nemo_rl/algorithms/grpo.py": """
        from __future__ import annotations

        import torch  # not installed where the importer runs
        from pydantic import BaseModel, Field
        from typing import TYPE_CHECKING, Any, Literal, NotRequired, Optional, TypedDict

        from nemo_rl.models.policy import PolicyConfig
        from ..utils.checkpoint import CheckpointingConfig as Saving

        if TYPE_CHECKING:
            from nemo_rl.data import DataConfig

        class RewardConfig(BaseModel, extra="allow"):
            enabled: bool = False
            weights: list[float] = Field(default_factory=list)
            mode: Literal["a", "b"] = "a"
            above: Optional["RewardConfig"] = None

        class GRPOConfig(TypedDict):
            num_prompts_per_step: int
            seed: int | None
            reward: NotRequired[RewardConfig]

        class MasterConfig(BaseModel, extra="allow"):
            policy: PolicyConfig
            grpo: GRPOConfig
            data: "DataConfig"
            env: dict[str, Any]
            checkpointing: Saving
            bytes: int = 2 * 1024**2
            model_config = {}
        """,
    "nemo_rl/utils/checkpoint.py": """
        from typing import Any, TypedDict, NotRequired

        class Base(TypedDict):
            enabled: bool

        class CheckpointingConfig(Base, total=False):
            peft: Any
        """,
    "nemo_rl/data/__init__.py": """
        from typing import NotRequired, TypedDict

        class One(TypedDict):
            name: NotRequired[str]

        class Other(TypedDict):
            path: str

        class DataConfig(TypedDict):
            train: One | Other | list[One]
        """,
    "nemo_rl/models/policy/__init__.py": """
        from typing import Literal, NotRequired, TypedDict
        from nemo_rl.models.generation.interfaces import GenerationConfig

        class Off(TypedDict):
            enabled: Literal[False]

        class On(TypedDict):
            enabled: Literal[True]
            size: int

        class PolicyConfig(TypedDict):
            model_name: str
            megatron_cfg: On | Off
            generation: NotRequired[GenerationConfig]
        """,
    "nemo_rl/models/generation/interfaces.py": """
        from typing import TypedDict

        class GenerationConfig(TypedDict):
            backend: str
        """,
    "nemo_rl/models/generation/vllm/config.py": """
        from typing import NotRequired, TypedDict
        from nemo_rl.models.generation.interfaces import GenerationConfig

        class VllmSpecificArgs(TypedDict):
            max_model_len: int

        class VllmConfig(GenerationConfig):
            vllm_cfg: VllmSpecificArgs
        """,
    "examples/run_grpo.py": "",
    "examples/configs/grpo_math_1B.yaml": """
        grpo: {num_prompts_per_step: 4, num_generations_per_prompt: 2, max_num_steps: 7, max_val_samples: 3,
               val_batch_size: 3, seed: 1}
        checkpointing: {checkpoint_dir: results/grpo, enabled: true, save_by: "00:03:40:00"}
        policy:
          model_name: a/model
          tokenizer: {name: "${policy.model_name}"}
          train_global_batch_size: 8
          max_total_sequence_length: 512
          megatron_cfg:
            enabled: false
            optimizer: {lr: 5.0e-6, min_lr: 5.0e-7, weight_decay: 0.01, adam_beta1: 0.9, adam_beta2: 0.999}
            scheduler: {lr_warmup_init: 5.0e-7}
          generation:
            backend: vllm
            max_new_tokens: ${policy.max_total_sequence_length}
            vllm_cfg: {max_model_len: "${policy.max_total_sequence_length}", async_engine: false}
        data: {train: {name: maths}, max_input_seq_length: "${policy.max_total_sequence_length}"}
        env: {math: {workers: "${div:${mul:4, ${cluster.num_nodes}}, 2}"}}
        logger: {log_dir: logs, wandb: {name: x, project: p}}
        cluster: {gpus_per_node: 1, num_nodes: 1}
        """,
    "examples/configs/recipes/llm/grpo-nano-v2-12b-1n8g-megatron.yaml": """
        defaults: ../../grpo_math_1B.yaml
        policy:
          model_name: nvidia/NVIDIA-Nemotron-Nano-12B-v2
          megatron_cfg: {enabled: true, size: 8}
          generation: {max_new_tokens: 512}
        cluster: {gpus_per_node: 8}
        """,
    "examples/configs/recipes/llm/grpo-nano-v2-12b-2n8g-fsdp2tp1.yaml": """
        defaults: ["../../grpo_math_1B.yaml"]
        policy:
          model_name: nvidia/NVIDIA-Nemotron-Nano-12B-v2
          train_global_batch_size: 16
          megatron_cfg:
            optimizer: {lr: 1.0e-6, min_lr: 1.0e-7}
            scheduler: {lr_warmup_init: 0.0}
        checkpointing:
          _override_: true
          enabled: false
        cluster: {gpus_per_node: 8, num_nodes: 2}
        """,
}


def make(folder: Path, version: str = "0.8", **changed: str) -> Path:
    """Write it; `changed` replaces whole files, by their names with _ for - and no folder or ending."""
    major, _, minor = version.partition(".")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = textwrap.dedent(changed.get(path.stem.replace("-", "_"), text)).lstrip("\n")
        path.write_text(text.replace("{major}", major).replace("{minor}", minor))
    return folder
