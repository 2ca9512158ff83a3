"""The other side of the bench: hydra-submitit-launcher and Hydra's basic sweeper over the same conf tree."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from nano_exp.compose import resolvers

CONF = Path(__file__).resolve().parents[2] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    """What a job would run; the bench's jobs are held and never start."""


if __name__ == "__main__":
    resolvers.register(cached=False)
    main()
