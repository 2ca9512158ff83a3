"""nano-exp: GRPO experiments of Nemotron Nano models with NeMo RL on Slurm."""

__version__ = "0.1.0"
