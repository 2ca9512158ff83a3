"""python -m nano_exp.engines.embedded --config nemo_rl.yaml --metrics metrics.jsonl

Exit codes: 0 the last step is done, or the run was stopped by its deadline or a signal and can go on; 1 training
failed; 2 the config or the place is refused.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError


class Signals:
    """Remembers the first SIGTERM or SIGINT; the run ends at its next safe point. Installed before slow imports."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self.received = self.received or number

    def __call__(self) -> bool:
        return self.received is not None


def read(path: Path) -> dict[str, Any]:
    """The YAML at `path`.

    Raises
    ------
    UserError: it cannot be read, or is no mapping
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: {error}", "the engine reads its settings from it", "a YAML file") from error
    if not isinstance(content, dict):
        raise UserError(
            f"--config {path} holds no mapping", "the engine reads NeMo RL's sections from it", "a YAML map"
        )
    return content


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nano_exp.engines.embedded", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="NeMo RL's sections and `engine`, resolved YAML")
    parser.add_argument("--metrics", type=Path, required=True, help="the run's metrics.jsonl")
    parsed = parser.parse_args(arguments)
    stopping = Signals()
    try:
        from nano_exp.engines import embedded
        from nano_exp.engines.embedded import settings

        config = read(parsed.config)
        embedded.check(config)
        run_settings = settings.from_config(config)
        try:
            from transformers.utils import logging

            from nano_exp.engines.embedded import train
        except ImportError as error:
            raise UserError(
                f"cannot import {error.name}",
                "the embedded engine trains with torch and transformers, which the base install leaves out",
                "pip install torch==2.13.0 && pip install 'nano-exp[embedded]'",
            ) from error
        logging.set_verbosity_error()
        train.Run(run_settings, parsed.metrics, stopping).execute()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        refused = UserError(
            f"{error.strerror or error}{where}",
            "the run's files cannot be read or written",
            "free space or fix the permissions, then type the same command: it goes on from the last checkpoint",
            code=1,
        )
        print(refused, file=sys.stderr, flush=True)
        return refused.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
