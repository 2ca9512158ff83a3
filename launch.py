"""Compose, freeze, check and dispatch GRPO runs of Nemotron Nano models.

python launch.py                                   a tiny model learns tool calls on this CPU
python launch.py model=nano_9b cluster=1n8g        one frozen run to Slurm
python launch.py -m model=nano_9b cluster=1n8g optimizer.lr=1e-6,5e-6
python launch.py ... dry_run=true                  show the batch script, the plan, its cost and start
"""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C while modules load needs no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import hydra
from omegaconf import DictConfig

from nano_exp import app
from nano_exp.launch import hydra_plugins


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    # Every launch, single ones too, goes through nano_exp.launch.hydra_plugins; Hydra calls this where that is not so.
    raise hydra_plugins.not_our_path()


if __name__ == "__main__":
    sys.exit(app.run(main))
