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

from nano_exp import app


def main() -> None:
    import hydra  # here: a launch whose composition is kept does without it
    from omegaconf import DictConfig

    @hydra.main(version_base="1.3", config_path="conf", config_name="config")
    def composed(cfg: DictConfig) -> None:
        # Launches go through nano_exp.launch.hydra_plugins; Hydra calls this where one does not.
        raise app.not_our_path()

    composed()


if __name__ == "__main__":
    sys.exit(app.run(main))
