"""study: the rungs of a sweep by successive halving, who went on, and what it saved."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands, folder, of_runs


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    study = commands.add_parser(
        "study",
        epilog="nano-exp study lr",
        parents=[results],
        help="a sweep with halving.rungs: which points reached each rung, which went on, what it saved",
    )
    of_runs(study.add_argument("name", metavar="NAME", help="of the sweep"))
    study.add_argument("--json", action="store_true", help="the same for scripts")
    study.set_defaults(run=_study)


def _study(given: argparse.Namespace) -> int:
    from nano_exp.results import load_results, study_tree

    tree = study_tree.look(load_results(folder(given), [given.name], accounting=False), given.name)
    print(study_tree.as_json(tree) if given.json else study_tree.words(tree))
    return 0
