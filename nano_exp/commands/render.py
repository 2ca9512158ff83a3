"""render: the YAML that NeMo RL would get."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    render = commands.add_parser(
        "render",
        epilog="nano-exp render model=nano_9b cluster=1n8g > grpo.yaml",
        help="the YAML that NeMo RL would get, on stdout and nothing else",
    )
    render.add_argument("overrides", nargs="*", help="as for launch.py: model=nano_9b cluster=1n8g ...")
    render.set_defaults(run=_render)


def _render(given: argparse.Namespace) -> int:
    from nano_exp import compose, files, freeze, identity

    with compose.loader() as config_loader:
        point = compose.compose_points(config_loader, [given.overrides])[0]
    frozen = freeze.freeze(point, Path.cwd())
    config = freeze.place(frozen, identity.run_id(frozen.digest))
    sys.stdout.write(files.dump_yaml(freeze.engine_config(config)))
    return 0
