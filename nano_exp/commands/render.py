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


def _render(arguments: argparse.Namespace) -> int:
    from nano_exp import files
    from nano_exp.advice import mistakes
    from nano_exp.compose import conf_tree, freeze
    from nano_exp.planner import auto
    from nano_exp.store import identity, run_config

    with conf_tree.loader() as config_loader, mistakes.explained(config_loader):
        point = auto.compose_point(config_loader, arguments.overrides)
    frozen = freeze.freeze(point, Path.cwd())
    config = freeze.place(frozen, identity.run_id(frozen.digest))
    sys.stdout.write(files.dump_yaml(run_config.engine_config(config)))
    return 0
