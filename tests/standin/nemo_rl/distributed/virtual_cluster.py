"""A stand-in for NeMo RL's module: the one number that a run beside others must have another one of (v0.7.0, 97)."""

DEFAULT_VLLM_PORT_RANGE_LOW = 20001
