"""Convert a model of the hub to Megatron's format with NeMo RL's own function, as its first run would.

Started in the environment of NeMo RL's Megatron worker, a process a GPU; it imports nothing of nano-exp:

    python -m torch.distributed.run --nproc-per-node 8 to_megatron.py MODEL FOLDER MEGATRON_CFG MODEL_OVERRIDES

The last two are JSON: policy.megatron_cfg, or null for one GPU, and policy.hf_config_overrides.
"""

from __future__ import annotations

import json
import sys


def main(model: str, folder: str, megatron_cfg: str, overrides: str) -> None:
    """What models/megatron/setup.py handle_model_import does."""
    from nemo_rl.models.megatron.community_import import import_model_from_hf_name

    import_model_from_hf_name(model, folder, json.loads(megatron_cfg), **(json.loads(overrides) or {}))


if __name__ == "__main__":
    main(*sys.argv[1:])
