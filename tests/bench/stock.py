"""The other side of the bench: hydra-submitit-launcher and Hydra's basic sweeper over the same conf tree."""

import os
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from nano_exp.compose import resolvers

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    """What a job runs: it says when it was called, and with how much CPU time until then (tests/bench/job_start.py)."""
    if stamp := os.environ.get("BENCH_CALLED"):
        Path(stamp).write_text(f"{time.time()} {sum(os.times()[:4])}")


if __name__ == "__main__":
    resolvers.register(cached=False)
    main()
