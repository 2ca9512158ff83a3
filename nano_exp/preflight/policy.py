"""What NeMo RL's policy asks of a config (nemo_rl/models/policy/lm_policy.py)."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

MEGATRON = "policy.megatron_cfg.enabled"


@rule(15)
def arch_list(c: View) -> Iterator[Mistake]:
    """Megatron's kernels are compiled for the GPUs that TORCH_CUDA_ARCH_LIST names."""
    if c.megatron and not c.site_env.get("TORCH_CUDA_ARCH_LIST", "the engine's own"):
        yield Mistake(
            (MEGATRON,),
            "NeMo RL does not start Megatron without the variable; it is set unless the site takes it away",
            "leave site.env.TORCH_CUDA_ARCH_LIST out, or ++site.env.TORCH_CUDA_ARCH_LIST='9.0 10.0'",
            "site.env.TORCH_CUDA_ARCH_LIST is empty",
        )
