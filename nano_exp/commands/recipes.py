"""recipes: read a NeMo RL checkout into conf/nemo_rl, and compare versions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from nano_exp.commands import Commands
from nano_exp.errors import UserError, nearest


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    recipes = commands.add_parser(
        "recipes",
        epilog="nano-exp recipes list",
        help="list the published recipes, read those of a NeMo RL checkout, compare versions",
        description="NeMo RL versions: their recipes and known keys, in conf/nemo_rl, are written from a checkout.",
    )
    which = recipes.add_subparsers(dest="action", required=True, metavar="ACTION")

    lists = which.add_parser("list", help="what can be launched as published, and the versions that have it")
    lists.add_argument("--json", action="store_true", help="the same for scripts")
    lists.set_defaults(run=_list)

    imports = which.add_parser(
        "import",
        help="read a NeMo RL checkout: show what changed against the version before, and with --write keep it",
        description="Reads recipes, defaults and types from the files of a NeMo RL checkout (nothing of it is run), "
        "composes every published recipe and compares it with upstream's values key by key.",
    )
    imports.add_argument("checkout", type=Path, metavar="CHECKOUT", help="folder of a NeMo RL checkout")
    imports.add_argument("--write", action="store_true", help="write conf/nemo_rl/<version>; without it, only show")
    imports.add_argument(
        "--as", dest="name", metavar="NAME", help="the option's name for a commit that is not a release: nemo_rl=NAME"
    )
    imports.add_argument("--json", action="store_true", help="the differences for scripts")
    imports.set_defaults(run=_import)

    diff = which.add_parser("diff", help="what differs between two versions: recipes' values, known keys, types")
    diff.add_argument("old", metavar="OLD", help="as in nemo_rl=...: v0_6")
    diff.add_argument("new", metavar="NEW", help="as in nemo_rl=...: v0_7")
    diff.add_argument("--json", action="store_true", help="the same for scripts")
    diff.set_defaults(run=_diff)


def _list(arguments: argparse.Namespace) -> int:
    from nano_exp import project, text
    from nano_exp.compose import conf_tree
    from nano_exp.recipes import listing

    published = listing.listed(conf_tree.CONF_DIR)
    if arguments.json:
        print(json.dumps([vars(recipe) for recipe in published], indent=1))
        return 0
    rows = [(recipe.words, " ".join(recipe.versions), recipe.file) for recipe in published]
    print(text.table((f"{project.launcher()} ...", "nemo_rl=", "NeMo RL's file"), rows, indent=""))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from nano_exp.compose import conf_tree
    from nano_exp.recipes import compare, importer

    conf = conf_tree.CONF_DIR
    checkout = arguments.checkout.expanduser().resolve()
    if not checkout.is_dir():
        raise UserError(
            f"{arguments.checkout} is not a folder",
            "the recipes are read from a NeMo RL checkout",
            "nano-exp recipes import /path/to/NeMo-RL",
        )
    print(f"reading {checkout} (about a minute: every recipe is merged with its parents)", file=sys.stderr)
    imported = importer.read(checkout, arguments.name, conf)
    importer.refuse_another_commit(imported, conf)
    with importer.tree(imported, conf) as copy:
        new = compare.side(copy, imported.option)
        wrong = importer.not_upstreams(imported, new.recipes)
        before = importer.before(imported, conf)
        comparison = compare.compare(compare.side(conf, before), new) if before else None
    if wrong:
        raise UserError(
            "what would compose is not what this checkout says:\n  " + "\n  ".join(wrong),
            "a recipe here equals upstream's key by key, except for what nano_exp/nemo_rl/table.yaml declares",
            "declare in that table which group such a key belongs to (data_keys, additions), then import again",
        )
    if comparison:
        print(compare.as_json(comparison) if arguments.json else compare.as_text(comparison))
    say = sys.stderr if arguments.json else sys.stdout
    equal = f"{len(imported.recipes)} recipes equal upstream's of {imported.version}"
    changed = len(importer.new_texts(imported, conf))
    if arguments.write:
        importer.write(imported, conf)
        print(f"\n{equal}; {changed} files written to {conf}/nemo_rl. Use it with nemo_rl={imported.option}", file=say)
    else:
        print(f"\n{equal}; --write would write {changed} files of {conf}/nemo_rl", file=say)
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from nano_exp.compose import conf_tree
    from nano_exp.nemo_rl import versions
    from nano_exp.recipes import compare

    conf = conf_tree.CONF_DIR
    there = versions.options(conf / "nemo_rl")
    for name in (arguments.old, arguments.new):
        if name not in there:
            near = nearest(name, there)
            raise UserError(
                f"no version {name} in {conf}/nemo_rl" + (f" (nearest: {near[0]})" if near else ""),
                f"it has: {', '.join(there)}",
                "name two of these, or import it first: nano-exp recipes import /path/to/NeMo-RL --write",
            )
    comparison = compare.compare(compare.side(conf, arguments.old), compare.side(conf, arguments.new))
    print(compare.as_json(comparison) if arguments.json else compare.as_text(comparison))
    return 0
