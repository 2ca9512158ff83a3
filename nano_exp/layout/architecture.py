"""A model's architecture: from the facts in conf/model, or from a Hugging Face config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError

#: Layer letters, as NVIDIA writes them: one residual block each, with its own norm.
MAMBA, ATTENTION, MLP, MOE = "M", "*", "-", "E"
KINDS = {MAMBA: "Mamba-2", ATTENTION: "attention", MLP: "MLP", MOE: "mixture of experts"}
#: model_type of dense transformers: each of their layers is an attention block and a gated MLP block.
DENSE = ("llama", "mistral", "qwen2", "qwen3")
SUPPORTED = ("nemotron_h", *DENSE)
#: transformers' names of the blocks in layers_block_type, now and before 5.24.
_BLOCKS = {
    "mamba": MAMBA,
    "linear_attention": MAMBA,
    "attention": ATTENTION,
    "full_attention": ATTENTION,
    "mlp": MLP,
    "moe": MOE,
}


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder-only model; widths are elements, not bytes.

    Parameters
    ----------
    layers: one letter for each block (KINDS)
    gated: the MLP has a gate projection (SwiGLU) and so three matrices instead of two
    qkv_bias, out_bias: biases of the attention projections
    shared_width: width of the shared expert of every MoE layer; 0: none
    chunk: chunk length of the Mamba-2 scan, tokens
    """

    name: str
    layers: str
    hidden: int
    vocab: int
    tied: bool
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    intermediate: int = 0
    gated: bool = False
    mlp_bias: bool = False
    mamba_heads: int = 0
    mamba_head_dim: int = 0
    groups: int = 1
    state: int = 0
    conv_kernel: int = 4
    conv_bias: bool = True
    mamba_bias: bool = False
    chunk: int = 128
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0

    @property
    def hybrid(self) -> bool:
        """Megatron builds it with its hybrid stack (mamba_block.py), not with its transformer block."""
        return MAMBA in self.layers

    @property
    def blocks_per_layer(self) -> int:
        """Blocks of what Megatron counts as a layer: a transformer's layer is attention and an MLP."""
        return 1 if self.hybrid else 2

    @property
    def depth(self) -> int:
        """Layers as Megatron counts them."""
        return len(self.layers) // self.blocks_per_layer

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def d_inner(self) -> int:
        return self.mamba_heads * self.mamba_head_dim

    @property
    def group_width(self) -> int:
        """G of docs/planner.md: groups x state size, the width of B and of C."""
        return self.groups * self.state

    def count(self, kind: str) -> int:
        """Blocks of a kind."""
        return self.layers.count(kind)


def from_facts(facts: Mapping[str, Any]) -> Architecture:
    """The `model` section of a config (conf/model/*.yaml), whose keys are Hugging Face's.

    Raises
    ------
    UserError: it has no architecture, or a damaged one
    """
    name = str(facts.get("name") or "model")
    if not facts.get("model_type"):
        raise UserError(
            f"model {name} has no architecture facts",
            "the planner counts parameters from layer pattern and widths (model_type, hidden_size, ...)",
            "a model= that has facts (model=nano_9b), or --config /path/to/config.json of the model",
        )
    return parse(facts, name, f"conf/model/{name}.yaml")


def from_file(path: Path) -> Architecture:
    """A Hugging Face config.json, or the folder that holds one.

    Raises
    ------
    UserError: no such file, not JSON, or an architecture that is not planned for
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {file}: {error.strerror}",
            "the config.json of a model is read, or the one in the folder that is named",
            "the path of a model's config.json, or of its folder",
        ) from error
    except ValueError as error:
        raise UserError(
            f"{file} is not JSON: {error}", "it is damaged", "download the model's config.json again"
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{file} holds a {type(values).__name__}, not an object",
            "a model's config.json is one object with model_type and sizes",
            "the path of a model's config.json, or of its folder",
        )
    return parse(values, file.parent.name or "model", str(file))


def parse(values: Mapping[str, Any], name: str, where: str) -> Architecture:
    """An architecture from Hugging Face's keys.

    Parameters
    ----------
    where: the file, for messages

    Raises
    ------
    UserError: an unsupported model_type, a missing key, a value of the wrong type
    """
    kind = values.get("model_type")
    if kind not in SUPPORTED:
        raise UserError(
            f"model_type={kind!r} in {where}",
            f"parameters and memory are known for {', '.join(SUPPORTED)} only",
            "one of those models, or add its blocks to nano_exp/layout/parameters.py",
        )
    reader = _Reader(values, where)
    return _nemotron_h(reader, name) if kind == "nemotron_h" else _dense(reader, name, str(kind))


class _Reader:
    """Keys of a config.json, each checked."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def size(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.bad(key, f"it must be a whole number from {least}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(key, "it must be true or false")
        return value

    def bad(self, key: str, why: str) -> UserError:
        entry = f"{key}={self.values[key]!r}" if key in self.values else f"no {key}"
        return UserError(f"{entry} in {self.where}", why, f"the published config.json of the model, whole: {key} in it")


def _layers(reader: _Reader) -> str:
    pattern, blocks = reader.values.get("hybrid_override_pattern"), reader.values.get("layers_block_type")
    if pattern is None and isinstance(blocks, list) and blocks and set(map(str, blocks)) <= set(_BLOCKS):
        return "".join(_BLOCKS[str(block)] for block in blocks)
    if not isinstance(pattern, str) or not pattern or not set(pattern) <= set(KINDS):
        key = "layers_block_type" if pattern is None and blocks is not None else "hybrid_override_pattern"
        raise reader.bad(key, "it must name every layer: " + ", ".join(f"{k} {v}" for k, v in KINDS.items()))
    declared = reader.values.get("num_hidden_layers")
    if declared is not None and declared != len(pattern):
        raise reader.bad("num_hidden_layers", f"hybrid_override_pattern has {len(pattern)} layers")
    return pattern


def _nemotron_h(reader: _Reader, name: str) -> Architecture:
    """Keys as transformers' NemotronHConfig has them (5.24)."""
    layers = _layers(reader)
    if reader.values.get("moe_latent_size") is not None:
        raise reader.bad("moe_latent_size", "experts in a latent space are not planned for")
    moe = MOE in layers
    return Architecture(
        name=name,
        layers=layers,
        hidden=reader.size("hidden_size"),
        vocab=reader.size("vocab_size"),
        tied=reader.flag("tie_word_embeddings"),
        heads=reader.size("num_attention_heads"),
        kv_heads=reader.size("num_key_value_heads"),
        head_dim=reader.size("head_dim", 128),
        intermediate=reader.size("intermediate_size") if MLP in layers else 0,
        mlp_bias=reader.flag("mlp_bias"),
        mamba_heads=reader.size("mamba_num_heads"),
        mamba_head_dim=reader.size("mamba_head_dim"),
        groups=reader.size("n_groups"),
        state=reader.size("ssm_state_size"),
        conv_kernel=reader.size("conv_kernel"),
        conv_bias=reader.flag("use_conv_bias", True),
        mamba_bias=reader.flag("use_bias", reader.flag("mamba_proj_bias")),
        chunk=reader.size("chunk_size", 128),
        experts=reader.size("n_routed_experts") if moe else 0,
        experts_per_token=reader.size("num_experts_per_tok") if moe else 0,
        expert_width=reader.size("moe_intermediate_size") if moe else 0,
        # transformers gives every MoE layer one shared MLP of this width, whatever n_shared_experts says.
        shared_width=reader.size("moe_shared_expert_intermediate_size") if moe else 0,
    )


def _dense(reader: _Reader, name: str, kind: str) -> Architecture:
    heads, hidden = reader.size("num_attention_heads"), reader.size("hidden_size")
    biased = kind == "qwen2" or (kind in ("llama", "qwen3") and reader.flag("attention_bias"))
    return Architecture(
        name=name,
        layers=(ATTENTION + MLP) * reader.size("num_hidden_layers"),
        hidden=hidden,
        vocab=reader.size("vocab_size"),
        tied=reader.flag("tie_word_embeddings"),
        heads=heads,
        kv_heads=reader.size("num_key_value_heads", heads),
        head_dim=reader.size("head_dim", 128 if kind == "qwen3" else hidden // heads),
        qkv_bias=biased,
        out_bias=biased and kind != "qwen2",
        qk_norm=kind == "qwen3",
        intermediate=reader.size("intermediate_size"),
        gated=True,
        mlp_bias=kind == "llama" and reader.flag("mlp_bias"),
    )
