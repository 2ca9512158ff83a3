"""model add: a model of the user's own, from its config.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    model = commands.add_parser(
        "model",
        epilog="nano-exp model add /models/my-nano-9b",
        help="add a model of your own, from its Hugging Face config.json",
        description="A model is one file in conf/model: its sizes, its weights, and whose recipes it starts from.",
    )
    which = model.add_subparsers(dest="action", required=True, metavar="ACTION")
    adds = which.add_parser("add", help="write conf/model/NAME.yaml from a config.json")
    adds.add_argument("path", type=Path, metavar="PATH", help="a config.json, or the folder that has one")
    adds.add_argument("--name", help="what it is called: model=NAME (default: from the folder's name)")
    adds.add_argument("--weights", help="its name on the hub, or the folder of its weights (default: PATH's)")
    adds.add_argument(
        "--like", metavar="MODEL", help="whose published recipes and data it starts from (default: the nearest in size)"
    )
    adds.set_defaults(run=_add)


def _add(arguments: argparse.Namespace) -> int:
    from nano_exp.compose.conf_tree import CONF_DIR
    from nano_exp.layout import parameters
    from nano_exp.layout.architecture import KINDS
    from nano_exp.recipes import add_model

    added = add_model.read(arguments.path.expanduser(), CONF_DIR, arguments.name, arguments.weights, arguments.like)
    layers = ", ".join(f"{n} {words}" for kind, words in KINDS.items() if (n := added.architecture.count(kind)))
    print(f"{add_model.write(added, CONF_DIR)}: {parameters.total(added.architecture).total:,} parameters ({layers})")
    print(f"it starts from the recipes and the data of model={added.source} ({add_model.SOURCE_KEY} in that file)")
    print(f"\nnext: nano-exp check model={added.name} cluster=1n8g")
    return 0
