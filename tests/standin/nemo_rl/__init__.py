"""Of the stand-in for NeMo RL: a package of the same name."""
