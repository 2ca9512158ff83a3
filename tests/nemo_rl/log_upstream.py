"""Log as grpo_train does, with a real NeMo RL's Logger, and die by SIGKILL: `python log_upstream.py CHECKOUT LOG_DIR`.

Prints where it logs, as NeMo RL's scripts do. Three steps with a validation before the first; the third has no timings.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time

import numpy
import torch
from stubs import find

CONFIG = {
    "wandb_enabled": False,
    "swanlab_enabled": False,
    "mlflow_enabled": False,
    "tensorboard_enabled": True,
    "tensorboard": {},
    "monitor_gpus": False,
}


def main() -> None:
    find(sys.argv[1])
    from nemo_rl.utils.logger import Logger, get_next_experiment_dir

    log_dir = get_next_experiment_dir(sys.argv[2])
    print(f"📊 Using log directory: {log_dir}", flush=True)
    logger = Logger({**CONFIG, "log_dir": log_dir})
    logger.log_hyperparams({"grpo": {"seed": 42, "max_val_samples": None, "steps": [1, 2]}, "name": "x"})
    logger.log_metrics({"total_setup_time_s": 1.25}, step=0, prefix="timing/setup")
    logger.log_metrics({"accuracy": numpy.float64(0.3)}, 0, prefix="validation")
    logger.log_metrics({"node.0.gpu.0.util": 7.0}, step=1234, prefix="ray", step_metric="ray/ray_step")
    for step in (1, 2, 3):
        logger.log_metrics({"mean_gen_tokens_per_sample": -1.0}, step, prefix="train")  # logged twice by some versions
        metrics = {
            "loss": torch.tensor(1e-7 * step),
            "reward": numpy.float32(step / 3),
            "grad_norm": math.nan if step == 2 else math.inf,
            "global_valid_toks": 2**24 + step,
            "mean_gen_tokens_per_sample": 100 / 3,
            "baseline_reward/pct_mixed": 0.1,
            "a_list": [1.0, 2.0],  # no scalar: NeMo RL says so and leaves it out
        }
        logger.log_metrics(metrics, step, prefix="train")
        logger.log_metrics({"tokens_per_sec": 1e9 / 7}, step, prefix="performance")
        if step < 3:
            logger.log_metrics({"total_step_time": 2.1, "generation": 0.7}, step, prefix="timing/train")
    time.sleep(1)  # its writer is a thread
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
