"""The policy: transformers' Nemotron-H, made from policy.hf_config_overrides, and its log probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHForCausalLM, NemotronHMamba2Mixer

from nano_exp.engines.embedded.grpo import sampled_logprobs
from nano_exp.engines.embedded.settings import Sampling
from nano_exp.engines.embedded.task import Vocabulary
from nano_exp.errors import UserError


class Policy(NemotronHForCausalLM):
    """Nemotron-H that computes in policy.precision. The weights are float32 whatever it computes in.

    With bfloat16 the matrix products take bfloat16 copies of weights and activations (torch.autocast); norms, softmax
    and the residual stream stay float32, and so do gradients and the optimizer. That is NeMo RL's meaning of the key
    on its DTensor path: float32 master weights (nemo_rl/models/automodel/setup.py, v0.7.0).
    """

    precision: torch.dtype = torch.float32

    def casting(self) -> torch.autocast:
        """While it is entered, each weight is cast once and its copy kept: weights must not change inside."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.casting():
            return super().forward(*args, **kwargs)

    def new_cache(self, sequences: int) -> DynamicCache:
        """An empty cache for `sequences`. Mamba states are float32: summed up in bfloat16 they would drift."""
        cache = DynamicCache(config=self.config)
        if self.precision == torch.float32:
            return cache
        config = self.config
        shape = (sequences, config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size)
        for number, kind in enumerate(config.layers_block_type or ()):
            if kind == "linear_attention":
                cache.update_recurrent_state(torch.zeros(shape, device=self.device), number)
        return cache


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build(
    architecture: dict[str, Any],
    vocabulary: Vocabulary,
    seed: int,
    device: torch.device,
    precision: str = "float32",
    recompute: bool = False,
) -> Policy:
    """A model with random weights, drawn on the CPU so that they are the same for the same seed on any device.

    Parameters
    ----------
    architecture: policy.hf_config_overrides; transformers' own defaults are those of no released model
    precision: policy.precision
    recompute: policy.dtensor_cfg.activation_checkpointing; a layer keeps its input and is computed again in backward

    Raises
    ------
    UserError: transformers refuses the values
    """
    torch.manual_seed(seed)
    special: dict[str, Any] = {
        "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.end,
    }
    try:
        config = NemotronHConfig(**architecture, **special)
        model = Policy(config)
    except (ValueError, RuntimeError, ZeroDivisionError, TypeError, KeyError) as error:
        raise UserError(
            f"policy.hf_config_overrides={architecture}",
            f"transformers cannot make a Nemotron-H model of it: {error}",
            "start from the values that `nano-exp render` prints",
        ) from error
    for module in model.modules():
        if isinstance(module, NemotronHMamba2Mixer):
            # The whole-sequence scan would clamp the time step to time_step_min where the one-token step does not, and
            # the two would disagree on the log probability of the same token.
            module.time_step_limit = (0.0, float("inf"))
    torch.nn.Module.to(model, device)
    model.precision = PRECISIONS[precision]
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def response_logits(model: Policy, tokens: Tensor, mask: Tensor, prompt_length: int) -> Tensor:
    """Logits [B, R, vocabulary] that predict the response tokens tokens[:, prompt_length:].

    Parameters
    ----------
    tokens: [B, prompt_length + R], prompts padded on the left, responses on the right
    mask: the same shape, 1 where a token is real
    """
    output = model(
        input_ids=tokens[:, :-1],
        attention_mask=mask[:, :-1],
        use_cache=False,
        logits_to_keep=tokens.shape[1] - prompt_length,
    )
    return output.logits


@torch.no_grad()
def batched_logprobs(
    model: Policy, tokens: Tensor, mask: Tensor, prompt_length: int, sampling: Sampling, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Log probabilities [B, R] of the responses, filtered and unfiltered, `batch_size` sequences at a time."""
    filtered, plain = [], []
    with model.casting():
        for start in range(0, tokens.shape[0], batch_size):
            rows = slice(start, start + batch_size)
            # The logits have no name here, so that they are gone when the next batch's are made.
            sampled, all_tokens = sampled_logprobs(
                response_logits(model, tokens[rows], mask[rows], prompt_length), tokens[rows, prompt_length:], sampling
            )
            filtered.append(sampled)
            plain.append(all_tokens)
    return torch.cat(filtered), torch.cat(plain)


def choose_device(name: str) -> torch.device:
    """The torch device for engine.device.

    Raises
    ------
    UserError: cuda was asked for and is not there
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "engine.device=cuda",
            f"torch {torch.__version__} sees no CUDA device on this machine",
            "engine.device=cpu, or engine.device=auto to use a GPU only where there is one",
        )
    return torch.device(name)
