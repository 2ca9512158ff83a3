"""NeMo RL's recipes and types, read from a checkout's files; nothing of NeMo RL is imported or run."""
