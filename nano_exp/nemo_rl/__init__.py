"""What is known of NeMo RL: its versions, keys, recipes and a checkout."""
