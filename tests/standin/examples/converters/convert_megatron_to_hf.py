"""A stand-in for NeMo RL's converter: the same options, and one tensor in Hugging Face's form."""

import argparse
import json
import struct
from pathlib import Path

parser = argparse.ArgumentParser()
for option in ("--config", "--megatron-ckpt-path", "--hf-ckpt-path"):
    parser.add_argument(option, type=Path, required=True)
arguments = parser.parse_args()
arguments.hf_ckpt_path.mkdir()  # NeMo RL's refuses a folder that is there
header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
(arguments.hf_ckpt_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\1" * 4)
(arguments.hf_ckpt_path / "config.json").write_text("{}")
print(f"Saved HF checkpoint to: {arguments.hf_ckpt_path}")
